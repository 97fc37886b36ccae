"""``mis generate``: variants answer samples into a run folder, on this machine or by a server, in one process or in many.

What a run was asked with stands in its ``config.yaml``; other settings open the next version, so settings never mix in one run. Only what is missing
is generated, and an answer that an older version holds under the same key is taken over. Shards (``--shard 1/4``, or ``accelerate launch``) write
files of their own, which are merged by whichever process finds the run complete.
"""

import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, model_validator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mis_lib import console
from mis_lib.configs import GenerationSettings, Settings
from mis_lib.data.budget import find_checkpoint
from mis_lib.data.sources import find_source, load
from mis_lib.data.spread import spread
from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import append_record, open_append, read_records, sha256
from mis_lib.generate.keys import AnswerKeys
from mis_lib.generate.server import CONCURRENCY, Failure, ImagesAs
from mis_lib.schema import Response, Sample
from mis_lib.store.runs import RESPONSES, SHARDS, Run, RunConfig, folder_digest, open_run, versions

PAPER = GenerationSettings(max_new_tokens=1024)
Key = tuple[str, str]  # (sample id, variant)


class GenerateSettings(Settings):
    """What is asked of whom, and where the answers are kept; every field has a default that needs nothing but this package."""

    variants: tuple[str, ...] = ("mini", "mirage", "refusal", "textual")
    """Who answers [default: all of ``models`` or ``adapters``, "base" for another checkpoint or server, or the four shipped ones]."""
    splits: tuple[str, ...] = ("easy", "hard", "real")
    data: Path | None = None
    """Folder with one JSON Lines file a split, a data file of any known form, or a published set; MIS-Mini if not given."""
    checkpoint: Path | None = None
    """Checkpoint folder or hub id in the local cache; the embedded model if not given."""
    adapters: dict[str, Path | None] | None = None
    """PEFT folder of each variant (null: the checkpoint itself); the shipped ones if not given."""
    generation: GenerationSettings = PAPER
    batch_size: int = Field(default=16, ge=1)
    batch_tokens: int | None = Field(default=32_768, ge=1)
    """Prompts and longest answers of a batch with padding; null: no bound."""
    device: str = "cpu"
    dtype: str = "auto"
    """Number type of the weights; auto: what suits the machine. Name one where shards run on different machines."""
    limit: int | None = None
    """At most so many harmful items a split, each with its twin."""
    runs: Path = Path("runs")
    name: str = "generate"
    server: str | None = None
    """URL or URL#MODEL of an OpenAI-compatible server that answers instead of a checkpoint here; its key comes from OPENAI_API_KEY."""
    models: dict[str, str] | None = None
    """Name of the served model, or of its LoRA, for each variant [default: the variant's own name, or MODEL]."""
    images_as: ImagesAs = ImagesAs.BASE64
    concurrency: int = Field(default=CONCURRENCY, ge=1, le=1024)
    retries: int = Field(default=5, ge=0, le=20)
    timeout: float = Field(default=300.0, gt=0)
    """Seconds for one call to a server."""
    shard: str | None = Field(default=None, pattern=r"^\d+/\d+$")
    """"1/4": the first of four processes that share the work; told by accelerate launch if not given."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        if isinstance(asked := values.get("generation"), Mapping):  # what is not said stays as it is here
            values = {**values, "generation": {**cls.model_fields["generation"].default.model_dump(), **asked}}
        server, _, model = str(values.get("server") or "").partition("#")
        if model and not values.get("models"):
            values = {**values, "server": server, "models": {"base": model}}
        if values.get("variants") is not None:
            return values
        if server and not values.get("models"):
            raise ValueError("a server's models must be named: server URL#MODEL, or models base=NAME mirage=LORA")
        named = values.get("models") or values.get("adapters") or (("base",) if values.get("checkpoint") else None)
        return values if named is None else {**values, "variants": tuple(named)}


class Answered(NamedTuple):
    """A run with the answers that were asked for, and what is still missing."""

    run: Run
    responses: list[Response]
    missing: list[Failure]


def generate_run(settings: GenerateSettings) -> Answered:
    """Answer everything that ``settings`` ask for and that has no answer yet.

    Raises:
        MisError: a variant, split, file, model or server cannot be used; the message says which and why.
    """
    samples, folder = read_samples(settings)
    return answer(samples, folder, settings, settings.name)


def answer_all(
    samples: Sequence[Sample], data: Path, settings: GenerateSettings, name: str
) -> tuple[Run, list[Response]]:
    """Open the run, generate what is missing, and return the responses of these samples and variants, in the order asked for.

    Raises:
        ModelError: a server left some without an answer; what it did answer is kept.
    """
    run, responses, missing = answer(samples, data, settings, name)
    if missing:
        raise ModelError(
            f"{len(missing)} answers are missing (first: {missing[0].reason}); run the same command again to go on"
        )
    return run, responses


def answer(samples: Sequence[Sample], data: Path, settings: GenerateSettings, name: str) -> Answered:
    """As ``answer_all``, but what is missing is told instead of raised.

    Args:
        samples: what is asked; a sample without images is asked as plain text.
        data: folder to which the samples' image paths are relative.
        settings: who answers, how, and where it is kept.
        name: of the run.
    """
    who = _Local.of(settings) if settings.server is None else _Server.of(settings)
    config = RunConfig(
        **who.identity,
        data=str(settings.data if settings.data and settings.data.is_file() else data),
        data_digest=_data_digest(data, settings),
        generation=settings.generation,
        batch_size=settings.batch_size if settings.server is None else 1,
        batch_tokens=settings.batch_tokens if settings.server is None else None,
        dtype=settings.dtype,
    )
    run = open_run(settings.runs, name, config)
    run.keep_samples(samples)
    same = {**settings.generation.model_dump(), "dtype": settings.dtype}
    keys = AnswerKeys(data, config.checkpoint_digest, config.variants, same)
    wanted = {(sample.id, variant): keys.of(sample, variant) for variant in settings.variants for sample in samples}
    _check_stored(run, wanted)
    file = who.file
    _adopt(run, file, wanted, settings.runs, name)
    missing = wanted.keys() - {(one.sample_id, one.variant) for one in run.responses()}
    failures = who.generate(samples, data, run, keys, missing) if missing else []
    answers = {(one.sample_id, one.variant): one for one in run.responses()}
    if wanted.keys() <= answers.keys():
        run.settle()
    return Answered(run, [answers[key] for key in wanted if key in answers], failures)


def read_samples(settings: GenerateSettings) -> tuple[list[Sample], Path]:
    """The samples that ``settings`` name, and the folder of their images.

    Raises:
        DataError: there are none, or a record is malformed.
    """
    if settings.data is None:
        folder = mini_data()
    elif settings.data.is_file() or not any((settings.data / f"{split}.jsonl").exists() for split in settings.splits):
        source = find_source(settings.data)
        return _limited(load(source), settings.limit), source.folder
    else:
        folder = settings.data
    return [sample for split in settings.splits for sample in read_split(folder, split, settings.limit)], folder


def read_split(folder: Path, split: str, limit: int | None = None) -> list[Sample]:
    """The samples of one split; with ``limit`` that many harmful items, spread over the categories, each with its twin.

    Raises:
        DataError: there is no such split, or a line of it is wrong.
    """
    path = folder / f"{split}.jsonl"
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl"))) or "none"
        raise DataError(f"{path}: expected the data file of split {split!r}, found none; splits there: {there}")
    return _limited(read_records(path, Sample), limit)


def _limited(samples: list[Sample], limit: int | None) -> list[Sample]:
    if limit is None:
        return samples
    kept = spread([sample for sample in samples if sample.harmful] or samples, limit)
    wanted = {sample.id for sample in kept} | {sample.twin_id for sample in kept}
    return [sample for sample in samples if sample.id in wanted]


class _Local:
    """A checkpoint and its adapters on this machine."""

    def __init__(self, settings: GenerateSettings, checkpoint: Path, adapters: Mapping[str, Path | None]) -> None:
        self.settings, self.checkpoint, self.adapters = settings, checkpoint, adapters
        self.index, self.count = _shard(settings)
        self.file = RESPONSES if self.count == 1 else f"{SHARDS}/{self.index + 1}-of-{self.count}.jsonl"

    @classmethod
    def of(cls, settings: GenerateSettings) -> "_Local":
        known = known_variants(settings)
        all_known("--variants", settings.variants, known)
        adapters = {variant: known[variant] for variant in settings.variants}
        return cls(settings, _checkpoint(settings.checkpoint), adapters)

    @property
    def identity(self) -> dict[str, Any]:
        """The part of the run's configuration that says who answers."""
        return {
            "tag": "mini" if self.settings.checkpoint is None else self.settings.checkpoint.name,
            "checkpoint": str(self.checkpoint),
            "checkpoint_digest": folder_digest(self.checkpoint),
            "device": self.settings.device,
            "variants": {
                variant: "" if folder is None else folder_digest(folder) for variant, folder in self.adapters.items()
            },
        }

    def generate(
        self, samples: Sequence[Sample], data: Path, run: Run, keys: AnswerKeys, missing: set[Key]
    ) -> list[Failure]:
        """Answer in batches; what other shards are to answer is left to them."""
        console.say(f"Generating {len(missing):,} responses; an interrupted run goes on where it stopped")
        from mis_lib.generate.engine import Engine  # torch and transformers take seconds to import
        from mis_lib.generate.local import Shard, generate

        settings = self.settings
        dtype = None if settings.dtype == "auto" else settings.dtype
        engine = Engine.load(self.checkpoint, self.adapters, _own_device(settings.device), dtype)
        names = {variant: None if folder is None else variant for variant, folder in self.adapters.items()}
        answers = generate(
            samples,
            data,
            engine,
            names,
            settings.generation,
            run.folder,
            batch_size=settings.batch_size,
            batch_tokens=settings.batch_tokens,
            shard=Shard(self.index, self.count),
            file=self.file,
            done={(one.sample_id, one.variant) for one in run.responses()},
            key=keys.of,
        )
        total = len(missing) if self.count == 1 else None
        for _ in shown(answers, total):
            pass
        return []


class _Server:
    """A server that speaks the OpenAI API; variants are names of its models."""

    def __init__(self, settings: GenerateSettings, models: Mapping[str, str]) -> None:
        self.settings, self.models, self.file = settings, models, RESPONSES

    @classmethod
    def of(cls, settings: GenerateSettings) -> "_Server":
        if settings.shard is not None:
            raise SettingsError("--shard goes with a local model; a server shares its work by itself")
        named = settings.models or {}
        unknown = [name for name in named if name not in settings.variants]
        if unknown:
            raise SettingsError(f"models: unknown variant {unknown[0]!r}; asked for: {', '.join(settings.variants)}")
        return cls(settings, {variant: named.get(variant, variant) for variant in settings.variants})

    @property
    def identity(self) -> dict[str, Any]:
        """As ``_Local.identity``; a server's weights cannot be hashed, so its models are known by their names."""
        return {
            "tag": ", ".join(dict.fromkeys(self.models.values())),
            "checkpoint": self.settings.server,
            "checkpoint_digest": "",
            "device": "server",
            "backend": "server",
            "variants": dict(self.models),
        }

    def generate(
        self, samples: Sequence[Sample], data: Path, run: Run, keys: AnswerKeys, missing: set[Key]
    ) -> list[Failure]:
        """Ask for what is missing, many answers at a time; returns what got none."""
        from mis_lib.generate.server import generate_by_server
        from mis_lib.teachers.server import Caller, open_client

        settings = self.settings
        client = open_client(settings.server or "", retries=settings.retries, timeout=settings.timeout)
        with open_append(run.folder / RESPONSES) as stream, _progress("generating") as progress:
            task = progress.add_task("", total=len(missing))

            def receive(response: Response) -> None:
                append_record(stream, response)
                progress.update(task, advance=1, description=response.variant)

            return asyncio.run(
                generate_by_server(
                    samples,
                    data,
                    Caller(client),
                    self.models,
                    settings.generation,
                    receive,
                    wanted=lambda sample, variant: (sample.id, variant) in missing,
                    key=keys.of,
                    images_as=settings.images_as,
                    concurrency=settings.concurrency,
                )
            )


def _check_stored(run: Run, wanted: Mapping[Key, str]) -> None:
    """Refuse to mix answers to pictures or questions that have changed under the same names."""
    for one in run.responses():
        expected = wanted.get((one.sample_id, one.variant), one.key)
        if one.key and one.key != expected:
            raise DataError(
                f"{run.folder}: sample {one.sample_id!r} was answered with other content (key {one.key[:12]}, now {expected[:12]}); "
                "its images or question have changed since: take another --name"
            )


def _adopt(run: Run, file: str, wanted: Mapping[Key, str], root: Path, name: str) -> None:
    """Take over from older versions what was answered there under the same key."""
    have = {(one.sample_id, one.variant) for one in run.responses()}
    missing = {key: digest for key, digest in wanted.items() if key not in have}
    if not missing:
        return
    older = [one for other in versions(root, name) if other != run for one in other.responses()]
    found = {key: one for one in older if one.key and missing.get(key := (one.sample_id, one.variant)) == one.key}
    if found:
        with open_append(run.folder / file) as stream:
            for response in found.values():
                append_record(stream, response)


def _data_digest(data: Path, settings: GenerateSettings) -> str:
    if settings.data is not None and settings.data.is_file():
        return sha256(settings.data)  # its images are in the keys of the answers
    return folder_digest(data)


def _shard(settings: GenerateSettings) -> tuple[int, int]:
    """(index, count) of this process: as given, as accelerate and torchrun tell, or the only one."""
    if settings.shard is None:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    number, count = (int(part) for part in settings.shard.split("/"))
    if not 1 <= number <= count:
        raise SettingsError(f"--shard {settings.shard}: expected 1/N to N/N")
    return number - 1, count


def _own_device(device: str) -> str:
    """The GPU of this process where accelerate has started one for each."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if device == "cuda" and rank is not None else device


def shown(responses: Iterator[Response], total: int | None) -> Iterator[Response]:
    """Pass the responses on under a progress bar on standard error."""
    with _progress("generating") as progress:
        task = progress.add_task("", total=total)
        for response in responses:
            progress.update(task, advance=1, description=response.variant)
            yield response


def _progress(what: str) -> Progress:
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=console.log, transient=True)


def all_known(flag: str, values: Sequence[str], known: Mapping[str, Any] | Sequence[str]) -> None:
    """Refuse values that are unknown, repeated, or none at all.

    Raises:
        SettingsError: names the flag and what is known.
    """
    listed = list(known)
    for value in values:
        if value not in listed:
            raise SettingsError(f"{flag}: unknown {value!r}; known here: {', '.join(listed)}")
    if not values or len(set(values)) != len(values):
        raise SettingsError(
            f"{flag}: expected each of {', '.join(listed)} at most once and at least one, found {values}"
        )


def known_variants(settings: GenerateSettings) -> Mapping[str, Path | None]:
    """The PEFT folder of each variant that may be asked for, ``None`` for the checkpoint itself."""
    from mis_lib.models.shipped import choose_variants

    return settings.adapters if settings.adapters is not None else choose_variants(settings.checkpoint, None)


def _checkpoint(named: Path | None) -> Path:
    if named is None:
        from mis_lib.models.mini import ensure_mini

        return ensure_mini(console.say)
    found = find_checkpoint(str(named)) if not named.is_dir() or (named / "config.json").exists() else None
    if found is None:
        hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(named)) is not None
        way = f"fetch it first: hf download {named}" if hub else "check the path"
        raise ModelError(f"{named}: expected a checkpoint folder, or the id of a model in the local hub cache; {way}")
    return found


def mini_data() -> Path:
    """MIS-Mini, drawn if it is not there."""
    from mis_lib.construct.pipeline import ensure_mini_data

    return ensure_mini_data(console.say)
