"""Checkpoints of the Hugging Face hub: the snapshot in the local cache, fetched when a person names one that is not.

Only safetensors and small files (configuration, tokenizer, templates) are fetched. What is complete in the cache is
used as it is, without the network.
"""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import tqdm

from mis_lib.errors import ModelError
from mis_lib.models.adapters import recognised

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
LOCAL = ("models", "runs")  # folders of the configurations and commands here; no owners on the hub
UNWANTED = ("*/*", "consolidated*")  # other formats, and the same weights under Mistral's own names
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"

Report = Callable[[int, int], None]
"""Takes bytes that are here and bytes in all, as far as known."""

# Of a network that fails: the root error of whichever HTTP library huggingface_hub is built on.
_FAILURES: tuple[type[Exception], ...] = (OSError, ValueError, HfHubHTTPError.__bases__[0])


def is_hub_id(named: Path | str) -> bool:
    """Whether this is the id of a hub model (OWNER/NAME) and no path into a folder of this machine.

    A string that ends with a slash is a path, as is one into a folder of ``LOCAL``, whether that exists or not.
    """
    path = Path(named)
    return HUB_ID.fullmatch(_id(named)) is not None and path.parts[0] not in LOCAL and not path.parent.is_dir()


def checkpoint_folder(named: Path | str, report: Report | None = None) -> Path:
    """The folder of a checkpoint: a folder, or the snapshot of a hub id.

    Args:
        named: path, or OWNER/NAME.
        report: called while a hub id is fetched; without it, one that is not in the local cache is refused.

    Raises:
        ModelError: there is no such checkpoint here and it cannot be fetched; says what to do.
    """
    path = Path(named)
    if (path / "config.json").is_file():
        return path
    if not is_hub_id(named):
        found = recognised(path) or (
            "another folder" if path.is_dir() else "no such folder; `mis build` makes the embedded one"
        )
        raise ModelError(
            f"{named}: expected a checkpoint folder with config.json or the id of a hub model, found {found}"
        )
    if report is not None:
        return fetched_snapshot(named, report)
    if (there := cached_snapshot(named)) is None:
        raise ModelError(f"{named}: expected a model in the local hub cache, found none; `hf download {named}` first")
    return there


def cached_snapshot(named: Path | str) -> Path | None:
    """The folder of a hub id in the local cache; ``None`` where it is missing or incomplete."""
    try:
        folder = Path(
            snapshot_download(
                _id(named), local_files_only=True, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
            )
        )
    except (LocalEntryNotFoundError, ValueError):
        return None
    index = folder / INDEX
    try:
        files = set(json.loads(index.read_bytes())["weight_map"].values()) if index.exists() else {WEIGHTS}
    except (ValueError, KeyError):
        return None
    return folder if all((folder / name).exists() for name in {"config.json", *files}) else None


def fetched_snapshot(named: Path | str, report: Report) -> Path:
    """The folder of a hub id, fetched into the local cache if it is not there.

    Args:
        named: OWNER/NAME.
        report: called while it is fetched.

    Raises:
        ModelError: there is no such model, it needs a licence or a login, it has no safetensors, or the hub cannot be
            reached; says what to do.
    """
    if (there := cached_snapshot(named)) is not None:
        return there
    name = _id(named)
    try:
        snapshot_download(
            name, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED), tqdm_class=_reporting_bar(report)
        )
    except _FAILURES as error:
        raise ModelError(f"{name}: {_way_out(name, error)}") from error
    if (there := cached_snapshot(name)) is None:
        raise ModelError(
            f"{name}: expected config.json and safetensors, found some of them missing: not complete in the hub's "
            f"cache ({constants.HF_HUB_CACHE}) and the hub out of reach, or the model has none. Try "
            f"`hf download {name}` where there is a network; an adapter is named as one (--adapters NAME=FOLDER), "
            "other formats are converted first"
        )
    return there


def _way_out(name: str, error: BaseException) -> str:
    if isinstance(error, GatedRepoError):
        return f"its licence must be accepted first: at {constants.ENDPOINT}/{name}, then `hf auth login` here"
    if isinstance(error, RepositoryNotFoundError):
        return "no folder here and no model that the hub shows; check path and id, or `hf auth login` for a private one"
    first = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"no folder here, not complete in the hub's cache ({constants.HF_HUB_CACHE}), and not to be fetched: {first}. "
        f"Fetch it where there is a network (`hf download {name}`) and name the folder, or copy that cache and set "
        "HF_HOME to it"
    )


def _reporting_bar(report: Report) -> type[tqdm]:
    """A class of progress bars that draws nothing and reports bytes."""
    lock = threading.Lock()
    bars: list[Any] = []

    class Reporting(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # such a bar does not count either
            self.counted = 0.0
            if kwargs.get("unit") == "B":
                bars.append(self)

        def update(self, n: float | None = 1) -> bool | None:
            with lock:  # files come in several threads, and bytes are counted twice: as received, and as written
                self.counted += n or 0
                if bars:
                    report(int(max(bar.counted for bar in bars)), int(max(bar.total or 0 for bar in bars)))
            return None

    return Reporting


def _id(named: Path | str) -> str:
    return named.as_posix() if isinstance(named, Path) else named
