"""An adapter added to the weights of its checkpoint for good: for servers and tools that take no PEFT adapter."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mis_lib.errors import ModelError
from mis_lib.models.load import LoadedModel, load_model


def merge(checkpoint: Path | str, adapter: Path, variant: str, device: str, dtype: torch.dtype | str) -> LoadedModel:
    """The checkpoint with the adapter added to its weights, by PEFT, and no trace of PEFT left.

    Args:
        checkpoint: folder, or id of a hub model in the local cache.
        adapter: PEFT folder.
        variant: what errors call the adapter.
        device: "auto", "cpu", "cuda" ...
        dtype: of the weights; "auto" is the checkpoint's own.

    Raises:
        ModelError: checkpoint or adapter cannot be loaded.
    """
    loaded = load_model(checkpoint, {variant: adapter}, device, dtype)
    network: Any = loaded.model
    return LoadedModel(network.merge_and_unload(adapter_names=[variant]).eval(), loaded.processor)


def save(loaded: LoadedModel, folder: Path, extra: Mapping[str, bytes] | None = None) -> Path:
    """Write model and processor as an ordinary checkpoint folder, with ``extra`` files by name, whole or not at all.

    Raises:
        ModelError: transformers cannot save a model of this kind, or there is no room for it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    growing = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        loaded.model.save_pretrained(str(growing))
        loaded.processor.save_pretrained(str(growing))
        for name, content in (extra or {}).items():
            (growing / name).write_bytes(content)
        growing.chmod(0o755)  # mkdtemp's is the owner's alone
        growing.rename(folder)
    except ValueError as error:
        raise ModelError(
            f"the merged model cannot be saved: {str(error).splitlines()[0]} "
            "A checkpoint that another version assembled is made anew by `mis build --force`"
        ) from error
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written: {error}; make room, or choose another place") from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return folder
