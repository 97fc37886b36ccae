"""Run folders: everything that one evaluation was made of, in files that can be read without this project.

    runs/NAME/vN/  config.yaml         what was asked for; decides which later call may go on here
                   environment.json    versions, device, git revision: what may differ between machines
                   samples.jsonl       what was asked, so that the run can be read where its data are not
                   responses.jsonl     append-only, one answer a line
                   shards/I-of-N.jsonl answers of several processes, until they are merged
                   verdicts/JUDGE.jsonl, metrics.json

A run is resumed where nothing that its answers follow from has changed: checkpoint, data, settings, batch size and the adapter of
every variant both know. New variants join an old run. Anything else opens the next version, so settings never mix and no file is overwritten
by another experiment.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import Field

from mis_lib import __version__
from mis_lib.configs import GenerationSettings, Settings, dump_settings, load_settings
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import MANIFEST, read_records, sha256, write_atomic, write_records
from mis_lib.schema import Asked, Record, Response, Sample, Verdict

CONFIG, ENVIRONMENT, RESPONSES, METRICS = "config.yaml", "environment.json", "responses.jsonl", "metrics.json"
SAMPLES, SHARDS, VERDICTS = "samples.jsonl", "shards", "verdicts"
VERSIONED = ("torch", "transformers", "peft", "safetensors", "pillow", "numpy")
HASHED_WHOLE = (
    16 * 2**20
)  # larger files enter a folder's digest with their size and both ends: hashing 16 GB would take a minute


class RunConfig(Settings):
    """What the answers of a run follow from. Digests decide; paths are there for people."""

    tag: str
    """Stands in every table that is made from the run: the model's name."""
    checkpoint: str
    checkpoint_digest: str
    data: str
    data_digest: str
    generation: GenerationSettings = GenerationSettings()
    batch_size: int = 16
    batch_tokens: int | None = None
    device: str = "cpu"
    dtype: str = "auto"
    backend: str = "local"
    """"local", or "server" where answers came from an OpenAI-compatible server."""
    variants: dict[str, str]
    """Digest of each variant's adapter, empty for the base; name of the served model where a server answered."""
    judges: dict[str, str] = Field(default_factory=dict)
    """Fingerprint of each judge whose verdicts are stored."""


@dataclass(frozen=True)
class Run:
    """One version of a run on disk."""

    folder: Path

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return load_settings(RunConfig, self.folder / CONFIG)

    def samples(self) -> list[Asked]:
        """What was asked so far; image paths are relative to the folder of the data."""
        path = self.folder / SAMPLES
        return read_records(path, Asked) if path.exists() else []

    def keep_samples(self, samples: Iterable[Sample]) -> None:
        """Keep what is asked beside the answers; what is there already stays as it is."""
        kept: dict[str, Sample] = {sample.id: sample for sample in self.samples()}
        more = {sample.id: sample for sample in samples if sample.id not in kept}
        if more:
            write_records(self.folder / SAMPLES, [*kept.values(), *more.values()])

    def responses(self) -> list[Response]:
        """All answers so far, in the order they were given, those of shards included; each (sample, variant) once."""
        files = [self.folder / RESPONSES, *sorted((self.folder / SHARDS).glob("*.jsonl"))]
        found: dict[tuple[str, str], Response] = {}
        for response in (response for file in files if file.exists() for response in read_records(file, Response)):
            found.setdefault((response.sample_id, response.variant), response)
        return list(found.values())

    def settle(self) -> None:
        """Merge what shards and an asynchronous server have answered into one file, without loss and the same however it came about."""
        with self.locked():
            shards = sorted((self.folder / SHARDS).glob("*.jsonl"))
            answers = self.responses()
            rank = {
                (sample.id, variant): place
                for place, (variant, sample) in enumerate(product(self.config.variants, self.samples()))
            }
            ordered = sorted(answers, key=lambda one: _rank(rank, (one.sample_id, one.variant)))
            if shards or ordered != answers:
                write_records(self.folder / RESPONSES, ordered)
            for shard in shards:  # only now: killed before, all of it is still read
                shard.unlink()
            if shards:
                (self.folder / SHARDS).rmdir()

    def locked(self) -> FileLock:
        """Held by whoever changes what several processes share."""
        return _lock(self.folder.parent.parent, self.folder.parent.name)

    def verdicts(self, judge: str) -> list[Verdict]:
        """The stored verdicts of one judge."""
        path = self._verdict_file(judge)
        return read_records(path, Verdict) if path.exists() else []

    def judge_all(
        self, judge: str, fingerprint: str, decide: Callable[[Sample, Response], Verdict], samples: Sequence[Sample]
    ) -> list[Verdict]:
        """Verdicts on all responses to ``samples``: stored ones where the judge has not changed, new ones for the rest.

        Args:
            judge: its name, also the file's.
            fingerprint: digest of everything its verdicts follow from; another one than stored makes all of them anew.
            decide: judges one response.
            samples: responses to other samples are left aside.
        """
        asked = {sample.id: sample for sample in samples}
        fresh = self.config.judges.get(judge) == fingerprint
        known = {(verdict.sample_id, verdict.variant): verdict for verdict in self.verdicts(judge)} if fresh else {}
        answered = {(response.sample_id, response.variant): response for response in self.responses()}
        wanted = {key: response for key, response in answered.items() if key[0] in asked}
        new = {key: decide(asked[key[0]], response) for key, response in wanted.items() if key not in known}
        if new:
            merged = known | new
            write_records(self._verdict_file(judge), [merged[key] for key in answered if key in merged])
            with self.locked():
                self._note(judge, fingerprint)
        return [(known | new)[key] for key in wanted]

    def begin_verdicts(self, judge: str, fingerprint: str) -> Path:
        """The file that verdicts of this judge may be appended to; those of a judge that has changed since are put aside first."""
        path = self._verdict_file(judge)
        with self.locked():  # judges may begin together
            if self.config.judges.get(judge) != fingerprint:
                path.unlink(
                    missing_ok=True
                )  # before the new one is noted: a kill in between must not make old verdicts new
                self._note(judge, fingerprint)
        return path

    def settle_verdicts(self, judge: str) -> list[Verdict]:
        """The verdicts of a judge, their file put into the order of the answers, the same however it came about."""
        rank = {(one.sample_id, one.variant): place for place, one in enumerate(self.responses())}
        latest = {(one.sample_id, one.variant): one for one in self.verdicts(judge)}
        ordered = sorted(latest.values(), key=lambda one: _rank(rank, (one.sample_id, one.variant)))
        if ordered != self.verdicts(judge):
            write_records(self._verdict_file(judge), ordered)
        return ordered

    def write_metrics(self, rows: Sequence[Record]) -> None:
        """Keep a report's rows beside what they were computed from."""
        content = json.dumps([row.model_dump(mode="json") for row in rows], indent=1)
        write_atomic(self.folder / METRICS, f"{content}\n".encode())

    def _verdict_file(self, judge: str) -> Path:
        return self.folder / VERDICTS / f"{judge}.jsonl"

    def _note(self, judge: str, fingerprint: str) -> None:
        """Keep a judge's fingerprint beside those of others; the lock must be held, else one noted meanwhile is lost."""
        config = self.config
        self._save(config.model_copy(update={"judges": {**config.judges, judge: fingerprint}}))

    def _save(self, config: RunConfig) -> None:
        write_atomic(self.folder / CONFIG, dump_settings(config).encode())


def open_run(root: Path, name: str, config: RunConfig) -> Run:
    """Resume the newest version of ``root/name`` whose answers follow from the same things, or begin the next one.

    Raises:
        SettingsError: the name cannot be a folder's.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise SettingsError(f"run name {name!r}: expected letters, digits, '.', '_' and '-' only")
    with _lock(root, name):  # shards of one run start together
        for run in reversed(versions(root, name)):
            if _fits(run.config, config):
                merged = run.config.model_copy(update={"variants": run.config.variants | config.variants})
                if merged != run.config:
                    run._save(merged)
                return run
        return _begin(root / name, config)


def versions(root: Path, name: str) -> list[Run]:
    """All complete versions of a run, oldest first; a folder without ``config.yaml`` is no run, and one of a training is another's."""
    folders = [
        folder
        for folder in (root / name).glob("v*")
        if re.fullmatch(r"v\d+", folder.name) and (folder / CONFIG).exists() and not _is_training(folder)
    ]
    return [Run(folder) for folder in sorted(folders, key=lambda folder: int(folder.name[1:]))]


def folder_digest(folder: Path) -> str:
    """Digest of a folder's content: of its manifest where it has one, else of every file in it.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder, found none")
    if (folder / MANIFEST).exists():
        return sha256(folder / MANIFEST)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size} {_file_digest(path)}\n".encode())
    return digest.hexdigest()


def environment(device: str) -> dict[str, Any]:
    """What a run was made with: versions, machine, device, git revision and whether files had been changed since."""
    return {
        "mis": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in VERSIONED},
        "device": device,
        "git": _git("rev-parse", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": sys.argv,
    }


def _fits(old: RunConfig, new: RunConfig) -> bool:
    """Whether answers of both would be the same: names and paths aside, and variants that only one of them has."""
    ignored = {"tag", "checkpoint", "data", "variants", "judges"}
    shared = old.variants.keys() & new.variants.keys()
    return old.model_dump(exclude=ignored) == new.model_dump(exclude=ignored) and all(
        old.variants[name] == new.variants[name] for name in shared
    )


def _is_training(folder: Path) -> bool:
    """Whether the folder is a training's (``store.train_runs``), whose environment tells digests of its parts."""
    path = folder / ENVIRONMENT
    try:
        return path.exists() and "digests" in json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # damaged: its config will tell what it is
        return False


def _rank(rank: Mapping[tuple[str, str], int], key: tuple[str, str]) -> tuple[int, tuple[str, str]]:
    return rank.get(key, len(rank)), key


def _lock(root: Path, name: str) -> FileLock:
    root.mkdir(parents=True, exist_ok=True)
    return FileLock(root / f".{name}.lock")


def _begin(parent: Path, config: RunConfig) -> Run:
    taken = [int(folder.name[1:]) for folder in parent.glob("v*") if folder.name[1:].isdigit()]
    run = Run(parent / f"v{max(taken, default=0) + 1}")
    run.folder.mkdir(parents=True)
    content = json.dumps(
        environment(config.device) | {"data_digest": config.data_digest, "seed": config.generation.seed}, indent=1
    )
    write_atomic(run.folder / ENVIRONMENT, f"{content}\n".encode())
    run._save(config)  # last: a folder without config.yaml is no run
    return run


def _file_digest(path: Path) -> str:
    size = path.stat().st_size
    if size <= HASHED_WHOLE:
        return sha256(path)
    with path.open("rb") as stream:
        head = stream.read(HASHED_WHOLE // 2)
        stream.seek(size - HASHED_WHOLE // 2)
        return hashlib.sha256(head + stream.read()).hexdigest()


def _git(*arguments: str) -> str:
    """What git says about this checkout; empty where there is no git or no checkout."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
