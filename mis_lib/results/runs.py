"""Run folders: all files of one evaluation, readable without this project.

    runs/NAME/vN/  config.yaml         settings and digests; decide whether a later call resumes this version
                   environment.json    versions, device, git revision: may differ between machines
                   samples.jsonl       the items, so that the run can be read without its data
                   trained_on.json     those that a variant was trained on: {variant: [sample id]}
                   responses.jsonl     append-only, one answer a line
                   shards/I-of-N.jsonl answers of several processes, until they are merged
                   verdicts/JUDGE.jsonl, metrics.json
                   note.md             a note by a person; nothing depends on it
    runs/NAME/.vN.FILE.lock            held by the process that appends to FILE
    runs/.NAME.lock                    held while files are begun, merged or replaced

Several processes may work on one run, each on its own files: shards, or verdicts of different judges. One process at a
time appends to a file (``Run.writing``); a second one is refused. No process replaces or removes a file that another
one appends to, since later lines would be lost. Readers take no lock.

A run is resumed if everything that its answers depend on is unchanged: checkpoint, data, settings, batch size, and the
adapter of every variant that both have. New variants join an old run. Any other change begins the next version, so
settings never mix and no file is overwritten.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from mis_lib import __version__
from mis_lib.cache import MANIFEST
from mis_lib.data.images import is_unpacked
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import digest, hold, is_held, read_records, sha256, write_atomic, write_records
from mis_lib.generate.prompting import Prompting
from mis_lib.models.adapters import BASE_FILE, WEIGHTS
from mis_lib.models.trained_on import TRAINED_ON
from mis_lib.schema import Record, Response, Sample, Verdict
from mis_lib.settings import GenerationSettings, Quantization, Settings, dump_settings, load_settings

CONFIG, ENVIRONMENT, RESPONSES, METRICS = "config.yaml", "environment.json", "responses.jsonl", "metrics.json"
SAMPLES, SHARDS, VERDICTS, PROBES = "samples.jsonl", "shards", "verdicts", "probes.jsonl"
NOTE = "note.md"
LONGEST = 2_000  # characters of a note
VERSIONED = ("torch", "transformers", "peft", "safetensors", "pillow", "numpy")
HASHED_WHOLE = 16 * 2**20
"""Bytes. A folder's digest takes of larger files their size and both ends: to hash 16 GB would take a minute."""
R = TypeVar("R", bound=Record)


class RunConfig(Settings):
    """What the answers of a run depend on. Digests decide; paths are for people."""

    tag: str
    """The model's name in every table of the run."""
    checkpoint: str
    checkpoint_digest: str
    data: str
    data_digest: str
    selection: str = ""
    """Which items were asked, if not whole splits: such items are no random sample of the data."""
    generation: GenerationSettings | None = GenerationSettings()
    """None for answers of another tool, whose settings are unknown."""
    batch_size: int = 16
    batch_tokens: int | None = None
    device: str = "cpu"
    dtype: str = "auto"
    quantization: Quantization | None = Field(default=None, exclude_if=lambda value: value is None)
    image_pixels: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """To how many pixels images were scaled down for a server; None where none had more."""
    backend: str = "local"
    """"local", "server" (OpenAI-compatible) or "import" (answers of another tool)."""
    variants: dict[str, str]
    """Digest of each variant's adapter, empty for the base; a server's model name; the digest of an imported file."""
    prompts: dict[str, Prompting] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Prompting of each variant that has one."""
    image_limits: dict[str, int] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Limits of one image, where the run was given any."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Fields of ``generation`` that a server ignored: "turned down" or "not kept to"; known once it has answered."""
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

    def samples(self) -> list[Sample]:
        """Items asked so far; image paths are relative to the data folder."""
        return _stored(self.folder / SAMPLES, Sample)

    def keep_samples(self, samples: Iterable[Sample]) -> None:
        """Add items to ``samples.jsonl``; stored ones are not changed."""
        with self.locked():
            kept: dict[str, Sample] = {sample.id: sample for sample in self.samples()}
            more = {sample.id: sample for sample in samples if sample.id not in kept}
            if more:
                write_records(self.folder / SAMPLES, [*kept.values(), *more.values()])

    def trained_on(self) -> dict[str, frozenset[str]]:
        """Ids of the items that each variant was trained on, as far as its adapter or checkpoint records them.

        Raises:
            DataError: the file cannot be read.
        """
        path = self.folder / TRAINED_ON
        if not path.exists():
            return {}
        try:
            return TypeAdapter(dict[str, frozenset[str]]).validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(
                f"{path}: expected {{variant: [sample id]}}, found {error.error_count()} mistakes; remove "
                "the file and run the command of the run again, which writes it"
            ) from error

    def note_trained_on(self, ids: Mapping[str, Iterable[str]]) -> None:
        """Add to what each variant was trained on."""
        if any(ids.values()):
            with self.locked():
                known = self.trained_on()
                merged = {name: sorted({*known.get(name, ()), *ids.get(name, ())}) for name in {**known, **ids}}
                write_atomic(self.folder / TRAINED_ON, (json.dumps(merged, indent=1) + "\n").encode())

    def responses(self) -> list[Response]:
        """All answers so far in the order of their files, shards included; each (sample, variant) once."""
        # Shards first: an answer merged meanwhile is then read twice instead of missed.
        sharded = [one for file in self._shards() for one in _stored(file, Response)]
        found: dict[tuple[str, str], Response] = {}
        for response in (*_stored(self.folder / RESPONSES, Response), *sharded):
            found.setdefault(_key(response), response)
        return list(found.values())

    @contextmanager
    def writing(self, file: str) -> Iterator[None]:
        """Lock a file of the folder for appending; the lock of a process that dies is released.

        Raises:
            SettingsError: another process is writing it.
        """
        with ExitStack() as held:
            with self.locked():  # no merge or replacement at the same time
                held.enter_context(hold(self._lock_of(file), SettingsError(self._refusal(file))))
            yield

    def settle(self, wanted: Collection[tuple[str, str]] = ()) -> list[Response]:
        """Merge shards into ``responses.jsonl``, in the order of variants and samples; returns all answers.

        Nothing is merged or sorted while another process writes one of the files (that process or a later call does),
        or while an answer of ``wanted``, (sample id, variant), is missing.
        """
        with self.locked():
            # Locks decide, not files: a shard may be locked before its file exists.
            held = any(is_held(lock) for lock in (self._lock_of(RESPONSES), *self._locks_of(SHARDS)))
            shards = self._shards()
            answers = self.responses()
            if held or not {*wanted} <= {_key(one) for one in answers}:
                return answers
            rank = {
                (sample.id, variant): place
                for place, (variant, sample) in enumerate(product(self.config.variants, self.samples()))
            }
            ordered = sorted(answers, key=lambda one: _rank(rank, _key(one)))
            if shards or ordered != answers:
                write_records(self.folder / RESPONSES, ordered)
            for shard in shards:  # last: a process killed before loses no answer
                shard.unlink()
            if shards:
                (self.folder / SHARDS).rmdir()
            return ordered

    def locked(self) -> AbstractContextManager[None]:
        """The lock over all versions of the run, for changes to shared files."""
        return _locked(self.folder.parent.parent, self.folder.parent.name)

    def verdicts(self, judge: str) -> list[Verdict]:
        """The stored verdicts of one judge."""
        return _stored(self.folder / self.verdict_file(judge), Verdict)

    def verdict_file(self, judge: str) -> str:
        """Path of a judge's verdicts within the folder."""
        return f"{VERDICTS}/{judge}.jsonl"

    def fresh_verdicts(self, judge: str, fingerprint: str) -> dict[tuple[str, str], Verdict]:
        """The stored verdicts of a judge by (sample, variant); none if its fingerprint is another one by now."""
        fresh = self.config.judges.get(judge) == fingerprint
        return {_key(one): one for one in self.verdicts(judge)} if fresh else {}

    def add_verdicts(
        self, judge: str, fingerprint: str, verdicts: Sequence[Verdict], answers: Sequence[Response] | None = None
    ) -> None:
        """Store verdicts with those of the same fingerprint, in the order of the answers; others are removed.

        Args:
            judge: its name, also the file's.
            fingerprint: digest of everything its verdicts depend on.
            verdicts: replace stored ones on the same answers; nothing is done without any.
            answers: the run's responses, if read already.

        Raises:
            SettingsError: another process is writing verdicts of this judge.
        """
        if not verdicts:
            return
        with self.locked():
            file = self.verdict_file(judge)
            if is_held(self._lock_of(file)):
                raise SettingsError(self._refusal(file))
            merged = self.fresh_verdicts(judge, fingerprint) | {_key(one): one for one in verdicts}
            if answers is None or merged.keys() - {_key(one) for one in answers}:
                answers = self.responses()  # another process may have judged later answers meanwhile
            write_records(self.folder / file, _ordered(merged.values(), answers))
            self._note("judges", {judge: fingerprint})

    def begin_verdicts(self, judge: str, fingerprint: str) -> Path:
        """The file for a judge's verdicts (append while ``writing`` it), without those of another fingerprint."""
        path = self.folder / self.verdict_file(judge)
        with self.locked():  # judges may begin together
            if self.config.judges.get(judge) != fingerprint:
                path.unlink(
                    missing_ok=True
                )  # before the new fingerprint: after a kill in between, old verdicts must not count as new
                self._note("judges", {judge: fingerprint})
        return path

    def settle_verdicts(self, judge: str) -> list[Verdict]:
        """Sort a judge's file by the order of the answers; returns its verdicts. Call it while ``writing`` the file."""
        verdicts = self.verdicts(judge)
        latest = {_key(one): one for one in verdicts}
        ordered = _ordered(latest.values(), self.responses())
        if ordered != verdicts:
            write_records(self.folder / self.verdict_file(judge), ordered)
        return ordered

    def note_left_out(self, left_out: Mapping[str, str]) -> None:
        """Store the settings that a server ignored."""
        if left_out:
            with self.locked():
                self._note("left_out", left_out)

    def write_metrics(self, rows: Sequence[Record]) -> None:
        """Store a report's rows in ``metrics.json``."""
        content = json.dumps([row.model_dump(mode="json") for row in rows], indent=1)
        write_atomic(self.folder / METRICS, f"{content}\n".encode())

    def save(self, config: RunConfig) -> None:
        """Write the configuration; the caller holds the lock, or the run is new."""
        write_atomic(self.folder / CONFIG, dump_settings(config).encode())

    def _shards(self) -> list[Path]:
        try:
            return sorted((self.folder / SHARDS).glob("*.jsonl"))
        except FileNotFoundError:  # another process has just merged them
            return []

    def _lock_of(self, file: str) -> Path:
        return self.folder.with_name(f".{self.folder.name}.{file.replace('/', '.')}.lock")

    def _locks_of(self, folder: str) -> list[Path]:
        return list(self.folder.parent.glob(f".{self.folder.name}.{folder}.*.lock"))

    def _refusal(self, file: str) -> str:
        return (
            f"{self.folder}: another process is writing {file}; "
            "wait until it has ended, then run the same command again"
        )

    def _note(self, field: str, more: Mapping[str, str]) -> None:
        """Add to a field of the configuration; the caller holds the lock, or notes of other processes are lost."""
        config = self.config
        self.save(config.model_copy(update={field: {**getattr(config, field), **more}}))


def open_run(root: Path, name: str, config: RunConfig) -> Run:
    """Resume the newest version of ``root/name`` that fits the configuration, or begin the next one.

    Raises:
        SettingsError: the name cannot be a folder's.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise SettingsError(f"run name {name!r}: expected letters, digits, '.', '_' and '-' only")
    with _locked(root, name):  # shards of one run start together
        for run in reversed(versions(root, name)):
            if _fits(run.config, config):
                more = {name: getattr(run.config, name) | getattr(config, name) for name in ("variants", "prompts")}
                merged = run.config.model_copy(update=more)
                if merged != run.config:
                    run.save(merged)
                return run
        return _begin(root / name, config)


def versions(root: Path, name: str) -> list[Run]:
    """All versions of a run, oldest first; folders without ``config.yaml`` and training runs are skipped."""
    folders = [
        folder
        for folder in (root / name).glob("v*")
        if re.fullmatch(r"v\d+", folder.name) and (folder / CONFIG).exists() and not is_training(folder)
    ]
    return [Run(folder) for folder in sorted(folders, key=lambda folder: int(folder.name[1:]))]


def is_training(folder: Path) -> bool:
    """Whether the folder is a training run (``results.train_runs``): its environment has ``digests``."""
    path = folder / ENVIRONMENT
    try:
        return path.exists() and "digests" in json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # damaged: reading its config names the fault
        return False


def folder_digest(folder: Path) -> str:
    """Digest of a folder's content: its manifest's if it has one, else over all files except those named here.

    An adapter's ``base.json`` and ``trained_on.json`` are left out: no answer depends on them.
    Images unpacked from a table are left out: reading the table creates them, and an interrupted training must find
    its run again.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder, found none")
    if (folder / MANIFEST).exists():
        return sha256(folder / MANIFEST)
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = PurePosixPath(path.relative_to(folder).as_posix())
        is_record = path.name == TRAINED_ON or (path.name == BASE_FILE and (path.parent / WEIGHTS).exists())
        if not is_record and not is_unpacked(relative):
            found.update(f"{relative} {path.stat().st_size} {_file_digest(path)}\n".encode())
    return found.hexdigest()


def digest_of(path: Path) -> str:
    """Digest of a data file, or of a folder's content; raises as ``folder_digest``."""
    return sha256(path) if path.is_file() else folder_digest(path)


def environment(device: str) -> dict[str, Any]:
    """Versions, machine, device, git revision, and whether the checkout has changes."""
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


def read_note(folder: Path) -> str:
    """The note in a run's folder; empty where there is none."""
    try:
        return (folder / NOTE).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""


def fitting(text: str) -> str:
    """A note as it is stored, without space around it.

    Raises:
        SettingsError: it is too long.
    """
    text = text.strip()
    if len(text) > LONGEST:
        raise SettingsError(f"note: expected at most {LONGEST:,} characters, found {len(text):,}; shorten it")
    return text


def write_note(folder: Path, text: str) -> None:
    """Replace the note in a run's folder; an empty one removes it.

    Raises:
        SettingsError: it is too long.
    """
    if text := fitting(text):
        write_atomic(folder / NOTE, f"{text}\n".encode())
    else:
        (folder / NOTE).unlink(missing_ok=True)


def _stored(path: Path, kind: type[R]) -> list[R]:
    """The records of a file; none if it is missing, or was removed while it was read."""
    try:
        return read_records(path, kind)
    except DataError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise


def _key(one: Response | Verdict) -> tuple[str, str]:
    return one.sample_id, one.variant


def _ordered(verdicts: Iterable[Verdict], answers: Iterable[Response]) -> list[Verdict]:
    """Verdicts in the order of the answers."""
    rank = {_key(one): place for place, one in enumerate(answers)}
    return sorted(verdicts, key=lambda one: _rank(rank, _key(one)))


def _rank(rank: Mapping[tuple[str, str], int], key: tuple[str, str]) -> tuple[int, tuple[str, str]]:
    return rank.get(key, len(rank)), key


def _locked(root: Path, name: str) -> AbstractContextManager[None]:
    return hold(root / f".{name}.lock")


def _fits(old: RunConfig, new: RunConfig) -> bool:
    """Whether both give the same answers; names, paths, results and variants of only one of them are ignored.

    So is the limit of images if none of those asked now has more pixels.
    """
    ignored = {"tag", "checkpoint", "data", "variants", "prompts", "judges", "left_out"}
    if new.image_pixels is None:
        ignored.add("image_pixels")
    shared = old.variants.keys() & new.variants.keys()
    return old.model_dump(exclude=ignored) == new.model_dump(exclude=ignored) and all(
        old.variants[name] == new.variants[name] and old.prompts.get(name) == new.prompts.get(name) for name in shared
    )


def _begin(parent: Path, config: RunConfig) -> Run:
    taken = [int(folder.name[1:]) for folder in parent.glob("v*") if folder.name[1:].isdigit()]
    begun = Run(parent / ".begun")  # renamed once it is a run: a kill before that leaves no version that is none
    shutil.rmtree(begun.folder, ignore_errors=True)  # of an earlier kill; the caller holds the lock
    begun.folder.mkdir(parents=True)
    seed = config.generation.seed if config.generation else None
    content = json.dumps(environment(config.device) | {"data_digest": config.data_digest, "seed": seed}, indent=1)
    write_atomic(begun.folder / ENVIRONMENT, f"{content}\n".encode())
    begun.save(config)
    return Run(begun.folder.rename(parent / f"v{max(taken, default=0) + 1}"))


def _file_digest(path: Path) -> str:
    size = path.stat().st_size
    if size <= HASHED_WHOLE:
        return sha256(path)
    with path.open("rb") as stream:
        head = stream.read(HASHED_WHOLE // 2)
        stream.seek(size - HASHED_WHOLE // 2)
        return digest(head + stream.read())


def _git(*arguments: str) -> str:
    """Output of git for this checkout; empty without git or a checkout."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
