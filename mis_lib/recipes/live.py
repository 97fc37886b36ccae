"""Answers given live, as in the app's tab Compare, kept as a run: one a person and day, with its images.

    runs/live-NAME-2026-12-03/vN/   a run as ``mis generate`` leaves it, and
                           images/  the images of its samples, named by their content

So what a person annotates there is listed, judged, exported, counted in agreement and trained on like any other
answer. Settings never mix: answers under other settings, or of other models, are in the next version. Only what a
person decided on is kept, so the run says in ``selection`` that its items are no sample of anything.
"""

import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.annotate.decisions import person
from mis_lib.errors import ImageError
from mis_lib.files import append_records, digest, digest_json, open_append, sha256
from mis_lib.generate.prompting import Prompted, promptings
from mis_lib.generate.served import Served
from mis_lib.judge.rule import JUDGE, fingerprint, judge
from mis_lib.recipes.generate import Local
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.results.runs import RESPONSES, Run, RunConfig, open_run
from mis_lib.schema import Response, Sample, Verdict
from mis_lib.settings import GenerationSettings

IMAGES = "images"  # folder in a run
SPLIT = "live"  # of a prompt that is no item of a data set
SEVERAL = "several"  # backend of a run whose variants are not all answered by one model or server
_KEEPING = threading.Lock()  # one app writes one live run at a time; two apps are kept apart by the run's own lock


class Answerers:
    """Who answers live, and by what each can be recognised.

    Args:
        local: one for each checkpoint that is loaded, with its adapters and how it is loaded.
        served: where the served variants are asked.
    """

    def __init__(self, local: Sequence[GenerateSettings] = (), served: Mapping[str, Served] | None = None) -> None:
        self._settings, self._served = local, served or {}

    @cached_property
    def _local(self) -> list[tuple[Local, dict[str, Any]]]:
        """Each checkpoint with its digests, which are read once."""
        from mis_lib.models.devices import device_for  # torch takes seconds to import, and is there once models answer

        found = [
            Local.of(settings.model_copy(update={"device": device_for(settings.device)})) for settings in self._settings
        ]
        return [(one, one.identity) for one in found]

    @property
    def digests(self) -> dict[str, tuple[str, str]]:
        """Of each local variant: the digest of its checkpoint, and that of its adapter (empty for none).

        Raises:
            MisError: a checkpoint or an adapter cannot be read.
        """
        return {
            name: (identity["checkpoint_digest"], adapter)
            for _, identity in self._local
            for name, adapter in identity["variants"].items()
        }

    def identity(self, asked: Mapping[str, Prompted]) -> dict[str, Any]:
        """The part of a run's configuration that says who answered under each name; raises as ``digests``.

        One checkpoint, or one server, is written as ``mis generate`` writes it.
        """
        if len(self._local) == 1 and not self._served:
            ((_, found),) = self._local
            return {**found, "variants": {name: found["variants"].get(one.base, "") for name, one in asked.items()}}
        urls = {one.url for one in self._served.values()}
        if len(urls) == 1 and not self._local:
            models = {name: self._served[one.base].model for name, one in asked.items()}
            tag = ", ".join(dict.fromkeys(models.values()))
            return {
                "tag": tag,
                "checkpoint": urls.pop(),
                "checkpoint_digest": "",
                "device": "server",
                "backend": "server",
                "variants": models,
            }
        named = {name: "+".join(filter(None, found)) for name, found in self.digests.items()}
        named |= {name: f"{one.url}#{one.model}" for name, one in self._served.items()}
        return {
            "tag": SPLIT,
            "checkpoint": "",
            "checkpoint_digest": "",
            "device": SEVERAL,
            "backend": SEVERAL,
            "variants": {name: named.get(one.base, "") for name, one in asked.items()},
        }

    def trained_on(self, sample: Sample, data: Path) -> dict[str, list[str]]:
        """Which variants were trained on a sample, as ``Run.note_trained_on`` takes it."""
        return {name: ids for one, _ in self._local for name, ids in one.trained_on([sample], data).items()}


class Given(NamedTuple):
    """One question, and what was answered to it."""

    sample: Sample
    """Its image names are not used: ``images`` are the files."""
    images: Sequence[Path]
    generation: GenerationSettings
    responses: Sequence[Response]
    """Whole answers only."""
    asked: Mapping[str, Prompted]
    """What each of their variants is."""


class Kept(NamedTuple):
    """Where answers were kept, and as what."""

    run: Run
    sample: Sample
    verdicts: dict[str, Verdict]
    """Of the rule judge, by variant."""


def own_sample(question: str, images: Sequence[Path], names: Sequence[str], *, harmful: bool) -> Sample:
    """A prompt that is no item of a data set, as a sample; a person says whether it is harmful.

    Raises:
        ImageError: an image is no longer there.
    """
    asked = digest_json([question, [_content(path) for path in images], harmful])
    return Sample(
        id=f"own-{asked[:12]}",
        question=question,
        images=list(names),
        split=SPLIT,
        harmful=harmful,
        provenance={"stage": SPLIT, "names": list(names)},
    )


def run_of(author: str, day: str) -> str:
    """The name of a person's live run on a day (ISO 8601): in letters that every file system and address has."""
    name = person(author)
    plain = re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:40]
    return f"live-{plain if plain == name else '-'.join(filter(None, (plain, digest(name)[:6])))}-{day}"


def keep(root: Path, author: str, day: str, given: Given, who: Answerers) -> Kept:
    """Keep answers in the person's run of the day, images included; what is there already is not written again.

    Another answer of a variant to the same question (a server may give one) is kept under a new id.

    Raises:
        ImageError: an image is no longer there.
        MisError: the run cannot be written, or a model cannot be recognised.
    """
    asked = {one.variant: given.asked[one.variant] for one in given.responses}
    config = RunConfig(
        **{"dtype": "auto", **who.identity(asked)},
        prompts=promptings(asked),
        data="",
        data_digest="",
        selection="chosen by a person, live",
        generation=given.generation,
        batch_size=1,
    )
    with _KEEPING:
        run = open_run(root, run_of(author, day), config)
        with run.locked():
            if run.config.data != str(run.folder.resolve()):
                run.save(run.config.model_copy(update={"data": str(run.folder.resolve())}))
        names = [_copy(path, run.folder) for path in given.images]
        with run.writing(RESPONSES):
            there = {(one.sample_id, one.variant): one.text for one in run.responses()}
            sample = given.sample.model_copy(update={"images": names})
            sample = sample.model_copy(update={"id": _free_id(sample.id, given.responses, there)})
            answers = [one.model_copy(update={"sample_id": sample.id}) for one in given.responses]
            run.keep_samples([sample])
            known = who.trained_on(sample, run.folder)
            run.note_trained_on({name: known[one.base] for name, one in asked.items() if one.base in known})
            with open_append(run.folder / RESPONSES) as stream:
                append_records(stream, [one for one in answers if (one.sample_id, one.variant) not in there])
        verdicts = [judge(sample, one) for one in answers]
        run.add_verdicts(JUDGE, fingerprint(), verdicts)
    return Kept(run, sample, {one.variant: one for one in verdicts})


def _free_id(name: str, answers: Sequence[Response], there: Mapping[tuple[str, str], str]) -> str:
    """The id, or the first of its numbered ones under which no variant has given another answer."""
    number = 1
    tried = name
    while any(there.get((tried, one.variant), one.text) != one.text for one in answers):
        number += 1
        tried = f"{name}-{number}"
    return tried


def _copy(path: Path, folder: Path) -> str:
    """The name of an image's copy in a run, by its content."""
    name = f"{IMAGES}/{_content(path)[:20]}{path.suffix.lower()}"
    (folder / IMAGES).mkdir(exist_ok=True)
    if not (folder / name).exists():
        shutil.copyfile(path, folder / name)
    return name


def _content(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise ImageError(
            f"{path.name}: the image is no longer there ({error.strerror}); add it again, and compare again"
        ) from error
