"""Unlearning of unsafe answers: NPO and RMU, each with rows whose answers are kept.

Safety Mirage (arXiv 2503.11832; OPTML-Group/VLM-Safety-MU, llava/train/llava_unlearn_trainer.py) unlearns what harm a
model knows in place of teaching it refusals, which get tied to words of the question. With forgotten answers (x, y) to
harmful rows and kept answers to harmless ones:

    NPO (arXiv 2404.05868)   2/beta * log(1 + (p(y|x) / p_start(y|x))^beta)        over forgotten answers
    RMU (arXiv 2403.03218)   |h(x, y) - steering * u|^2                            over tokens of forgotten answers
    both                     + retain_weight * cross-entropy                       over kept answers
                             + preserve * |z - z_start|^2                          over kept answers

h is the output of one decoder layer, u a random vector of length 1. z is what must not change: the logits at kept
answers (NPO; the output preservation of DUO, arXiv 2407.21035, here of a text model), or h at their tokens (RMU).
Squares are means over dimensions.

Differences from the authors' code: p is the probability of a whole answer, as in the paper of NPO, where they divide
the logarithm by the number of tokens; so their beta of 0.7 is not this one. Their further term of NPO on kept rows is
left out: it has no part in their scripts. They steer every token of a row, padding too; here it is the tokens before
each token of an answer, which have seen the images. The first token of a row is a sink of attention: on mini its hidden
state is so large that the mean over all tokens is about it alone. The start is the adapter's own, in place of a second
model. Each pass holds as many forgotten as kept rows; an epoch goes once through the forgotten ones.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

from mis_lib.errors import ModelError, SettingsError
from mis_lib.train.batches import Batch, collate
from mis_lib.train.dpo import rows_a_pass
from mis_lib.train.encode import IGNORED, Example
from mis_lib.train.lora import shorten
from mis_lib.train.model import Loaded
from mis_lib.train.packing import decoder_of
from mis_lib.train.run import make_encoder, plan_of, prepare_features, sizes_of
from mis_lib.train.settings import NpoSettings, RmuSettings, UnlearnSettings
from mis_lib.train.trainer import Steps, model_inputs
from mis_lib.train.trial import Layout, layout_of
from mis_lib.train.trl import on_one_gpu, trl_arguments, without_printing

NAMES = {"forget": "forget", "retain": "retain", "preserve": "preserve", "forgotten": "forgotten"}
"""Metrics of this method in the log: three parts of the loss without their weights, and how much less likely the
forgotten answers are than at the start (nats an answer; NPO only)."""


class Seen(NamedTuple):
    """What a forward pass says of a batch with N answer tokens."""

    logits: torch.Tensor
    """(N, V) of the position before each answer token."""
    hidden: torch.Tensor | None
    """(N, H) outputs of the steered layer at those positions."""


def npo(ratios: torch.Tensor, beta: float) -> torch.Tensor:
    """The mean loss of forgotten answers, ().

    Args:
        ratios: (B,) logarithm of each answer's probability less that at the start.
        beta: see ``NpoSettings``.
    """
    return 2 / beta * F.softplus(beta * ratios).mean()


def answer_log_probabilities(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The logarithm of each row's answer's probability, (B,).

    Args:
        logits: (N, V) of the position before each answer token.
        batch: with N answer tokens.
    """
    each, rows = _log_probabilities(logits, batch)
    return each.new_zeros(len(batch.rows)).index_add(0, rows, each)


def random_direction(size: int, seed: int) -> torch.Tensor:
    """A vector (size,) of length 1 with positive parts, as the authors draw it."""
    drawn = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()


class UnlearnTrainer(Trainer):
    """Transformers' trainer on passes of forgotten and kept rows.

    Args:
        model: prepared (``lora.prepare``); what is trained of it is the start.
        args: of transformers.
        passes: each row of the data: number of a forgotten and of a kept example.
        collator: makes a batch of several: first the forgotten rows, then as many kept ones.
        settings: the run's.
        network: the transformers model inside ``model``.
        cache: of image features.
        options: of ``Trainer``.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        passes: Sequence[tuple[int, int]],
        collator: Callable[[Sequence[tuple[int, int]]], list[Batch]],
        settings: NpoSettings | RmuSettings,
        network: Any,
        cache: Any = None,
        **options: Any,
    ) -> None:
        data: dict[str, Any] = {"train_dataset": list(passes), "data_collator": collator}
        super().__init__(model=model, args=args, **data, **options)
        self.settings, self.network, self.cache = settings, network, cache
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.start = [weight.detach().clone() for weight in self.trained]
        self.layer = steered_layer(network, settings.layer) if isinstance(settings, RmuSettings) else None
        self.metrics: dict[str, list[float]] = {}

    def compute_loss(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model: nn.Module, inputs: list[Batch], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """The loss of one pass, ()."""
        (batch,) = inputs
        with torch.no_grad(), self._at_start():
            before = self._see(model, batch)
        now = self._see(model, batch)
        parts = self._npo(now, before, batch) if self.layer is None else self._rmu(now, before, batch)
        each, rows = _log_probabilities(now.logits, batch)
        parts["retain"] = -each[rows >= len(batch.rows) // 2].mean()
        for name, value in parts.items():
            self.metrics.setdefault(name, []).append(float(value.detach()))
        return (
            parts["forget"] + self.settings.retain_weight * parts["retain"] + self.settings.preserve * parts["preserve"]
        )

    def _npo(self, now: Seen, before: Seen, batch: Batch) -> dict[str, torch.Tensor]:
        assert isinstance(self.settings, NpoSettings)
        half = len(batch.rows) // 2
        ratios = answer_log_probabilities(now.logits, batch) - answer_log_probabilities(before.logits, batch)
        kept = _rows_of_answers(batch) >= half
        return {
            "forget": npo(ratios[:half], self.settings.beta),
            "forgotten": -ratios[:half].mean(),
            "preserve": F.mse_loss(now.logits[kept].float(), before.logits[kept].float()),
        }

    def _rmu(self, now: Seen, before: Seen, batch: Batch) -> dict[str, torch.Tensor]:
        assert isinstance(self.settings, RmuSettings) and now.hidden is not None and before.hidden is not None
        kept = _rows_of_answers(batch) >= len(batch.rows) // 2
        hidden = now.hidden[~kept].float()
        target = self.settings.steering * random_direction(hidden.shape[-1], self.settings.seed).to(hidden)
        return {
            "forget": F.mse_loss(hidden, target.expand_as(hidden)),
            "preserve": F.mse_loss(now.hidden[kept].float(), before.hidden[kept].float()),
        }

    def _see(self, model: nn.Module, batch: Batch) -> Seen:
        hidden: list[torch.Tensor] = []

        def keep(layer: nn.Module, given: Any, output: Any) -> None:
            hidden.append(output[0] if isinstance(output, tuple) else output)

        hook = None if self.layer is None else self.layer.register_forward_hook(keep)
        try:
            with self.accelerator.autocast(), logits_at_answers(self.network, batch.labels):
                logits = model(**model_inputs(self.network, batch, self.cache), use_cache=False)["logits"]
        finally:
            if hook is not None:
                hook.remove()
        wanted = batch.labels[:, 1:] != IGNORED
        return Seen(logits[0], hidden[-1][:, :-1][wanted] if hidden else None)

    @contextmanager
    def _at_start(self) -> Iterator[None]:
        """While the block lasts, the trained weights are those of the start, and nothing is dropped out."""
        model: Any = self.model
        now, training = [weight.detach().clone() for weight in self.trained], model.training
        model.eval()
        try:
            for weight, first in zip(self.trained, self.start, strict=True):
                weight.data.copy_(first)
            yield
        finally:
            for weight, last in zip(self.trained, now, strict=True):
                weight.data.copy_(last)
            model.train(training)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return [batch.to(self.args.device) for batch in inputs]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each part of the loss since the last line."""
        logs |= {name: sum(values) / len(values) for name, values in self.metrics.items()}
        self.metrics = {}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers' estimate knows nothing of frozen parts."""
        return 0


@contextmanager
def logits_at_answers(network: Any, labels: torch.Tensor) -> Iterator[None]:
    """While the block lasts, a model's logits are (1, N, V): of the position before each answer token, in order.

    Args:
        network: a transformers model.
        labels: (B, T) token ids; ``IGNORED`` outside of answers.

    Raises:
        ModelError: the model has no output layer.
    """
    head = network.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"expected a model with an output layer, found none in {type(network).__name__}; take method dpo"
        )
    wanted = labels[:, 1:] != IGNORED
    hook = head.register_forward_pre_hook(lambda layer, given: (given[0][:, :-1][wanted][None],))
    try:
        yield
    finally:
        hook.remove()


def steered_layer(network: Any, number: int | None) -> nn.Module:
    """A decoder layer by number; the middle one if not given.

    Raises:
        SettingsError: there is no such layer.
    """
    layers = getattr(decoder_of(network), "layers", ())
    if number is None:
        number = len(layers) // 2
    if number >= len(layers):
        raise SettingsError(f"layer: expected a layer of the language model, 0 to {len(layers) - 1}, found {number}")
    return layers[number]


def unlearn_trainer(
    loaded: Loaded,
    forget: Sequence[Example],
    keep: Sequence[Example],
    settings: NpoSettings | RmuSettings,
    folder: Path,
    tell: Callable[[str], None] = lambda message: None,
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """The trainer of a run.

    Args:
        loaded: the model, with the adapter to train.
        forget: unsafe answers.
        keep: answers that are kept.
        settings: the run's.
        folder: where checkpoints go.
        tell: gets what is done before the first step.
        callbacks: for logs.

    Raises:
        DataError: a row is longer than ``max_length``, or an answer is empty.
        ImageError: an image is damaged.
        ModelError: the chat template does not serve for training, or the model fails on a row.
        SettingsError: ``batch_size`` cannot be shared by the processes, or there is no such ``layer``.
    """
    examples = [*forget, *keep]
    encoder = make_encoder(loaded, settings)
    cache, _, _ = prepare_features(loaded, encoder, examples, settings, tell)
    sizes = sizes_of(examples, encoder, cache)
    unpacked = settings.model_copy(update={"packing": False})
    layout = layout_of(loaded, encoder, examples, [size.tokens for size in sizes], unpacked, cache, tell)
    if layout is Layout.ALONE:  # a pass has a forgotten and a kept row
        raise ModelError(f"{settings.method}: expected rows that may share a pass, found none; see the line above")
    steps = Steps(examples, encoder, plan_of(unpacked, sizes, layout), cache)
    shorten(loaded.model)  # there is one adapter, whose start is kept apart
    order = passes_in_order(len(forget), len(keep), settings)
    longest = max(size.tokens for size in sizes)
    shared = trl_arguments(settings, loaded.model, folder, rows_a_pass(settings, longest))
    shared |= {"num_train_epochs": 1, "max_steps": len(order) // settings.batch_size}
    args = TrainingArguments(
        activation_checkpointing=shared.pop("gradient_checkpointing"), train_sampling_strategy="sequential", **shared
    )
    trainer = UnlearnTrainer(
        loaded.model,
        on_one_gpu(args),
        order,
        partial(_batch, steps, len(forget)),
        settings,
        loaded.network,
        cache,
        callbacks=list(callbacks),
    )
    return without_printing(trainer)


def passes_in_order(forget: int, keep: int, settings: UnlearnSettings) -> list[tuple[int, int]]:
    """Numbers of a forgotten and a kept row, for all steps of a run; each side in an order drawn anew each time.

    Args:
        forget: how many there are.
        keep: likewise.
        settings: the run's.
    """
    steps = settings.max_steps or math.ceil(settings.epochs * forget / settings.batch_size)
    dice, wanted = random.Random(settings.seed), steps * settings.batch_size
    sides: list[list[int]] = []
    for count in (forget, keep):
        drawn: list[int] = []
        while len(drawn) < wanted:
            drawn += dice.sample(range(count), count)
        sides.append(drawn[:wanted])
    return list(zip(*sides, strict=True))


def _batch(steps: Steps, forget: int, pairs: Sequence[tuple[int, int]]) -> list[Batch]:
    """Forgotten rows, then as many kept ones; the kept are numbered behind all forgotten ones."""
    numbers = [one for one, _ in pairs] + [forget + other for _, other in pairs]
    return [collate([steps.row(number) for number in numbers], pad_token=steps.pad_token)]


def _rows_of_answers(batch: Batch) -> torch.Tensor:
    """The row of each answer token, (N,)."""
    return batch.row_of_token[:, 1:][batch.labels[:, 1:] != IGNORED]


def _log_probabilities(logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each answer token, (N,), and its row, (N,)."""
    targets = batch.labels[:, 1:]
    each = -F.cross_entropy(logits.float(), targets[targets != IGNORED], reduction="none")
    return each, _rows_of_answers(batch)
