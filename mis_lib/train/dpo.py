"""DPO on questions about several images, by TRL's ``DPOTrainer``; rows of one, two and six images share a batch.

TRL prepares images at the moment of use, as we do, and takes any number a row. Three things are ours: how question and
answer become texts (``encode.Encoder``: images first, no special tokens in people's texts), how images are read
(upright, bounded in size), and that nothing is cut (``max_length`` is checked before the first step). The adapter's
start is the reference, so no second model is held.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from mis_lib.data.preferences import Preference
from mis_lib.errors import DataError
from mis_lib.files import load_image
from mis_lib.prompts import as_plain_text
from mis_lib.train import distributed, trial
from mis_lib.train.encode import IGNORED, Encoder, Example
from mis_lib.train.model import Loaded
from mis_lib.train.settings import DpoSettings, PairSettings
from mis_lib.train.trl import on_one_gpu, share_of_step, trl_arguments, trl_module, without_printing


class PreferenceRows:
    """Collates rows of ``preference_rows``: reads the images of a row when it is needed, TRL does the rest."""

    def __init__(self, processor: Any) -> None:
        self._collate = trl_module("dpo_trainer", "dpo").DataCollatorForVisionPreference(processor=processor)

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Rows to tensors: preferred answers first, then the rejected ones, (2 B, T)."""
        return self._collate([with_images(example) for example in examples])


def preference_rows(pairs: Sequence[Preference], folder: Path, processor: Any) -> list[dict[str, Any]]:
    """Pairs in TRL's form, with texts from the chat template as in fine-tuning on answers; images stay paths.

    Raises:
        ModelError: the chat template does not serve for training.
    """
    encoder = Encoder(processor)
    return [
        {
            "images": [str(folder / name) for name in pair.sample.images],
            "prompt": encoder.prompt_text(pair.sample),
            "chosen": encoder.answer_text(pair.sample, as_plain_text(pair.chosen, encoder.special)),
            "rejected": encoder.answer_text(pair.sample, as_plain_text(pair.rejected, encoder.special)),
        }
        for pair in pairs
    ]


def pairs_may_share_a_pass(
    loaded: Loaded,
    encoder: Encoder,
    pairs: Sequence[Preference],
    folder: Path,
    settings: DpoSettings,
    progress: Callable[[str], None] = lambda message: None,
) -> bool:
    """Whether several pairs may share a pass, by the trial before training; all processes decide as the first.

    Args:
        loaded: the model.
        encoder: of single answers.
        pairs: what is learned.
        folder: of their images.
        settings: the run's.
        progress: gets a line with the reason where they may not.

    Raises:
        ModelError: not even the two answers of one pair may; says why.
    """
    rows, collator = preference_rows(pairs[: trial.PAIRS], folder, loaded.processor), PreferenceRows(loaded.processor)

    def together(numbers: Sequence[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        batch = dict(collator([rows[number] for number in numbers]))
        return batch, batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, IGNORED)

    def answered(pair: Preference, answer: str) -> Example:
        return Example(pair.sample.model_copy(update={"answer": answer}), folder)

    answers = [(answered(pair, pair.chosen), answered(pair, pair.rejected)) for pair in pairs[: trial.PAIRS]]
    may = trial.pairs_may_share_a_pass(loaded, encoder, answers, together, settings, progress)
    return distributed.same_for_all(may, settings.device)


def dpo_trainer(
    model: Any,
    processor: Any,
    rows: Sequence[dict[str, Any]],
    settings: DpoSettings,
    folder: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    alone: bool = False,
) -> Any:
    """TRL's trainer for a prepared model (a ``PeftModel`` with the adapter to train).

    Args:
        model: as ``train.parts.prepare`` makes it.
        processor: of the model.
        rows: of ``preference_rows``.
        settings: the run's.
        folder: where checkpoints go.
        callbacks: for logs.
        alone: each pair is a pass of its own.

    Raises:
        DataError: a row is longer than ``max_length``.
        ImageError: an image is damaged.
        MissingPackageError: TRL is not installed.
        SettingsError: ``batch_size`` cannot be shared by the processes.
    """
    from datasets import Dataset

    trl = trl_module("dpo_trainer", "dpo")
    collator = PreferenceRows(processor)
    longest = longest_row(rows, collator, settings.max_length)
    size = 1 if alone else rows_a_pass(settings, longest)
    losses = {"sigmoid": 1.0} | ({"sft": settings.sft_weight} if settings.sft_weight else {})
    args = trl.DPOConfig(
        **trl_arguments(settings, model, folder, size),
        beta=settings.beta,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        max_length=None,
    )
    return without_printing(
        trl.DPOTrainer(
            model=model,
            args=on_one_gpu(args),
            train_dataset=Dataset.from_list(list(rows)),
            processing_class=processor,
            data_collator=collator,
            callbacks=list(callbacks),
        )
    )


def rows_a_pass(settings: PairSettings, longest: int, devices: int | None = None) -> int:
    """Pairs a pass on one device: the largest divisor of its share of ``batch_size`` that fits into ``batch_tokens``.

    A pair has two answers, each of at most ``longest`` tokens; at least one pair is a pass.

    Raises:
        SettingsError: ``batch_size`` cannot be shared by so many ``devices``.
    """
    share, fitting = share_of_step(settings, devices), max(1, settings.batch_tokens // (2 * longest))
    return max(size for size in range(1, share + 1) if share % size == 0 and size <= fitting)


def longest_row(
    rows: Sequence[dict[str, Any]], collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]], limit: int | None
) -> int:
    """Tokens of the longest row; every row is encoded once, so a damaged image fails here and not hours later.

    Raises:
        DataError: a row is longer than ``limit``.
        ImageError: an image is damaged.
    """
    longest = 0
    for number, row in enumerate(rows, 1):
        length = collate([row])["input_ids"].shape[1]
        if limit is not None and length > limit:
            raise DataError(
                f"row {number}: expected at most {limit:,} tokens, found {length:,}; nothing is cut: "
                "raise max_length or leave the row out"
            )
        longest = max(longest, length)
    return longest


def with_images(example: dict[str, Any]) -> dict[str, Any]:
    """A row with its images read: upright, and bounded in size."""
    return {**example, "images": [load_image(Path(name)) for name in example["images"]]}


NAMES = {
    "mean_token_accuracy": "token_accuracy",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
}
"""DPO's metrics of TRL, and what the log calls them."""
