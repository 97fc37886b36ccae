"""``mis generate``: variants answer samples into a run folder, here or by a server, in one process or in many.

``config.yaml`` records what a run was asked for. Other settings open the next version, so settings never mix in one
run. Only what is missing is generated, and an answer that an older version holds under the same key is copied. Shards
(``--shard 1/4``, or ``accelerate launch``) write separate files, merged by the process that finds the run complete. Two
processes never write one file: the second is refused.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.clients.images import is_larger, scaled_in_words
from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import append_record, open_append
from mis_lib.generate.keys import AnswerKeys
from mis_lib.generate.prompting import Prompted, prompted, promptings
from mis_lib.generate.served import Failure
from mis_lib.models.adapters import ImageLimits, shared_limits
from mis_lib.models.packages import check_quantization
from mis_lib.models.trained_on import item_digests, read_trained_on
from mis_lib.prompts import reads_system, unknown_variables
from mis_lib.recipes.checkpoints import local_checkpoint
from mis_lib.recipes.guards import defence_of, guards_together, open_guards, ruled
from mis_lib.recipes.judge import CACHE
from mis_lib.recipes.progress import bar, say
from mis_lib.recipes.samples import data_digest, read_samples, selection_in_words
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.results.runs import RESPONSES, SHARDS, Run, RunConfig, digest_of, folder_digest, open_run, versions
from mis_lib.schema import Response, Sample
from mis_lib.settings import ImagesAs, all_known
from mis_lib.text.thoughts import answer_in, written

Key = tuple[str, str]  # (sample id, variant)


class Answered(NamedTuple):
    """A run with the answers that were asked for, and what is still missing."""

    run: Run
    responses: list[Response]
    missing: list[Failure]

    @property
    def cut(self) -> int:
        """How many answers the token limit ended; of a dialogue, any of them."""
        ends = ([one.finish_reason, *(turn.finish_reason for turn in one.earlier)] for one in self.responses)
        return sum("length" in reasons for reasons in ends)

    @property
    def cut_in_thought(self) -> int:
        """How many of them it ended within the thought, so that nothing is answered."""
        cut = (one for one in self.responses if one.finish_reason == "length")
        return sum(answer_in(written(one.thought, one.text, one.finish_reason)) is None for one in cut)


def generate_run(settings: GenerateSettings) -> Answered:
    """Answer everything that ``settings`` ask for and that has no answer yet.

    Raises:
        MisError: a variant, split, file, model or server cannot be used, or another process is writing the same file.
    """
    samples, folder = read_samples(settings)
    return answer(samples, folder, settings, settings.name)


def answer_all(
    samples: Sequence[Sample], data: Path, settings: GenerateSettings, name: str
) -> tuple[Run, list[Response]]:
    """Open the run and generate what is missing; returns the responses of these samples and variants, in that order.

    Raises:
        ModelError: answers are missing; the others are kept.
    """
    run, responses, missing = answer(samples, data, settings, name)
    if missing:
        raise ModelError(
            f"{len(missing)} answers are missing (first: {missing[0].reason}); run the same command again to continue"
        )
    return run, responses


def answer(samples: Sequence[Sample], data: Path, settings: GenerateSettings, name: str) -> Answered:
    """As ``answer_all``, but missing answers are returned, not raised.

    Args:
        samples: what is asked; without images, as plain text.
        data: folder to which the samples' image paths are relative.
        settings: who answers, how, and where it is kept.
        name: of the run.
    """
    if settings.server is None:
        from mis_lib.models.devices import device_for

        settings = settings.model_copy(update={"device": device_for(settings.device)})
    who: Local | Server = Local.of(settings) if settings.server is None else Server.of(settings)
    selection, identity = selection_in_words(settings.only), who.identity
    scaled = who.scaled(samples, data)
    config = RunConfig(
        **{**identity, "tag": ", ".join(filter(None, (identity["tag"], selection)))},
        selection=selection,
        data=str((settings.data if settings.data and settings.data.is_file() else data).resolve()),
        data_digest=data_digest(data, settings),
        generation=settings.generation,
        batch_size=settings.batch_size if settings.server is None else 1,
        batch_tokens=settings.batch_tokens if settings.server is None else None,
        dtype=settings.dtype,
        image_pixels=settings.image_pixels if scaled else None,
        prompts=promptings(who.asked),
        image_limits=limits_in(settings).given,
    )
    run = open_run(settings.runs, name, config)
    run.keep_samples(samples)
    run.note_trained_on(who.trained_on(samples, data))
    same = {**settings.generation.model_dump(), "dtype": settings.dtype} | who.sees
    defences = {name: defence_of(one, who.editors) for name, one in config.prompts.items() if one.defence}
    larger = dict.fromkeys(scaled, settings.image_pixels)
    keys = AnswerKeys(data, config.checkpoint_digest, config.variants, same, larger, config.prompts, defences)
    wanted = {(sample.id, variant): keys.of(sample, variant) for variant in settings.variants for sample in samples}
    answers = _by_key(run.responses())
    _check_stored(run, answers, wanted)
    failures: list[Failure] = []
    there = len(wanted.keys() & answers.keys())
    if there and settings.server is not None:
        say(
            f"{there:,} of {len(wanted):,} answers are in {run.folder} already and are not asked for again; a server's "
            "models are known by name only: after exchanging a model under its name, use another --name"
        )
    if there < len(wanted):
        with run.writing(who.file):
            answers = _by_key(run.responses())  # again: others may have written until the lock was taken
            _adopt(run, who.file, wanted, answers, settings.runs, name)
            if missing := wanted.keys() - answers.keys():
                if words := scaled_in_words(len(scaled), settings.image_pixels):
                    say(words)
                failures = who.generate(samples, data, run, keys, missing)
    answers = _by_key(run.settle(wanted))
    if who.file == RESPONSES:  # not a shard: no other process adds the rest
        failures += _lost(run, wanted.keys() - answers.keys() - {(one.sample_id, one.variant) for one in failures})
    answered = Answered(run, [answers[key] for key in wanted if key in answers], failures)
    if cut := answered.cut:
        within = answered.cut_in_thought
        said = f", {within:,} of them within the thought, before any answer: no judge scores those" if within else ""
        say(
            f"{cut:,} of {len(answered.responses):,} answers are cut at {settings.generation.max_new_tokens:,} tokens"
            f"{said}; a higher max_new_tokens asks for all answers again, in the next version of the run"
        )
    return answered


class Local:
    """Backend: a checkpoint and its adapters on this machine."""

    def __init__(self, settings: GenerateSettings, checkpoint: Path, adapters: Mapping[str, Path | None]) -> None:
        self.settings, self.checkpoint, self.adapters = settings, checkpoint, adapters
        plain = plain_variants(settings)
        self.asked = prompted(adapters, plain, settings.prompts)
        self._editors = {name: plain[name] for name in _editors_in(self.asked, plain)}
        self.index, self.count = _shard(settings)
        self.file = RESPONSES if self.count == 1 else f"{SHARDS}/{self.index + 1}-of-{self.count}.jsonl"

    @classmethod
    def of(cls, settings: GenerateSettings) -> "Local":
        """The checkpoint and adapters that the settings name.

        Raises:
            MisError: one of them is missing.
        """
        known = known_variants(settings)
        all_known("--variants", settings.variants, known)
        check_quantization(settings.quantization)
        adapters = {variant: known[variant] for variant in settings.variants}
        return cls(settings, local_checkpoint(settings.checkpoint), adapters)

    @property
    def identity(self) -> dict[str, Any]:
        """The part of the run's configuration that identifies the backend."""
        return {
            "tag": "mini" if self.settings.checkpoint is None else self.settings.checkpoint.name,
            "checkpoint": str(self.checkpoint),
            "checkpoint_digest": folder_digest(self.checkpoint),
            "device": self.settings.device,
            "quantization": self.settings.quantization,
            "variants": {
                variant: "" if folder is None else digest_of(folder) for variant, folder in self.adapters.items()
            },
        }

    @property
    def editors(self) -> dict[str, str]:
        """Digest of each variant that edits answers."""
        return {name: "" if folder is None else digest_of(folder) for name, folder in self._editors.items()}

    @property
    def sees(self) -> dict[str, Any]:
        """What else the answers follow from, as a part of each one's key: limits of images, and how weights are stored.

        Only what differs from the checkpoint's own is named, so that other answers keep their keys.

        Raises:
            SettingsError: the adapters were trained with different limits.
        """
        limits, quantization = shared_limits(self.adapters, limits_in(self.settings)).given, self.settings.quantization
        named = {"image_limits": limits, "quantization": quantization}
        return {name: value for name, value in named.items() if value}

    def scaled(self, samples: Sequence[Sample], data: Path) -> frozenset[str]:
        """None: the checkpoint's own processor sees to it."""
        return frozenset()

    def trained_on(self, samples: Sequence[Sample], data: Path) -> dict[str, list[str]]:
        """Ids of the samples that each variant was trained on, of those that have any."""
        base = read_trained_on(self.checkpoint)
        editors = {name: read_trained_on(folder) for name, folder in self._editors.items()}
        known = {
            variant: base | read_trained_on(folder) | editors.get(self.asked[variant].prompting.editor or "", set())
            for variant, folder in self.adapters.items()
        }
        if not any(known.values()):
            return {}
        digests = item_digests((sample, data) for sample in samples)
        found = {
            variant: [sample.id for sample, one in zip(samples, digests, strict=True) if one in items]
            for variant, items in known.items()
        }
        return {variant: ids for variant, ids in found.items() if ids}

    def generate(
        self, samples: Sequence[Sample], data: Path, run: Run, keys: AnswerKeys, missing: set[Key]
    ) -> list[Failure]:
        """Answer in batches; the parts of other shards are left out."""
        say(f"Generating {len(missing):,} responses; an interrupted run resumes")
        from mis_lib.generate.batch import Shard, generate
        from mis_lib.generate.engine import Engine  # torch and transformers take seconds to import

        settings = self.settings
        dtype = None if settings.dtype == "auto" else settings.dtype
        device = _own_device(settings.device)
        bases = {one.base: self.adapters[variant] for variant, one in self.asked.items()} | self._editors
        limits = limits_in(settings)
        engine = Engine.load(self.checkpoint, bases, device, dtype, settings.quantization, limits)
        if words := unknown_variables(engine.processor, settings.generation.chat_template_kwargs):
            raise SettingsError(f"generation.chat_template_kwargs: {words}; correct the name, or leave it out")
        prompting = promptings(self.asked)
        if any(one.system for one in prompting.values()) and not reads_system(engine.processor):
            say("the model's chat template prints no system turn: system prompts are put before the question")
        names = {name: None if self.adapters[name] is None else one.base for name, one in self.asked.items()}
        with guards_together(prompting, data, run.folder.parent / CACHE) as guards:
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
                done={(sample.id, variant) for sample in samples for variant in names} - missing,
                key=keys.of,
                prompting=prompting,
                guards=guards,
                editors={name: None if folder is None else name for name, folder in self._editors.items()},
            )
            for _ in shown(answers, len(missing) if self.count == 1 else None):
                pass
        return []


class Server:
    """Backend: an OpenAI-compatible server; variants are names of its models."""

    def __init__(self, settings: GenerateSettings, models: Mapping[str, str], asked: Mapping[str, Prompted]) -> None:
        from mis_lib.clients.openai import Caller, open_client

        self.settings, self.models, self.asked, self.file = settings, models, asked, RESPONSES
        self._caller = Caller(open_client(settings.server or "", retries=settings.retries, timeout=settings.timeout))

    @classmethod
    def of(cls, settings: GenerateSettings) -> "Server":
        """The server that the settings name.

        Raises:
            SettingsError: a shard, quantization, a model of an unknown variant, or a wrong address.
        """
        if settings.shard is not None:
            raise SettingsError("--shard goes with a local model; a server shares its work by itself")
        if settings.quantization is not None:
            raise SettingsError("--quantization goes with a local model; a server is told when it is started")
        if limits_in(settings).given:
            raise SettingsError("image limits go with a local model; a server gets its own when it is started")
        named = settings.models or {}
        asked = prompted(settings.variants, named, settings.prompts)
        used = {one.base for one in asked.values()} | _editors_in(asked, None)
        unknown = [name for name in named if name not in used]
        if unknown:
            raise SettingsError(f"models: unknown variant {unknown[0]!r}; asked for: {', '.join(settings.variants)}")
        return cls(settings, {variant: named.get(one.base, one.base) for variant, one in asked.items()}, asked)

    @property
    def editors(self) -> dict[str, str]:
        """Served name of each variant that edits answers."""
        named = self.settings.models or {}
        return {name: named.get(name, name) for name in _editors_in(self.asked, None)}

    @property
    def identity(self) -> dict[str, Any]:
        """As ``Local.identity``; a server's weights cannot be hashed, so names identify its models."""
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
        """Nothing: how a server reads images is not known."""
        return {}

    def scaled(self, samples: Sequence[Sample], data: Path) -> frozenset[str]:
        """The images that have more pixels than the server is sent."""
        if self.settings.images_as is ImagesAs.FILE:
            return frozenset()
        names = {name for sample in samples for name in sample.images}
        return frozenset(name for name in names if is_larger(data / name, self.settings.image_pixels))

    def trained_on(self, samples: Sequence[Sample], data: Path) -> dict[str, list[str]]:
        """Nothing: what a server's models were trained on is not known."""
        return {}

    def generate(
        self, samples: Sequence[Sample], data: Path, run: Run, keys: AnswerKeys, missing: set[Key]
    ) -> list[Failure]:
        """Request what is missing, many answers at a time; returns what failed."""
        from mis_lib.clients.openai import NOT_KEPT, in_words, turned_down
        from mis_lib.generate.served import generate_by_server, keeps_seed

        settings, given = self.settings, list[Response]()
        with open_append(run.folder / RESPONSES) as stream, bar("generating") as advance:
            advance("", 0, len(missing))

            def receive(response: Response) -> None:
                append_record(stream, response)
                given.append(response)
                advance(response.variant, len(given), len(missing))

            prompting = promptings(self.asked)

            async def ask() -> tuple[list[Failure], bool]:
                judges = await open_guards(prompting, run.folder.parent / CACHE)
                failures = await generate_by_server(
                    samples,
                    data,
                    self._caller,
                    {**self.models, **self.editors},
                    settings.generation,
                    receive,
                    wanted=lambda sample, variant: (sample.id, variant) in missing,
                    key=keys.of,
                    images_as=settings.images_as,
                    image_pixels=settings.image_pixels,
                    concurrency=settings.concurrency,
                    prompting=prompting,
                    guards={name: partial(ruled, judge, data) for name, judge in judges.items()},
                )
                kept = await keeps_seed(
                    given,
                    samples,
                    data,
                    self._caller,
                    self.models,
                    settings.generation,
                    settings.images_as,
                    settings.image_pixels,
                    prompting,
                )
                return failures, kept

            failures, kept = asyncio.run(ask())
        left_out = turned_down(self._caller.left_out) or ({} if kept else {"seed": NOT_KEPT})
        run.note_left_out(left_out)
        for words in in_words(settings.server or "", left_out, settings.generation.temperature):
            say(words)
        return failures


def known_variants(settings: GenerateSettings) -> Mapping[str, Path | None]:
    """The PEFT folder or weight edit of each known variant, ``None`` for the checkpoint itself.

    Those that are asked for under prompts are among them.

    Raises:
        SettingsError: prompts are unknown, or are asked for by no variant.
    """
    plain = plain_variants(settings)
    asked = prompted(settings.variants, plain, settings.prompts)
    return {**plain, **{name: plain[one.base] for name, one in asked.items() if one.base in plain}}


def plain_variants(settings: GenerateSettings) -> Mapping[str, Path | None]:
    """The PEFT folder or weight edit of each known variant, without those under prompts."""
    from mis_lib.models.adapters import choose_variants

    return settings.adapters if settings.adapters is not None else choose_variants(settings.checkpoint, None)


def _editors_in(asked: Mapping[str, Prompted], known: Mapping[str, Any] | None) -> set[str]:
    """The variants that edit answers of others; of a server every name is known.

    Raises:
        SettingsError: one is unknown.
    """
    found = {one.prompting.editor for one in asked.values() if one.prompting.editor is not None}
    if found and known is not None:
        all_known("editor", sorted(found), known)
    return found


def limits_in(settings: GenerateSettings) -> ImageLimits:
    """The limits of one image that the settings name."""
    return ImageLimits(**{name: getattr(settings, name) for name in ImageLimits.model_fields})


def shown(responses: Iterator[Response], total: int | None) -> Iterator[Response]:
    """Pass the responses on and report their number."""
    with bar("generating") as advance:
        advance("", 0, total)
        for number, response in enumerate(responses, 1):
            advance(response.variant, number, total)
            yield response


def _shard(settings: GenerateSettings) -> tuple[int, int]:
    """(index, count) of this process: as given, as set by accelerate and torchrun, or the only one."""
    if settings.shard is None:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    number, count = (int(part) for part in settings.shard.split("/"))
    if not 1 <= number <= count:
        raise SettingsError(f"--shard {settings.shard}: expected 1/N to N/N")
    return number - 1, count


def _own_device(device: str) -> str:
    """The GPU of this process, where accelerate started one process a GPU."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if device == "cuda" and rank is not None else device


def _check_stored(run: Run, answers: Mapping[Key, Response], wanted: Mapping[Key, str]) -> None:
    """Refuse to mix answers to images or questions that have changed under the same ids."""
    for key, one in answers.items():
        expected = wanted.get(key, one.key)
        if one.key and one.key != expected:
            raise DataError(
                f"{run.folder}: sample {one.sample_id!r} was answered with other content (key {one.key[:12]}, now "
                f"{expected[:12]}); its images or question have changed since: take another --name"
            )


def _by_key(responses: Iterable[Response]) -> dict[Key, Response]:
    return {(one.sample_id, one.variant): one for one in responses}


def _adopt(run: Run, file: str, wanted: Mapping[Key, str], answers: dict[Key, Response], root: Path, name: str) -> None:
    """Copy from older versions what was answered there under the same key, to the run's file and to ``answers``."""
    missing = {key: digest for key, digest in wanted.items() if key not in answers}
    if not missing:
        return
    older = [one for other in versions(root, name) if other != run for one in other.responses()]
    found = {key: one for one in older if one.key and missing.get(key := (one.sample_id, one.variant)) == one.key}
    if found:
        with open_append(run.folder / file) as stream:
            for response in found.values():
                append_record(stream, response)
        answers.update(found)


def _lost(run: Run, keys: Iterable[Key]) -> list[Failure]:
    """Answers that were written and are missing from the file: another program has changed it."""
    reason = f"its answer is not in {run.folder / RESPONSES}, which something else has changed meanwhile"
    return [Failure(*key, reason) for key in sorted(keys)]
