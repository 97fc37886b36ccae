"""``mis study``: train every mixture at the same budget, ask all the same items, and compare the rates with the papers.

    RUNS/NAME-ARM/vN/           training run of each mixture (``mis train``); NAME-ARM-sK for seed K beyond the first
    RUNS/NAME-evaluation/vN/    responses and verdicts of all of them, an ordinary run
    RUNS/NAME-naming/vN/        what they recognise
    RUNS/NAME/                  study.json, study.md: rates and findings

Where ``train.start_from`` names an adapter, all mixtures train it further and are compared with it, not with the base.
Every part resumes by itself: a study that was stopped continues, and one with a further mixture trains only that. A
mixture that cannot be made or trained is named at the end and does not stop the others.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from mis_lib.data.mixtures import Options
from mis_lib.data.tasks import FORMS, USER
from mis_lib.errors import DataError, MissingPackageError, ModelError, SettingsError, TrainingError
from mis_lib.files import write_atomic
from mis_lib.probe.formats import in_format, judged
from mis_lib.recipes.generate import answer_all
from mis_lib.recipes.judge import check_judge, verdicts_on
from mis_lib.recipes.progress import say
from mis_lib.recipes.samples import mini_data, read_splits
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.recipes.train import train_by
from mis_lib.results.metrics import naming_rate, rates
from mis_lib.results.naming import ensure_naming_data, naming_samples
from mis_lib.results.stats import Rate
from mis_lib.results.study import (
    BASE,
    CLAIMS,
    ERODE,
    HARD,
    LEFT_OUT,
    MATCHED,
    NAMING,
    PLAINLY,
    REFUSED,
    START,
    ClaimResult,
    Entry,
    asked_as,
    findings,
    to_markdown,
)
from mis_lib.schema import Response, Sample, Verdict
from mis_lib.settings import RULE, GenerationSettings, Judged, Settings
from mis_lib.train.settings import DpoSettings, TrainSettings

SIZE = "rows-"  # an arm of this name is MIRage on so many rows
DPO_RATE = 0.1  # of the rate of fine-tuning; our choice
NAMING_TOKENS = 48

Train = Callable[[TrainSettings], Path]


class Arm(NamedTuple):
    """One mixture of the study: a recipe, which of its arms, and its options."""

    recipe: str
    arm: str | None = None
    options: Mapping[str, Any] = {}

    @property
    def task(self) -> str | None:
        """The task of the user's rows that the items of ``HARD`` are asked as too."""
        return self.options.get("task", USER) if self.recipe == "mimic" else None


MIXTURES: Mapping[str, Arm] = {
    "mirage": Arm("mirage"),
    "mirage_star": Arm("mirage_star"),
    "refusal": Arm("refusal"),
    "refusal_only": Arm("refusal_only"),
    "textual": Arm("textual"),
    "vlguard_r": Arm("vlguard_r", options={"harmful": 4 / 9}),  # of its rows, as in MIRage
    "single": Arm("single_vs_two", "one"),
    "held_out": Arm("held_out"),
    **{name: Arm("benign_refusal", options={"share": float(share)}) for name, share in REFUSED.items()},
    "dpo": Arm("dpo"),
}
"""The mixtures that make sense at this size, and DPO on pairs from the same rows; ``rows-N`` adds a curve over size."""
EROSION: Mapping[str, Arm] = {
    f"{ERODE}{task}{ending}": Arm("mimic", options={"task": task, **options})
    for task in (USER, *FORMS)
    for ending, options in (("", {"share": 0.0}), (PLAINLY, {"matched": False}), (MATCHED, {}))
}
"""Adapters trained further on harmless rows of a task: alone, or with a tenth of safety rows, plain or in its form."""
ARMS: Mapping[str, Arm] = {**MIXTURES, **EROSION}


class StudySettings(Settings):
    """What is trained and on what it is tested; ``train`` holds what all mixtures share."""

    arms: tuple[str, ...] = (*MIXTURES, f"{SIZE}100", f"{SIZE}300")
    """Which mixtures; rows-N is MIRage on N rows."""
    rows: int | None = Field(default=800, ge=1)
    """Rows of every mixture, so that all cost the same; null: as many as the sources give."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Seeds that every mixture is drawn and trained with; three or more say how far a rate depends on them."""
    train: TrainSettings = TrainSettings(learning_rate=5e-4, epochs=2)
    """Settings of training that all mixtures share; with ``start_from`` all of them train that adapter further."""
    splits: tuple[str, ...] = ("easy", "hard", "real")
    """Splits that are tested."""
    limit: int | None = Field(default=40, ge=1)
    """Pairs of a harmful item and its twin that are asked a split, spread over the categories; null: all."""
    judge: Judged = RULE
    """Who rules on the answers, and on those that the mixture dpo draws, as for ``mis judge --judges``."""
    held_out: tuple[str, ...] = Options().held_out
    """Categories that the mixture held_out leaves out."""
    naming: int | None = Field(default=40, ge=1)
    """Concepts asked in every drawing style; null: none."""
    generation: GenerationSettings = GenerationSettings(max_new_tokens=160)
    batch_size: int = Field(default=24, ge=1)
    """Most rows of a batch when answers are generated."""
    runs: Path = Path("runs")
    """Folder of all runs."""
    name: str = "study"
    """Name of this study."""


def arm_of(name: str) -> Arm:
    """An arm by name; ``rows-N`` is MIRage on N rows.

    Raises:
        SettingsError: the name is unknown.
    """
    if name in ARMS:
        return ARMS[name]
    number = name.removeprefix(SIZE)
    if name.startswith(SIZE) and number.isdigit() and int(number):
        return Arm("mirage", options={"rows": int(number)})
    raise SettingsError(f"unknown mixture {name!r} in a study; known: {', '.join(ARMS)}, {SIZE}N")


def arm_settings(name: str, settings: StudySettings, seed: int | None = None) -> TrainSettings:
    """Training settings of one arm: the shared ones with its recipe, seen as many rows in all as every other arm.

    Args:
        name: of the arm.
        settings: of the study.
        seed: one of ``settings.seeds`` (default: the first).
    """
    arm, seed = arm_of(name), settings.seeds[0] if seed is None else seed
    named = {"name": f"{settings.name}-{_seeded(name, seed, settings)}", "runs": settings.runs, "seed": seed}
    if arm.recipe == "dpo":
        shared = settings.train.model_dump(exclude={"method", "feature_cache"})  # TRL's DPO has no cache
        pairs = settings.rows and settings.rows // 2  # each harmful item brings its twin
        rate = settings.train.learning_rate * DPO_RATE
        return DpoSettings(
            **{**shared, **named, "learning_rate": rate, "limit": pairs, "sft_weight": 1.0, "judge": settings.judge}
        )
    options = {"rows": settings.rows, "seed": seed, **arm.options}
    if arm.recipe == "held_out":
        options["held_out"] = list(settings.held_out)
    epochs = settings.train.epochs
    if settings.rows and options["rows"] != settings.rows:  # less data, more often
        epochs *= settings.rows / options["rows"]
    changes = {
        "mixture": arm.recipe,
        "arm": arm.arm,
        "mixture_options": {key: value for key, value in options.items() if value is not None},
        "epochs": epochs,
        **named,
    }
    return TrainSettings(**{**settings.train.model_dump(), **changes})


def asked_samples(settings: StudySettings, folder: Path, tasks: Sequence[str] = ()) -> list[Sample]:
    """The items that mixtures are asked: pairs of each split, and those of ``HARD`` as each of these tasks."""
    samples = read_splits(folder, settings.splits, settings.limit)
    return samples + [
        in_format(sample, task).model_copy(update={"split": asked_as(task)})
        for task in tasks
        for sample in samples
        if sample.split == HARD
    ]


def check(settings: StudySettings) -> None:
    """Refuse what cannot be compared before anything is trained.

    Raises:
        SettingsError: the settings of training contradict the study's.
    """
    shared = {
        key: getattr(settings.train, key)
        for key in ("mixture", "mixture_options", "arm", "seed")
        if getattr(settings.train, key)
    }
    if shared:
        raise SettingsError(
            f"a study sets the mixture of each arm itself, and its seed (seeds), found {shared} in train; leave it out"
        )
    eroding = [name for name in settings.arms if name in EROSION]
    if eroding and settings.train.start_from is None:
        raise SettingsError(
            f"{', '.join(eroding)}: expected an adapter whose safety can be eroded, found none; set train.start_from"
        )
    if len(set(settings.seeds)) < len(settings.seeds):
        raise SettingsError(f"seeds: expected each once, found {', '.join(map(str, settings.seeds))}")
    if settings.train.tuning != "lora":
        raise SettingsError(
            f"a study compares adapters of one base: expected train.tuning: lora, found {settings.train.tuning}"
        )
    if settings.train.data is not None and not settings.train.data.is_dir():
        raise SettingsError(
            f"train.data: expected a folder with train, general and the tested splits, found {settings.train.data}"
        )


class Study(NamedTuple):
    """Rates and findings of a study; ``failed`` says why a mixture has no rates."""

    entries: list[Entry]
    findings: list[ClaimResult]
    failed: dict[str, str]
    folder: Path


def study(settings: StudySettings, train: Train | None = None) -> Study:
    """Train, answer, judge and compare; writes study.json and study.md.

    Args:
        settings: mixtures, budget and tests.
        train: trains one mixture and returns its run folder [default: ``mis train``].

    Raises:
        SettingsError: an arm is unknown, or the settings of training contradict the study's.
        MisError: the base cannot be asked, or the judge cannot rule.
    """
    arms = {name: arm_of(name) for name in settings.arms}
    check(settings)
    check_judge(settings.judge, asked_samples(settings, settings.train.data or mini_data()))
    adapters, failed = _train_all(settings, arms, train or train_by)
    tasks = dict.fromkeys(arm.task for arm in arms.values() if arm.task)
    begin, start = (START, settings.train.start_from) if settings.train.start_from else (BASE, None)
    entries = [*_measure(begin, settings, None, start, [*tasks])]
    for (name, seed), adapter in adapters.items():
        arm, variant = arms[name], _seeded(name, seed, settings)
        measured = _measure(variant, settings, arm, adapter, [arm.task] if arm.task else [])
        entries += [entry.model_copy(update={"arm": name, "seed": seed}) for entry in measured]
    claims = [claim for claim in CLAIMS if {claim.before, claim.after} <= {begin, *arms}]
    result = Study(entries, findings(entries, claims), failed, settings.runs / settings.name)
    _write(result, settings)
    return result


def _seeded(name: str, seed: int, settings: StudySettings) -> str:
    """The name of a mixture with a seed; of the first seed the mixture's own."""
    return name if seed == settings.seeds[0] else f"{name}-s{seed}"


def _train_all(
    settings: StudySettings, arms: Mapping[str, Arm], train: Train
) -> tuple[dict[tuple[str, int], Path], dict[str, str]]:
    """The adapter of each arm and seed, and why an arm has none; the first seed of all arms comes first."""
    adapters, failed = {}, {}
    for seed in settings.seeds:
        for number, name in enumerate(arms, 1):
            say(f"Mixture {number} of {len(arms)}, seed {seed}: {name}")
            try:
                adapters[name, seed] = train(arm_settings(name, settings, seed)) / "adapter"
            except (DataError, ModelError, TrainingError, MissingPackageError) as error:
                failed[_seeded(name, seed, settings)] = str(error)
                say(f"Mixture {name} failed: {error}")
    return adapters, failed


def _measure(
    name: str, settings: StudySettings, arm: Arm | None, adapter: Path | None, tasks: Sequence[str]
) -> Iterator[Entry]:
    """All rates of one adapter or of the base, answering whatever has no answer yet."""
    folder = settings.train.data or mini_data()
    samples = asked_samples(settings, folder, tasks)
    asked = _generate_settings(name, adapter, settings)
    run, responses = answer_all(samples, folder, asked, f"{settings.name}-evaluation")
    verdicts = verdicts_on(run, settings.judge, judged(samples), responses, folder)
    entry = {
        "arm": name,
        "recipe": arm.recipe if arm else name,
        "rows": _rows(adapter.parent) if arm and adapter else 0,
    }
    for group, members in _groups(samples, settings).items():
        for metric, rate in _rates(verdicts, members, responses).items():
            yield Entry(**entry, group=group, metric=metric, rate=rate)
    if settings.naming:
        yield Entry(**entry, group=NAMING, metric="named", rate=_named(asked, settings))


def _groups(samples: Sequence[Sample], settings: StudySettings) -> dict[str, list[Sample]]:
    """Items by split, and those of the held-out categories."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(str(sample.split), []).append(sample)
    left_out = [s for s in samples if s.category in settings.held_out and s.split in settings.splits]
    return groups | ({LEFT_OUT: left_out} if left_out else {})


def _rates(verdicts: Sequence[Verdict], samples: Sequence[Sample], responses: Sequence[Response]) -> dict[str, Rate]:
    known = {sample.id for sample in samples}
    return rates(
        [verdict for verdict in verdicts if verdict.sample_id in known],
        samples,
        [response for response in responses if response.sample_id in known],
    )


def _named(asked: GenerateSettings, settings: StudySettings) -> Rate:
    """Share of drawn concepts that are named, all styles together."""
    folder, samples = ensure_naming_data(say), naming_samples(limit=settings.naming)
    short = asked.generation.model_copy(update={"max_new_tokens": NAMING_TOKENS})
    _, responses = answer_all(
        samples, folder, asked.model_copy(update={"generation": short}), f"{settings.name}-naming"
    )
    return naming_rate(responses, samples)


def _generate_settings(name: str, adapter: Path | None, settings: StudySettings) -> GenerateSettings:
    checkpoint = None if settings.train.model == "mini" else Path(settings.train.model)
    return GenerateSettings(
        variants=(name,),
        splits=settings.splits,
        data=settings.train.data,
        checkpoint=checkpoint,
        adapters={name: adapter},
        generation=settings.generation,
        batch_size=settings.batch_size,
        device=settings.train.device or "auto",
        quantization=settings.train.quantization,
        runs=settings.runs,
        name=settings.name,
    )


def _rows(run: Path) -> int:
    """How many rows a finished training run was made of."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return int(result["rows"])


def _write(result: Study, settings: StudySettings) -> None:
    seeds = f", {len(settings.seeds)} seeds" if len(settings.seeds) > 1 else ""
    title = f"Mini study [{settings.train.model}]: {settings.rows or 'all'} rows a mixture{seeds}"
    text = to_markdown(result.entries, result.findings, title=title)
    failed = "".join(f"\n- {name}: {reason}" for name, reason in result.failed.items())
    text += f"\n## Not trained\n{failed}\n" if failed else ""
    write_atomic(result.folder / "study.md", text.encode())
    content = {
        "settings": settings.model_dump(mode="json"),
        "entries": [entry.model_dump(mode="json") for entry in result.entries],
        "findings": [finding.model_dump(mode="json") for finding in result.findings],
        "failed": result.failed,
    }
    write_atomic(result.folder / "study.json", (json.dumps(content, indent=1) + "\n").encode())
