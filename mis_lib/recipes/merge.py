"""``mis merge``: a tuned model as one ordinary checkpoint, for programs that take no PEFT adapter."""

import json
from pathlib import Path

from mis_lib.errors import ModelError, SettingsError
from mis_lib.files import check_writable
from mis_lib.models.trained_on import TRAINED_ON, read_trained_on
from mis_lib.models.trained_on import record as trained_on_record
from mis_lib.recipes.checkpoints import local_checkpoint
from mis_lib.recipes.progress import say

RECORD = "merged.json"
DTYPES = ("float32", "bfloat16", "float16")
EMBEDDED = "mini"


def merge_adapter(
    adapter: Path, out: Path, *, checkpoint: Path | None = None, device: str = "auto", dtype: str | None = None
) -> Path:
    """Write the checkpoint that ``adapter`` belongs to with the adapter merged, and a record of both; returns ``out``.

    Args:
        adapter: PEFT folder, run folder of ``mis train``, or the name of a shipped variant.
        out: new folder.
        checkpoint: folder or hub id; what the adapter's own configuration names if not given.
        device: where the weights are merged.
        dtype: of the weights; the checkpoint's own if not given.

    Raises:
        OSError: nothing can be written there.
        SettingsError: ``out`` exists, or the type is unknown.
        ModelError: checkpoint or adapter cannot be loaded, or the result cannot be saved.
    """
    import torch

    from mis_lib.models.adapters import read_base
    from mis_lib.models.merge import merge, save
    from mis_lib.results.runs import folder_digest

    if out.exists():
        raise SettingsError(f"{out}: expected a place for a new folder, found something there; choose another one")
    if dtype is not None and dtype not in DTYPES:
        raise SettingsError(f"--dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}")
    check_writable(out)
    folder = adapter_folder(adapter)
    base = local_checkpoint(checkpoint or base_of(folder), fetch=checkpoint is not None)
    say(f"Adding {folder} to {base}")
    trained_on = read_base(folder)
    quantization = trained_on.quantization if trained_on else None
    if quantization:
        say(
            f"{folder} was trained on weights in {quantization} and is added to the checkpoint's own, which differ "
            "slightly: measure the merged model, too"
        )
    loaded = merge(base, folder, adapter.name, device, getattr(torch, dtype) if dtype else "auto")
    record = {
        "checkpoint": str(base),
        "adapter": str(folder),
        "adapter_digest": folder_digest(folder),
        "dtype": str(loaded.model.dtype),
        **({"trained_in": quantization} if quantization else {}),
    }
    files = {RECORD: (json.dumps(record, indent=1) + "\n").encode()}
    if trained_on := read_trained_on(base) | read_trained_on(folder):
        files[TRAINED_ON] = trained_on_record(trained_on)
    return save(loaded, out, files)


def adapter_folder(named: Path) -> Path:
    """The folder of the adapter: the one that was named, ``adapter`` in a run's folder, or that of a shipped variant.

    Raises:
        ModelError: no adapter was found.
    """
    from mis_lib.models.adapters import shipped_variants
    from mis_lib.models.load import CONFIG

    shipped = shipped_variants().get(str(named))
    for folder in (named, named / "adapter", shipped):
        if folder is not None and (folder / CONFIG).exists():
            return folder
    names = ", ".join(name for name, folder in shipped_variants().items() if folder is not None)
    raise ModelError(
        f"{named}: expected a PEFT folder ({CONFIG}), a finished run of `mis train` or one of {names}, found none"
    )


def base_of(adapter: Path) -> Path | None:
    """The checkpoint that an adapter says it was trained on: folder, hub id, or ``None`` for the embedded model.

    Raises:
        SettingsError: it names none.
    """
    from mis_lib.models.load import CONFIG

    named = json.loads((adapter / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not named:
        raise SettingsError(f"{adapter / CONFIG} does not say which checkpoint it belongs to; name it (--checkpoint)")
    return None if named == EMBEDDED else Path(named)
