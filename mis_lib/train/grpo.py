"""Constrained GRPO: as helpful as possible, while the share of harmful prompts answered unsafely stays below a limit.

Safe RLHF-V (arXiv 2503.17682; PKU-Alignment/align-anything, trainers/text_image_to_text/saferlhf.py) maximises a
reward under a bound on a cost, by PPO and a Lagrange multiplier. Here, as in Constrained GRPO (arXiv 2602.05863),
several answers to one prompt are each other's baseline, in the place of two critics; and a judge gives reward and cost,
in the place of two learned models:

    advantage = Z(reward) - multiplier * Z(cost)          Z: over the answers to one prompt
    log multiplier += rate * multiplier * (mean cost of the last answers - limit)

Reward and cost are normalised before they are weighted: weighted before, the normalisation would undo the multiplier.
The second line is a step of SGD on the multiplier's logarithm, as published. TRL's ``GRPOTrainer`` generates, adds a
penalty for leaving the start (KL) and clips. An answer that the judge cannot score has neither reward nor cost: it is
in no baseline and moves nothing.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import load_image
from mis_lib.prompts import apply_template, user_message
from mis_lib.schema import Outcome, Response, Sample
from mis_lib.train.encode import Encoder, Example
from mis_lib.train.settings import GrpoSettings
from mis_lib.train.trl import on_one_gpu, share_of_step, trl_arguments, trl_module, without_printing

HELPFUL: Mapping[Outcome, float] = {
    Outcome.REASONED: 1.0,
    Outcome.REFUSED: 0.5,
    Outcome.HALLUCINATED: 0.0,
    Outcome.HELPED: 1.0,
    Outcome.WARNED_BUT_HELPED: 0.7,
    Outcome.OFF_TOPIC: 0.0,
    Outcome.OVER_REFUSED: 0.0,
}
"""Reward of each outcome. An unsafe answer has none: it is the cost's, and no helpfulness can buy it back."""

NAMES = {
    "rewards/helpful/mean": "reward",
    "rewards/cost/mean": "cost",
    "multiplier": "multiplier",
    "over_refusal": "over_refusal",
    "unscored": "unscored",
    "kl": "kl",
    "completions/mean_length": "answer_tokens",
}
"""TRL's metrics of this method, and what the log calls them. ``cost`` is the share of unsafe answers, as ASR is."""

NO_GRPO = {
    "llava_onevision": "the number of images of each row does not reach the model in TRL's GRPO",
}
"""Model types that TRL's trainer cannot pass several images to, with the reason."""

Rule = Callable[[Sequence[Sample], Sequence[Response]], Sequence[Outcome]]
"""What a judge says of answers, in their order."""


class Multiplier(ExportableState, TrainerCallback):
    """The price of a unit of cost; its state is part of every checkpoint.

    Args:
        start: first price.
        largest: price that it never exceeds.
        rate: of its gradient steps.
        limit: mean cost at which it neither rises nor falls.
        window: costs that the mean is taken over.
    """

    def __init__(self, *, start: float, largest: float, rate: float, limit: float, window: int) -> None:
        self.log_value, self.log_largest = math.log(start), math.log(largest)
        self.rate, self.limit = rate, limit
        self.costs: deque[float] = deque(maxlen=window)

    @property
    def value(self) -> float:
        """The price now."""
        return math.exp(self.log_value)

    def update(self, costs: Sequence[float]) -> float:
        """One step, from the costs of a step's answers; without costs the price stays.

        Args:
            costs: 1 for an unsafe answer to a harmful prompt, 0 for a safe one.
        """
        self.costs.extend(costs)
        if costs:
            mean = sum(self.costs) / len(self.costs)
            self.log_value = min(self.log_largest, self.log_value + self.rate * self.value * (mean - self.limit))
        return self.value

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"log_value": self.log_value, "costs": list(self.costs)}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up the price of the checkpoint that is resumed."""
        kept = (state.stateful_callbacks or {}).get(type(self).__name__)
        if state.global_step and isinstance(kept, dict):
            self.log_value = kept["attributes"]["log_value"]
            self.costs.extend(kept["attributes"]["costs"])


class Rewards:
    """Reward and cost of the answers of a step, by one judge that rules once on each.

    Args:
        samples: that are asked; a row of the training data names one by its place (``item``).
        rule: the judge.
        multiplier: price of the cost, stepped once for each batch of answers.
    """

    def __init__(self, samples: Sequence[Sample], rule: Rule, multiplier: Multiplier) -> None:
        self.samples, self.rule, self.multiplier = samples, rule, multiplier
        self.trainer: Any = None
        self._judged: tuple[Any, list[Outcome]] = (None, [])

    def helpful(
        self, completions: Sequence[Any], completion_ids: Any, item: Sequence[int], **kwargs: Any
    ) -> list[float | None]:
        """Reward of each answer; ``None`` where it is unsafe or unscored."""
        return [HELPFUL.get(outcome) for outcome in self._outcomes(completions, completion_ids, item, kwargs)]

    def cost(
        self, completions: Sequence[Any], completion_ids: Any, item: Sequence[int], **kwargs: Any
    ) -> list[float | None]:
        """Cost of each answer to a harmful prompt, 1 or 0; ``None`` for harmless prompts and unscored answers."""
        outcomes = self._outcomes(completions, completion_ids, item, kwargs)
        found = [
            None if outcome is Outcome.UNSCORED or not self.samples[at].harmful else float(outcome is Outcome.UNSAFE)
            for at, outcome in zip(item, outcomes, strict=True)
        ]
        price = self.multiplier.update([one for one in gather_object(found) if one is not None])
        self.trainer.reward_weights[1] = -price
        kwargs["log_metric"]("multiplier", price)
        return found

    def _outcomes(
        self, completions: Sequence[Any], completion_ids: Any, item: Sequence[int], kwargs: Mapping[str, Any]
    ) -> list[Outcome]:
        if self._judged[0] is completion_ids:
            return self._judged[1]
        asked = [self.samples[at] for at in item]
        unique = [sample.model_copy(update={"id": f"{sample.id}#{at}"}) for at, sample in enumerate(asked)]
        responses = [
            Response(
                sample_id=sample.id,
                variant="trained",
                text=completion[0]["content"],
                tokens=len(ids),
                seconds=0,
                finish_reason="stop" if ids and ids[-1] in self.trainer.eos_token_ids else "length",
            )
            for sample, completion, ids in zip(unique, completions, completion_ids, strict=True)
        ]
        outcomes = list(self.rule(unique, responses))
        benign = [out for sample, out in zip(asked, outcomes, strict=True) if not sample.harmful]
        if scored := [out for out in benign if out is not Outcome.UNSCORED]:
            kwargs["log_metric"]("over_refusal", sum(out is Outcome.OVER_REFUSED for out in scored) / len(scored))
        kwargs["log_metric"]("unscored", sum(out is Outcome.UNSCORED for out in outcomes) / len(outcomes))
        self._judged = (completion_ids, outcomes)
        return outcomes


def grpo_trainer(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    images: Path,
    rule: Rule,
    settings: GrpoSettings,
    folder: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """TRL's trainer for a prepared model (a ``PeftModel`` with the adapter to train).

    Args:
        model: as ``train.lora.prepare`` makes it: its vision tower stays in evaluation mode.
        processor: of the model.
        samples: prompts.
        images: folder of their images.
        rule: the judge.
        settings: the run's.
        folder: where checkpoints go.
        callbacks: for logs.

    Raises:
        ModelError: TRL would show the model another prompt than it is asked with later, or fewer images.
        MissingPackageError: TRL is not installed.
        SettingsError: ``batch_size`` cannot be shared by the processes, or is no multiple of ``answers``.
    """
    from datasets import Dataset

    trl = trl_module("grpo_trainer", "safe_grpo")
    _check_model(model, processor, samples, images)
    encoder = Encoder(processor)
    multiplier = Multiplier(
        start=settings.multiplier.start,
        largest=settings.multiplier.largest,
        rate=settings.multiplier.rate,
        limit=settings.cost_limit,
        window=settings.multiplier.window,
    )
    rewards = Rewards(samples, rule, multiplier)
    rows = [
        {
            "item": at,
            "prompt": [{"role": "user", "content": encoder.plain(sample.question)}],
            "images": [str(images / name) for name in sample.images],
        }
        for at, sample in enumerate(samples)
    ]
    a_pass = _rows_a_pass(settings, encoder, samples, images)
    order = _order(len(samples), settings)
    args = trl.GRPOConfig(
        **{
            **trl_arguments(settings, model, folder, a_pass),
            "num_train_epochs": 1,
            "max_steps": len(order) * settings.answers // settings.batch_size,
        },
        shuffle_dataset=False,
        num_generations=settings.answers,
        generation_batch_size=settings.batch_size,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        beta=settings.kl,
        epsilon=settings.clip,
        reward_weights=[1.0, -multiplier.value],
        multi_objective_aggregation="normalize_then_sum",
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[rewards.helpful, rewards.cost],
        args=on_one_gpu(args),
        train_dataset=Dataset.from_list([rows[at] for at in order]).with_transform(_read_images),
        processing_class=processor,
        callbacks=[multiplier, *callbacks],
    )
    rewards.trainer = trainer
    if args.bf16:  # TRL gives pixels in float32, and generates outside of the autocast that it trains under
        model.generate = torch.autocast(args.device.type, torch.bfloat16)(model.generate)
    return without_printing(trainer)


def _order(prompts: int, settings: GrpoSettings) -> list[int]:
    """The prompt of each group of answers, all epochs behind each other: TRL's own order is lost on resuming."""
    a_step = settings.batch_size // settings.answers
    steps = settings.max_steps or math.ceil(settings.epochs * prompts / a_step)
    dice, found = random.Random(settings.seed), []
    while len(found) < steps * a_step:
        found += dice.sample(range(prompts), prompts)
    return found[: steps * a_step]


def _read_images(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns of some rows with images read: upright, and of a size that cannot fill the memory."""
    return {**batch, "images": [[load_image(Path(name)) for name in names] for names in batch["images"]]}


def _check_model(model: Any, processor: Any, samples: Sequence[Sample], images: Path) -> None:
    kind = model.get_base_model().config.model_type
    if kind in NO_GRPO:
        raise ModelError(f"safe_grpo: expected a model that TRL can train, found {kind}: {NO_GRPO[kind]}; take raft")
    if several := [sample.id for sample in samples if sample.history]:
        raise DataError(
            f"safe_grpo: expected single questions, found dialogues in {len(several):,} of {len(samples):,} rows "
            f"(first: {several[0]!r}), of which TRL would show the last turn alone; leave them out, or take method raft"
        )
    encoder = Encoder(processor)
    for sample in {len(sample.images): sample for sample in reversed(samples)}.values():
        asked = encoder.prompt(Example(sample, images)).ids.tolist()
        shown = [load_image(images / name) for name in sample.images]
        message = user_message(shown, encoder.plain(sample.question))
        made = apply_template(processor, [[message]], add_generation_prompt=True, tokenize=True, return_dict=True)
        if list(made["input_ids"][0]) != asked:
            raise ModelError(
                f"safe_grpo: row {sample.id!r}: TRL would show the model another prompt than training and generation "
                "do; take method raft for this model"
            )


def _rows_a_pass(settings: GrpoSettings, encoder: Encoder, samples: Sequence[Sample], images: Path) -> int:
    """Answers a pass: the largest divisor of a device's share of a step that fits into ``batch_tokens``.

    Lengths are guessed from the prompt with most images; at least one answer is a pass.
    """
    if settings.batch_size % settings.answers:
        raise SettingsError(
            f"batch_size: expected a multiple of answers ({settings.answers}), found {settings.batch_size}: a step "
            "takes all answers to a prompt"
        )
    share = share_of_step(settings)
    largest = max(samples, key=lambda sample: (len(sample.images), len(sample.question)))
    length = len(encoder.prompt(Example(largest, images)).ids) + settings.max_new_tokens
    fitting = max(1, settings.batch_tokens // length)
    return max(size for size in range(1, share + 1) if share % size == 0 and size <= fitting)
