"""What a run leaves on disk appears in one rename: checkpoints are found here, and the result is written."""

import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError
from transformers import Trainer

from mis_lib.errors import TrainingError
from mis_lib.models.adapters import write_base
from mis_lib.models.limits import ImageLimits, write_limits

CHECKPOINT = "checkpoint-"
GOES_ON = "the run goes on from its last checkpoint"

WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What the libraries raise for a full disk, if ``is_about_writing`` says so."""
_TORCHS_WRITER = ("PytorchStreamWriter", "inline_container", "file write failed")


def is_about_writing(error: BaseException) -> bool:
    """Whether an error says that something could not be written; of torch's own, which are all ``RuntimeError``, only those of its writer do."""
    return not isinstance(error, RuntimeError) or any(sign in str(error) for sign in _TORCHS_WRITER)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT)))


def cannot_write(path: Path, error: BaseException, again: str = GOES_ON) -> str:
    """The message about something that could not be written; ``again`` is what starting again does."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{path}: expected room for it, found: {first}; nothing half written is left, earlier checkpoints are untouched. "
        f"Free some space (keep_checkpoints, runs) and start again: {again}"
    )


def save_result(
    trainer: Trainer,
    folder: Path,
    checkpoint: Path | str,
    *,
    processor: Any = None,
    limits: ImageLimits | None = None,
    again: str = GOES_ON,
) -> None:
    """Write the trained adapter (or the whole model, with its processor) as a folder that appears in one rename.

    All processes of a run call it: weights that are spread over them are gathered. The limits of an image, and what tells the checkpoint
    that was trained on, go beside an adapter.

    Raises:
        TrainingError: it cannot be written.
    """
    draft = folder.with_name(f".{folder.name}")
    try:
        if trainer.is_world_process_zero():
            shutil.rmtree(draft, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        trainer.save_model(str(draft))
        if trainer.is_world_process_zero():
            if processor is not None and not isinstance(trainer.model, PeftModel):
                processor.save_pretrained(draft)
            if limits is not None and isinstance(trainer.model, PeftModel):
                write_limits(draft, limits)
                write_base(draft, checkpoint)
            for beside in draft.glob("*/adapter_config.json"):
                shutil.rmtree(beside.parent)  # an adapter that was held as the reference
            (draft / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nobody needs to load
            shutil.rmtree(folder, ignore_errors=True)
            draft.replace(folder)
    except WRITING_ERRORS as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not is_about_writing(error):
            raise
        raise TrainingError(cannot_write(folder, error, again)) from error
    trainer.accelerator.wait_for_everyone()
