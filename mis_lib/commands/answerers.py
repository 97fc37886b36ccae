"""Who answers: a checkpoint and its adapters on this machine, or a server. Both say who they are and fill in what a run lacks."""

import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mis_lib import console
from mis_lib.commands.generate_settings import GenerateSettings
from mis_lib.data.tokens import find_checkpoint
from mis_lib.errors import ModelError, SettingsError
from mis_lib.files import append_record, open_append
from mis_lib.generate.keys import AnswerKeys
from mis_lib.generate.server import Failure
from mis_lib.models.limits import shared_limits
from mis_lib.recipes.progress import bar
from mis_lib.results.runs import RESPONSES, SHARDS, Run
from mis_lib.schema import Response, Sample
from mis_lib.store.provenance import folder_digest

Key = tuple[str, str]  # (sample id, variant)


class Local:
    """A checkpoint and its adapters on this machine."""

    def __init__(self, settings: GenerateSettings, checkpoint: Path, adapters: Mapping[str, Path | None]) -> None:
        self.settings, self.checkpoint, self.adapters = settings, checkpoint, adapters
        self.index, self.count = _shard(settings)
        self.file = RESPONSES if self.count == 1 else f"{SHARDS}/{self.index + 1}-of-{self.count}.jsonl"

    @classmethod
    def of(cls, settings: GenerateSettings) -> "Local":
        """The checkpoint and adapters that the settings name.

        Raises:
            MisError: one of them is not there.
        """
        known = known_variants(settings)
        all_known("--variants", settings.variants, known)
        adapters = {variant: known[variant] for variant in settings.variants}
        return cls(settings, local_checkpoint(settings.checkpoint), adapters)

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

    @property
    def sees(self) -> dict[str, Any]:
        """How images are read, where the adapters' limits differ from the checkpoint's own; a part of each answer's key.

        Raises:
            SettingsError: the adapters were trained with different limits.
        """
        limits = shared_limits(self.adapters).given
        return {"image_limits": limits} if limits else {}

    def generate(
        self, samples: Sequence[Sample], data: Path, run: Run, keys: AnswerKeys, missing: set[Key]
    ) -> list[Failure]:
        """Answer in batches; what other shards are to answer is left to them."""
        console.say(f"Generating {len(missing):,} responses; an interrupted run goes on where it stopped")
        from mis_lib.generate.batch import Shard, generate
        from mis_lib.generate.engine import Engine  # torch and transformers take seconds to import

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


class Server:
    """A server that speaks the OpenAI API; variants are names of its models."""

    def __init__(self, settings: GenerateSettings, models: Mapping[str, str]) -> None:
        from mis_lib.clients.openai import Caller, open_client

        self.settings, self.models, self.file = settings, models, RESPONSES
        self._caller = Caller(open_client(settings.server or "", retries=settings.retries, timeout=settings.timeout))

    @classmethod
    def of(cls, settings: GenerateSettings) -> "Server":
        """The server that the settings name.

        Raises:
            SettingsError: a shard is asked for, a model of an unknown variant, or what is no server's address.
        """
        if settings.shard is not None:
            raise SettingsError("--shard goes with a local model; a server shares its work by itself")
        named = settings.models or {}
        unknown = [name for name in named if name not in settings.variants]
        if unknown:
            raise SettingsError(f"models: unknown variant {unknown[0]!r}; asked for: {', '.join(settings.variants)}")
        return cls(settings, {variant: named.get(variant, variant) for variant in settings.variants})

    @property
    def identity(self) -> dict[str, Any]:
        """As ``Local.identity``; a server's weights cannot be hashed, so its models are known by their names."""
        return {
            "tag": ", ".join(dict.fromkeys(self.models.values())),
            "checkpoint": self.settings.server,
            "checkpoint_digest": "",
            "device": "server",
            "backend": "server",
            "variants": dict(self.models),
        }

    @property
    def sees(self) -> dict[str, Any]:
        """Nothing: how a server reads images is its own business."""
        return {}

    def generate(
        self, samples: Sequence[Sample], data: Path, run: Run, keys: AnswerKeys, missing: set[Key]
    ) -> list[Failure]:
        """Ask for what is missing, many answers at a time; returns what got none."""
        from mis_lib.generate.server import generate_by_server, keeps_seed
        from mis_lib.teachers.sampling import NOT_KEPT, in_words, turned_down

        settings, given = self.settings, list[Response]()
        with open_append(run.folder / RESPONSES) as stream, bar("generating") as progress:
            task = progress.add_task("", total=len(missing))

            def receive(response: Response) -> None:
                append_record(stream, response)
                given.append(response)
                progress.update(task, advance=1, description=response.variant)

            async def ask() -> tuple[list[Failure], bool]:
                failures = await generate_by_server(
                    samples,
                    data,
                    self._caller,
                    self.models,
                    settings.generation,
                    receive,
                    wanted=lambda sample, variant: (sample.id, variant) in missing,
                    key=keys.of,
                    images_as=settings.images_as,
                    concurrency=settings.concurrency,
                )
                kept = await keeps_seed(
                    given, samples, data, self._caller, self.models, settings.generation, settings.images_as
                )
                return failures, kept

            failures, kept = asyncio.run(ask())
        left_out = turned_down(self._caller.left_out) or ({} if kept else {"seed": NOT_KEPT})
        run.note_left_out(left_out)
        for words in in_words(settings.server or "", left_out, settings.generation.temperature):
            console.say(words)
        return failures


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
    with bar("generating") as progress:
        task = progress.add_task("", total=total)
        for response in responses:
            progress.update(task, advance=1, description=response.variant)
            yield response


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


def local_checkpoint(named: Path | None) -> Path:
    """The folder of a checkpoint: of a path, of a hub id in the local cache, or of the embedded model (built if it is missing).

    Raises:
        ModelError: there is no such checkpoint here.
    """
    if named is None:
        from mis_lib.models.mini.assemble import ensure_mini

        return ensure_mini(console.say)
    found = find_checkpoint(str(named)) if not named.is_dir() or (named / "config.json").exists() else None
    if found is None:
        hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(named)) is not None
        way = f"fetch it first: hf download {named}" if hub else "check the path"
        raise ModelError(f"{named}: expected a checkpoint folder, or the id of a model in the local hub cache; {way}")
    return found
