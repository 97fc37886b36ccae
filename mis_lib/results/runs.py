"""Run folders: everything that one evaluation was made of, in files that can be read without this project.

    runs/NAME/vN/  config.yaml         what was asked for; decides which later call may go on here
                   environment.json    versions, device, git revision: what may differ between machines
                   samples.jsonl       what was asked, so that the run can be read where its data are not
                   responses.jsonl     append-only, one answer a line
                   shards/I-of-N.jsonl answers of several processes, until they are merged
                   verdicts/JUDGE.jsonl, metrics.json, note.md (``notes``)
    runs/NAME/.vN.FILE.lock            held by the process that appends to FILE
    runs/.NAME.lock                    held for the moment in which files are begun, merged or replaced

Several processes may work at one run, each at files of its own: shards, or verdicts of different judges. A file is appended to by one process at a
time (``Run.writing``), a second one is refused, and nobody replaces or removes a file that another process appends to, since what that writes from
then on would be lost. Readers take no lock: what is there can be read at any time.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import Field

from mis_lib import __version__
from mis_lib.cache import MANIFEST
from mis_lib.data.images import is_unpacked
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import digest, hold, is_held, read_records, sha256, write_atomic, write_records
from mis_lib.models.adapters import BASE_FILE, WEIGHTS
from mis_lib.schema import Asked, Record, Response, Sample, Verdict
from mis_lib.settings import GenerationSettings, Settings, dump_settings, load_settings

CONFIG, ENVIRONMENT, RESPONSES, METRICS = "config.yaml", "environment.json", "responses.jsonl", "metrics.json"
SAMPLES, SHARDS, VERDICTS, PROBES = "samples.jsonl", "shards", "verdicts", "probes.jsonl"
R = TypeVar("R", bound=Record)


class RunConfig(Settings):
    """What the answers of a run follow from. Digests decide; paths are there for people."""

    tag: str
    """Stands in every table that is made from the run: the model's name."""
    checkpoint: str
    checkpoint_digest: str
    data: str
    data_digest: str
    selection: str = ""
    """Which items were asked, where it was not a whole split: what they have in common is no sample of the data."""
    generation: GenerationSettings | None = GenerationSettings()
    """None where answers came from another tool, whose settings are not known."""
    batch_size: int = 16
    batch_tokens: int | None = None
    device: str = "cpu"
    dtype: str = "auto"
    backend: str = "local"
    """"local"; "server" where answers came from an OpenAI-compatible server, "import" where another tool's were taken in."""
    variants: dict[str, str]
    """Digest of each variant's adapter, empty for the base; name of the served model where a server answered; digest of the file that was taken in."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Of ``generation``, what a server did not go by: "turned down" or "not kept to" (``teachers.sampling``); found out when it answers."""
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
        return _stored(self.folder / SAMPLES, Asked)

    def keep_samples(self, samples: Iterable[Sample]) -> None:
        """Keep what is asked beside the answers; what is there already stays as it is."""
        with self.locked():
            kept: dict[str, Sample] = {sample.id: sample for sample in self.samples()}
            more = {sample.id: sample for sample in samples if sample.id not in kept}
            if more:
                write_records(self.folder / SAMPLES, [*kept.values(), *more.values()])

    def responses(self) -> list[Response]:
        """All answers so far, in the order they were given, those of shards included; each (sample, variant) once."""
        # Shards first: those that are merged from now on are then found twice, not out of sight.
        sharded = [one for file in self._shards() for one in _stored(file, Response)]
        found: dict[tuple[str, str], Response] = {}
        for response in (*_stored(self.folder / RESPONSES, Response), *sharded):
            found.setdefault((response.sample_id, response.variant), response)
        return list(found.values())

    @contextmanager
    def writing(self, file: str) -> Iterator[None]:
        """Let no other process append to a file of the folder, or replace it, while the block lasts; a process that dies lets go of it.

        Raises:
            SettingsError: another process is writing it.
        """
        with ExitStack() as held:
            with self.locked():  # not while somebody merges or replaces it
                held.enter_context(hold(self._lock_of(file), SettingsError(self._refusal(file))))
            yield

    def settle(self) -> None:
        """Merge what shards and an asynchronous server have answered into one file, without loss and the same however it came about.

        Where another process is still writing one of the files, all stay as they are: that process or a later call merges them.
        """
        with self.locked():
            # By the locks, not by the files: a shard may be about to be begun.
            if any(is_held(lock) for lock in (self._lock_of(RESPONSES), *self._locks_of(SHARDS))):
                return
            shards = self._shards()
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

    def locked(self) -> AbstractContextManager[None]:
        """The lock over all versions of the run, for changes to what several processes share."""
        return _locked(self.folder.parent.parent, self.folder.parent.name)

    def verdicts(self, judge: str) -> list[Verdict]:
        """The stored verdicts of one judge."""
        return _stored(self.folder / self.verdict_file(judge), Verdict)

    def verdict_file(self, judge: str) -> str:
        """Where the verdicts of a judge are, in the folder."""
        return f"{VERDICTS}/{judge}.jsonl"

    def judge_all(
        self, judge: str, fingerprint: str, decide: Callable[[Sample, Response], Verdict], samples: Sequence[Sample]
    ) -> list[Verdict]:
        """Verdicts on all responses to ``samples``: stored ones where the judge has not changed, new ones for the rest.

        Args:
            judge: its name, also the file's.
            fingerprint: digest of everything its verdicts follow from; another one than stored makes all of them anew.
            decide: judges one response.
            samples: responses to other samples are left aside.

        Raises:
            SettingsError: another process is writing verdicts of this judge.
        """
        asked = {sample.id: sample for sample in samples}
        known = self._known(judge, fingerprint)
        wanted = {(one.sample_id, one.variant): one for one in self.responses() if one.sample_id in asked}
        new = {key: decide(asked[key[0]], response) for key, response in wanted.items() if key not in known}
        if new:
            with self.locked():
                file = self.verdict_file(judge)
                if is_held(self._lock_of(file)):
                    raise SettingsError(self._refusal(file))
                # another process may have judged others meanwhile
                merged = known | new | self._known(judge, fingerprint)
                write_records(self.folder / file, _ordered(merged.values(), self.responses()))
                self._note("judges", {judge: fingerprint})
        return [(known | new)[key] for key in wanted]

    def begin_verdicts(self, judge: str, fingerprint: str) -> Path:
        """The file that verdicts of this judge may be appended to (``writing`` it); those of a judge that has changed since are put aside first."""
        path = self.folder / self.verdict_file(judge)
        with self.locked():  # judges may begin together
            if self.config.judges.get(judge) != fingerprint:
                path.unlink(missing_ok=True)  # before the new one is noted: a kill between must not make old ones new
                self._note("judges", {judge: fingerprint})
        return path

    def settle_verdicts(self, judge: str) -> list[Verdict]:
        """The verdicts of a judge, their file put into the order of the answers, the same however it came about; for who is ``writing`` it."""
        verdicts = self.verdicts(judge)
        latest = {(one.sample_id, one.variant): one for one in verdicts}
        ordered = _ordered(latest.values(), self.responses())
        if ordered != verdicts:
            write_records(self.folder / self.verdict_file(judge), ordered)
        return ordered

    def note_left_out(self, left_out: Mapping[str, str]) -> None:
        """Keep what a server did not go by."""
        if left_out:
            with self.locked():
                self._note("left_out", left_out)

    def write_metrics(self, rows: Sequence[Record]) -> None:
        """Keep a report's rows beside what they were computed from."""
        content = json.dumps([row.model_dump(mode="json") for row in rows], indent=1)
        write_atomic(self.folder / METRICS, f"{content}\n".encode())

    def save(self, config: RunConfig) -> None:
        """Keep the configuration; the lock must be held, or the run be a new one."""
        write_atomic(self.folder / CONFIG, dump_settings(config).encode())

    def _shards(self) -> list[Path]:
        try:
            return sorted((self.folder / SHARDS).glob("*.jsonl"))
        except FileNotFoundError:  # merged by another process this moment
            return []

    def _known(self, judge: str, fingerprint: str) -> dict[tuple[str, str], Verdict]:
        """The stored verdicts of a judge; none where it has changed since."""
        fresh = self.config.judges.get(judge) == fingerprint
        return {(one.sample_id, one.variant): one for one in self.verdicts(judge)} if fresh else {}

    def _lock_of(self, file: str) -> Path:
        return self.folder.with_name(f".{self.folder.name}.{file.replace('/', '.')}.lock")

    def _locks_of(self, folder: str) -> list[Path]:
        return list(self.folder.parent.glob(f".{self.folder.name}.{folder}.*.lock"))

    def _refusal(self, file: str) -> str:
        return f"{self.folder}: another process is writing {file}; wait until it has ended, then run the same command again"

    def _note(self, field: str, more: Mapping[str, str]) -> None:
        """Add to a field of the configuration; the lock must be held, else what others note meanwhile is lost."""
        config = self.config
        self.save(config.model_copy(update={field: {**getattr(config, field), **more}}))


def _stored(path: Path, kind: type[R]) -> list[R]:
    """The records of a file; none where there is no such file, also if another process has removed it this moment."""
    try:
        return read_records(path, kind)
    except DataError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise


def _ordered(verdicts: Iterable[Verdict], answers: Iterable[Response]) -> list[Verdict]:
    """Verdicts in the order of the answers."""
    rank = {(one.sample_id, one.variant): place for place, one in enumerate(answers)}
    return sorted(verdicts, key=lambda one: _rank(rank, (one.sample_id, one.variant)))


def _rank(rank: Mapping[tuple[str, str], int], key: tuple[str, str]) -> tuple[int, tuple[str, str]]:
    return rank.get(key, len(rank)), key


# ---------- What a run was made with: digests of the folders that it reads, versions, machine and git revision.

VERSIONED = ("torch", "transformers", "peft", "safetensors", "pillow", "numpy")
HASHED_WHOLE = (
    16 * 2**20
)  # larger files enter a folder's digest with their size and both ends: hashing 16 GB would take a minute


def folder_digest(folder: Path) -> str:
    """Digest of a folder's content: of its manifest where it has one, else of every file in it but an adapter's ``base.json``.

    What an adapter belongs to is told for people: no answer follows from it, and none must be asked for again once it is put there.

    Pictures unpacked from a table do not count: they are there as soon as the table was read, and the table itself counts. A training would otherwise
    not find the run again that it was killed in.

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
        tells_a_base = path.name == BASE_FILE and (path.parent / WEIGHTS).exists()
        if not tells_a_base and not is_unpacked(relative):
            found.update(f"{relative} {path.stat().st_size} {_file_digest(path)}\n".encode())
    return found.hexdigest()


def digest_of(path: Path) -> str:
    """Digest of a data file, or of a folder's content; raises as ``folder_digest``."""
    return sha256(path) if path.is_file() else folder_digest(path)


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


def _file_digest(path: Path) -> str:
    size = path.stat().st_size
    if size <= HASHED_WHOLE:
        return sha256(path)
    with path.open("rb") as stream:
        head = stream.read(HASHED_WHOLE // 2)
        stream.seek(size - HASHED_WHOLE // 2)
        return digest(head + stream.read())


def _git(*arguments: str) -> str:
    """What git says about this checkout; empty where there is no git or no checkout."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# ---------- Versions of a run: which one a call goes on with, and when it begins the next.
#
# A run is resumed where nothing that its answers follow from has changed: checkpoint, data, settings, batch size and the adapter of
# every variant both know. New variants join an old run. Anything else opens the next version, so settings never mix and no file is overwritten
# by another experiment.


def open_run(root: Path, name: str, config: RunConfig) -> Run:
    """Resume the newest version of ``root/name`` whose answers follow from the same things, or begin the next one.

    Raises:
        SettingsError: the name cannot be a folder's.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise SettingsError(f"run name {name!r}: expected letters, digits, '.', '_' and '-' only")
    with _locked(root, name):  # shards of one run start together
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


def _locked(root: Path, name: str) -> AbstractContextManager[None]:
    return hold(root / f".{name}.lock")


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


# ---------- What people note about a run, in ``note.md`` of its folder: words for people, from which nothing follows, and the last who writes has said it.

NOTE = "note.md"
LONGEST = 2_000  # characters


def read_note(folder: Path) -> str:
    """The note in a run's folder; empty where there is none."""
    try:
        return (folder / NOTE).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""


def fitting(text: str) -> str:
    """A note as it is kept, without space around it.

    Raises:
        SettingsError: it is too long.
    """
    text = text.strip()
    if len(text) > LONGEST:
        raise SettingsError(f"note: expected at most {LONGEST:,} characters, found {len(text):,}; shorten it")
    return text


def write_note(folder: Path, text: str) -> None:
    """Keep a note in a run's folder in place of the one that is there; an empty one takes that away.

    Raises:
        SettingsError: it is too long.
    """
    if text := fitting(text):
        write_atomic(folder / NOTE, f"{text}\n".encode())
    else:
        (folder / NOTE).unlink(missing_ok=True)
