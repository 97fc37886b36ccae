"""Transformers' ``Trainer`` with our rows, our passes and our loss.

``Trainer`` does optimiser, schedule, devices, sharding and checkpoints (accelerate underneath). What is ours: a step is
a list of passes, every answer token has one weight, on whatever devices and in whatever passes (``Plan.divisor``),
and a loss that is not finite stops the run and names its rows. Checkpoints and results appear in one rename.
"""

import math
import random
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from mis_lib.errors import TrainingError
from mis_lib.models.adapters import ImageLimits, write_base, write_limits
from mis_lib.models.load import stored_dtype
from mis_lib.models.trained_on import TRAINED_ON, record
from mis_lib.settings import Quantization
from mis_lib.train.batches import Batch, Plan, collate
from mis_lib.train.encode import IGNORED, SEGMENTS, EncodedRow, Encoder, Example
from mis_lib.train.features import FeatureCache, Mixer
from mis_lib.train.loss import AnswerHead
from mis_lib.train.packing import packed_inputs

CHECKPOINT = "checkpoint-"
GOES_ON = "the run goes on from its last checkpoint"
WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What the libraries raise for a full disk, if ``is_about_writing`` says so."""
_TORCHS_WRITER = ("PytorchStreamWriter", "inline_container", "file write failed")
STAGING = ".saving"
"""Folder among the checkpoints in which one is written."""


Step = list[Batch]
"""The passes of one device."""


class Steps(Dataset[Step]):
    """All steps of a run as one device sees them; item ``i`` is step ``i`` counted from the start of training.

    Rows whose images are in the feature cache are encoded once and kept; others are read from their files each time.

    Args:
        examples: what to train on.
        encoder: makes rows of them.
        plan: which rows make a step.
        cache: holds the features of all images; None to read pixels.
        device: number of this device.
        devices: that train together.
        image_mixup: see ``Mixer``; 0 for none.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        encoder: Encoder,
        plan: Plan,
        cache: FeatureCache | None = None,
        *,
        device: int = 0,
        devices: int = 1,
        image_mixup: float = 0.0,
    ) -> None:
        self.examples, self.encoder, self.plan, self.cache = examples, encoder, plan, cache
        self.device, self.devices = device, devices
        self.mixer = Mixer(cache, examples, image_mixup) if cache is not None and image_mixup else None
        self.pad_token: int = encoder.tokenizer.pad_token_id
        self._kept: dict[int, EncodedRow] = {}
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> Step:
        epoch, at = divmod(step, self.plan.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self.plan.epoch(epoch)
        passes = self.plan.passes(self._epoch[1][at], self.devices)[self.device]
        return [
            collate([self.row(number, epoch) for number in rows], pad_token=self.pad_token, packed=self.plan.packed)
            for rows in passes
        ]

    def row(self, number: int, epoch: int = 0) -> EncodedRow:
        """Row ``number`` as it is in an epoch; of ``~number``, the same row without labels (``Plan.passes``)."""
        if number < 0:
            row = self.row(~number, epoch)
            return replace(row, labels=torch.full_like(row.labels, IGNORED))
        example = self.examples[number]
        if self.cache is None:
            return self.encoder.row(example, seed=hash((self.plan.seed, epoch, number)))
        if number not in self._kept:
            self._kept[number] = self.encoder.with_answer(example.sample, self.cache.prompt(example))
        if self.mixer is None:
            return replace(self._kept[number], features=self.cache.features(example))
        # seeded by numbers alone: the same on every device, and when a killed run is resumed
        dice = random.Random(f"{self.plan.seed}|{epoch}|{number}")
        return replace(self._kept[number], features=self.mixer.features(example, dice))


class Tally(NamedTuple):
    """Sums over some passes, from which every logged number is a quotient."""

    losses: torch.Tensor
    """(S + 1,) summed loss by segment; the last is what belongs to no segment."""
    counts: torch.Tensor
    """(S + 1,) answer tokens by segment."""
    hits: torch.Tensor
    """() answer tokens predicted right."""
    sizes: torch.Tensor
    """(3,) rows, tokens, tokens with padding."""

    def __add__(self, other: object) -> "Tally":
        if not isinstance(other, Tally):
            return NotImplemented
        return Tally(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class AnswerTrainer(Trainer):
    """Trains one model on steps of passes.

    Args:
        model: prepared (``lora.prepare``), on its device.
        args: of transformers; ``max_steps`` is that of ``steps``.
        steps: what to train on.
        network: the transformers model inside ``model``.
        head: of the network; None to try which losses it has.
        workers: processes that make steps ready before the device asks for them; 0 for none.
        options: of ``Trainer``.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        steps: Steps,
        *,
        network: Any,
        head: AnswerHead | None = None,
        workers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=steps, **options)
        self.steps, self.network, self.workers = steps, network, workers
        self.head = head or AnswerHead(network)
        self.tally: Tally | None = None
        self.by_category: dict[str, list[float]] = {}

    def get_train_dataloader(self) -> DataLoader[Step]:
        """The steps as they are: ``Plan`` has decided which rows belong to which device."""
        ahead: dict[str, Any] = {"prefetch_factor": 2, "persistent_workers": True} if self.workers else {}
        return DataLoader(
            self.steps,
            batch_size=1,
            shuffle=False,
            collate_fn=_only,
            num_workers=self.workers,
            pin_memory=self.args.device.type == "cuda",
            **ahead,
        )

    def training_step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model: nn.Module, inputs: Step, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of all passes of a step; returns the mean loss over the answer tokens of all devices.

        Raises:
            TrainingError: no row of the step has an answer to learn.
        """
        model.train()
        counted = float(sum(batch.answer_tokens for batch in inputs))
        answers = self.sum_over_devices(torch.tensor(counted, device=self.args.device))
        if answers == 0:
            raise TrainingError(
                f"step {self.state.global_step + 1}: expected answers to learn, found none in its rows; see mask_eos"
            )
        divisor = self.steps.plan.divisor or answers
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(inputs):
            last = number == len(inputs) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last or self.is_deepspeed_enabled else self.accelerator.no_sync(model):
                loss = self._pass(model, batch.to(self.args.device))
                total += loss.detach()
                self.accelerator.backward(loss / divisor * self.args.world_size)
        return self.sum_over_devices(total) / answers

    def _pass(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Summed loss of one pass."""
        with self.accelerator.autocast(), self.head.losses_at(batch.labels):
            output = model(**model_inputs(self.network, batch, self.steps.cache), use_cache=False)
        losses = self.head.losses
        self._count(batch, losses.each, losses.hits)
        return output["loss"]  # of the wrapped model: ZeRO-3 hooks what a forward returns, to gather weights backwards

    def _count(self, batch: Batch, losses: torch.Tensor, hits: torch.Tensor) -> None:
        """Add a pass to the sums of the next log line.

        Raises:
            TrainingError: a loss is not finite.
        """
        wanted = batch.labels[:, 1:] != IGNORED
        rows = batch.row_of_token[:, 1:][wanted]
        per_row = torch.zeros(len(batch.rows), device=losses.device).index_add_(0, rows, losses)
        sums = per_row.tolist()
        wrong = [row.id for row, loss in zip(batch.rows, sums, strict=True) if not math.isfinite(loss)]
        if wrong:
            found = next(loss for loss in sums if not math.isfinite(loss))
            raise TrainingError(
                f"step {self.state.global_step + 1}: expected a finite loss, found {found} in rows "
                f"{', '.join(map(repr, wrong[:8]))}; lower learning_rate, look at these rows (mis check), "
                "or set precision: float32. The last checkpoint is untouched"
            )
        counts = torch.bincount(rows, minlength=len(batch.rows)).tolist()
        for row, loss, count in zip(batch.rows, sums, counts, strict=True):
            known = self.by_category.setdefault(row.category, [0.0, 0.0])
            known[0], known[1] = known[0] + loss, known[1] + count
        segments = batch.segments[:, 1:][wanted]
        zeros = torch.zeros(len(SEGMENTS) + 1, device=losses.device)
        tally = Tally(
            zeros.index_add(0, segments, losses),
            torch.bincount(segments, minlength=len(SEGMENTS) + 1).float(),
            hits.sum().float(),
            torch.tensor(
                [len(batch.rows), batch.tokens, batch.padded_tokens], dtype=torch.float32, device=losses.device
            ),
        )
        self.tally = tally if self.tally is None else self.tally + tally

    def drain(self) -> Tally:
        """What was counted on all devices since the last call."""
        assert self.tally is not None
        found = Tally(*(self.sum_over_devices(value) for value in self.tally))
        self.tally = None
        return found

    def drain_categories(self) -> Mapping[str, float]:
        """Mean loss of each category since the last call, over the rows of all devices."""
        parts: Any = gather_object([self.by_category]) if self.args.world_size > 1 else [self.by_category]
        sums: dict[str, list[float]] = {}
        for name, (loss, count) in (each for part in parts for each in part.items()):
            known = sums.setdefault(name, [0.0, 0.0])
            known[0], known[1] = known[0] + loss, known[1] + count
        self.by_category = {}
        return {name: loss / count for name, (loss, count) in sorted(sums.items()) if count}

    def sum_over_devices(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all devices, of the same shape."""
        found: Any = self.accelerator.reduce(value, reduction="sum") if self.args.world_size > 1 else value
        return found

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """What callbacks do in ``on_evaluate``: the model answers questions, which no loss on a data set would show."""
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {})
        return {}

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers' estimate knows nothing of frozen parts."""
        return 0


def model_inputs(network: Any, batch: Batch, cache: FeatureCache | None) -> dict[str, Any]:
    """Keyword arguments of a pass: the batch's tensors in the model's number type, and its stored image features."""
    kind = network.dtype
    inputs = {name: value.to(kind) if value.is_floating_point() else value for name, value in batch.inputs.items()}
    if batch.packed:
        inputs |= packed_inputs(network, batch)
    if batch.features is not None and cache is not None:
        inputs |= {"mm_encoder_outputs": cache.outputs(batch.features.to(kind))}
    return inputs


def _only(steps: list[Step]) -> Step:
    return steps[0]


def is_about_writing(error: BaseException) -> bool:
    """Whether an error is about writing a file; of torch's, all ``RuntimeError``, only those of its writer are."""
    return not isinstance(error, RuntimeError) or any(sign in str(error) for sign in _TORCHS_WRITER)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT)))


def cannot_write(path: Path, error: BaseException, again: str = GOES_ON) -> str:
    """The message about something that could not be written; ``again`` is what starting again does."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{path}: expected room for it, found: {first}; nothing half written is left, "
        f"earlier checkpoints are untouched. Free some space (keep_checkpoints, runs) and start again: {again}"
    )


def save_result(
    trainer: Trainer,
    folder: Path,
    checkpoint: Path | str,
    *,
    processor: Any = None,
    limits: ImageLimits | None = None,
    quantization: Quantization | None = None,
    trained_on: Collection[str] = (),
    again: str = GOES_ON,
) -> None:
    """Write the trained adapter (or the whole model, with its processor) as a folder that appears in one rename.

    All processes of a run call it: weights that are spread over them are gathered. A whole model is rounded to 16 bits
    where its checkpoint has 16; checkpoints of a run keep float32. An adapter's folder also holds the
    image limits, the fingerprint of its base checkpoint, and how that was quantized; ``trained_on`` are digests of its
    items.

    Raises:
        TrainingError: it cannot be written.
    """
    draft = folder.with_name(f".{folder.name}")
    with reported_as_full_disk(folder, draft, again):
        if trainer.is_world_process_zero():
            shutil.rmtree(draft, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        _round_as_stored(trainer, checkpoint)
        trainer.save_model(str(draft))
        if trainer.is_world_process_zero():
            if processor is not None and not isinstance(trainer.model, PeftModel):
                processor.save_pretrained(draft)
            if limits is not None and isinstance(trainer.model, PeftModel):
                write_limits(draft, limits)
                write_base(draft, checkpoint, quantization)
            if trained_on:
                (draft / TRAINED_ON).write_bytes(record(trained_on))
            for other in draft.glob("*/adapter_config.json"):
                shutil.rmtree(other.parent)  # an adapter that was held as the reference
            (draft / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nobody needs to load
            shutil.rmtree(folder, ignore_errors=True)
            draft.replace(folder)
    trainer.accelerator.wait_for_everyone()


def _round_as_stored(trainer: Trainer, checkpoint: Path | str) -> None:
    """Give a fully trained model the number type of its checkpoint; DeepSpeed does so itself."""
    kind, model = stored_dtype(checkpoint), trainer.model
    whole: Any = None if isinstance(model, PeftModel) or trainer.is_deepspeed_enabled else model
    if whole is not None and kind in (torch.bfloat16, torch.float16):
        whole.to(kind)


def publish_checkpoint(trainer: Trainer, folder: Path, keep: int) -> None:
    """Move the checkpoint that ``Trainer`` has written in ``STAGING`` to the run's checkpoints; keep the newest ones.

    All processes call it.

    Raises:
        TrainingError: it cannot be moved.
    """
    name = f"{CHECKPOINT}{trainer.state.global_step}"
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        with reported_as_full_disk(folder / name, folder / STAGING):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / STAGING / name).replace(folder / name)
            shutil.rmtree(folder / STAGING)
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    trainer.accelerator.wait_for_everyone()


@contextmanager
def reported_as_full_disk(path: Path, draft: Path, again: str = GOES_ON) -> Iterator[None]:
    """Turn an error about writing ``path`` into one that says what to do; ``draft``, half written, is removed.

    Raises:
        TrainingError: ``path`` cannot be written.
    """
    try:
        yield
    except WRITING_ERRORS as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not is_about_writing(error):
            raise
        raise TrainingError(cannot_write(path, error, again)) from error
