"""Versions of a run: which one a call goes on with, and when it begins the next.

A run is resumed where nothing that its answers follow from has changed: checkpoint, data, settings, batch size and the adapter of
every variant both know. New variants join an old run. Anything else opens the next version, so settings never mix and no file is overwritten
by another experiment.
"""

import json
import re
from pathlib import Path

from mis_lib.errors import SettingsError
from mis_lib.files import write_atomic
from mis_lib.results.runs import CONFIG, ENVIRONMENT, Run, RunConfig
from mis_lib.store.locks import lock_of
from mis_lib.store.provenance import environment


def open_run(root: Path, name: str, config: RunConfig) -> Run:
    """Resume the newest version of ``root/name`` whose answers follow from the same things, or begin the next one.

    Raises:
        SettingsError: the name cannot be a folder's.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise SettingsError(f"run name {name!r}: expected letters, digits, '.', '_' and '-' only")
    with lock_of(root, name):  # shards of one run start together
        for run in reversed(versions(root, name)):
            if _fits(run.config, config):
                merged = run.config.model_copy(update={"variants": run.config.variants | config.variants})
                if merged != run.config:
                    run.save(merged)
                return run
        return _begin(root / name, config)


def versions(root: Path, name: str) -> list[Run]:
    """All complete versions of a run, oldest first; a folder without ``config.yaml`` is no run, and one of a training is another's."""
    folders = [
        folder
        for folder in (root / name).glob("v*")
        if re.fullmatch(r"v\d+", folder.name) and (folder / CONFIG).exists() and not is_training(folder)
    ]
    return [Run(folder) for folder in sorted(folders, key=lambda folder: int(folder.name[1:]))]


def _fits(old: RunConfig, new: RunConfig) -> bool:
    """Whether answers of both would be the same: names and paths aside, what came of asking, and variants that only one of them has."""
    ignored = {"tag", "checkpoint", "data", "variants", "judges", "left_out"}
    shared = old.variants.keys() & new.variants.keys()
    return old.model_dump(exclude=ignored) == new.model_dump(exclude=ignored) and all(
        old.variants[name] == new.variants[name] for name in shared
    )


def is_training(folder: Path) -> bool:
    """Whether the folder is a training's (``store.train_runs``), whose environment tells digests of its parts; not where that cannot be read."""
    path = folder / ENVIRONMENT
    try:
        return path.exists() and "digests" in json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # damaged: its config will tell what it is
        return False


def _begin(parent: Path, config: RunConfig) -> Run:
    taken = [int(folder.name[1:]) for folder in parent.glob("v*") if folder.name[1:].isdigit()]
    run = Run(parent / f"v{max(taken, default=0) + 1}")
    run.folder.mkdir(parents=True)
    seed = config.generation.seed if config.generation else None
    content = json.dumps(environment(config.device) | {"data_digest": config.data_digest, "seed": seed}, indent=1)
    write_atomic(run.folder / ENVIRONMENT, f"{content}\n".encode())
    run.save(config)  # last: a folder without config.yaml is no run
    return run
