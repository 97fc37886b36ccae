"""KTO on questions about several images, by TRL's ``KTOTrainer``: from answers that were only called right or wrong.

Kahneman-Tversky optimisation (arXiv 2402.01306) needs no pairs and no corrected answer: an answer's likelihood rises or
falls against the adapter's start, by what a person or a judge said of it. Texts and images are prepared as for DPO.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from mis_lib.errors import SettingsError
from mis_lib.prompts import as_plain_text
from mis_lib.schema import Sample
from mis_lib.train.dpo import longest_row, with_images
from mis_lib.train.encode import Encoder
from mis_lib.train.settings import KtoSettings
from mis_lib.train.trl import on_one_gpu, share_of_step, trl_arguments, trl_module, without_printing

NAMES = {
    "kl": "kl",
    "rewards/chosen": "reward_right",
    "rewards/rejected": "reward_wrong",
    "rewards/margins": "reward_margin",
}
"""KTO's metrics of TRL, and what the log calls them."""


class Labelled(NamedTuple):
    """An answer, and whether it is right."""

    sample: Sample
    answer: str
    right: bool


def kto_trainer(
    model: Any,
    processor: Any,
    rows: Sequence[Labelled],
    images: Path,
    settings: KtoSettings,
    folder: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """TRL's trainer for a prepared model (a ``PeftModel`` with the adapter to train).

    Args:
        model: as ``train.lora.prepare`` makes it.
        processor: of the model.
        rows: at least one right or wrong answer.
        images: folder of their images.
        settings: the run's.
        folder: where checkpoints go.
        callbacks: for logs.

    Raises:
        DataError: a row is longer than ``max_length``.
        ImageError: an image is damaged.
        MissingPackageError: TRL is not installed.
        ModelError: the chat template does not serve for training.
        SettingsError: ``batch_size`` cannot be shared by the processes, or only one row fits into a pass.
    """
    from datasets import Dataset

    trl = trl_module("kto_trainer", "kto")
    encoder = Encoder(processor)
    made = [
        {
            "images": [str(images / name) for name in row.sample.images],
            "prompt": encoder.prompt_text(row.sample),
            "completion": encoder.answer_text(row.sample, as_plain_text(row.answer, encoder.special)),
            "label": row.right,
        }
        for row in rows
    ]
    collate = trl.DataCollatorForVisionUnpairedPreference(processor=processor)

    def collator(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return collate([with_images(example) for example in examples])

    longest = longest_row(made, collator, settings.max_length)
    right, wrong = weights([row.right for row in rows])
    args = trl.KTOConfig(
        **trl_arguments(settings, model, folder, _rows_a_pass(settings, longest)),
        beta=settings.beta,
        desirable_weight=right,
        undesirable_weight=wrong,
        max_length=None,
    )
    return without_printing(
        trl.KTOTrainer(
            model=model,
            args=on_one_gpu(args),
            train_dataset=Dataset.from_list(made),
            processing_class=processor,
            data_collator=collator,
            callbacks=list(callbacks),
        )
    )


def weights(right: Sequence[bool]) -> tuple[float, float]:
    """Weights of right and of wrong answers that give both sides the same sum (section 4.2 of the paper), 1 or more.

    Args:
        right: of each answer.
    """
    good = sum(right)
    bad = len(right) - good
    if not good or not bad:
        return 1.0, 1.0
    return max(1.0, bad / good), max(1.0, good / bad)


def _rows_a_pass(settings: KtoSettings, longest: int) -> int:
    """Rows a pass: the largest divisor of a device's share of a step that fits into ``batch_tokens``, at least two.

    Each row is passed twice: with its own answer, and with that of another row, which estimates the KL divergence.
    """
    share, fitting = share_of_step(settings), max(2, settings.batch_tokens // (2 * longest))
    found = max(size for size in range(1, share + 1) if share % size == 0 and size <= fitting)
    if found < 2:
        raise SettingsError(
            f"batch_size: expected at least two rows a pass, found {found} of {share} rows a device; KTO holds each "
            "answer against another row's: take an even batch_size"
        )
    return found
