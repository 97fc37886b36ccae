"""What a study is made of: its mixtures, the budget they share, and the items that all of them are asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from mis_lib.data.mixtures import QUESTION
from mis_lib.data.recipes import USER_FORMAT, Options
from mis_lib.errors import SettingsError
from mis_lib.recipes.generate import read_splits
from mis_lib.results.study import FORMATTED, HARD
from mis_lib.schema import Sample
from mis_lib.settings import GenerationSettings, Settings
from mis_lib.train.preference_settings import DpoSettings
from mis_lib.train.settings import TrainSettings

SIZE = "rows-"  # an arm of this name is MIRage on so many rows
DPO_RATE = 0.1  # of the rate of fine-tuning; our choice


class Arm(NamedTuple):
    """One mixture of the study: a recipe, which of its arms, and its options."""

    recipe: str
    arm: str | None = None
    options: Mapping[str, Any] = {}


ARMS: Mapping[str, Arm] = {
    "mirage": Arm("mirage"),
    "mirage_star": Arm("mirage_star"),
    "refusal": Arm("refusal"),
    "textual": Arm("textual"),
    "vlguard_r": Arm("vlguard_r"),
    "direct": Arm("cot_vs_direct", "direct"),
    "single": Arm("single_vs_two", "one"),
    "held_out": Arm("held_out"),
    "benign_refusal": Arm("benign_refusal"),
    "mimic": Arm("mimic"),
    "dpo": Arm("dpo"),
}
"""The mixtures that make sense at this size, and DPO on pairs from the same rows; ``rows-N`` besides for the curve over data size."""


class StudySettings(Settings):
    """What is trained and on what it is tested; ``train`` holds what all mixtures share."""

    arms: tuple[str, ...] = (*ARMS, f"{SIZE}100", f"{SIZE}300")
    rows: int | None = Field(default=900, ge=1)
    """Size of every mixture, so that all cost the same; as many as the sources give if null."""
    train: TrainSettings = TrainSettings(learning_rate=5e-4, epochs=2)
    splits: tuple[str, ...] = ("easy", "hard", "real")
    limit: int | None = Field(default=40, ge=1)
    """Pairs of a harmful item and its twin a split, spread over the categories; all if null."""
    held_out: tuple[str, ...] = Options().held_out
    formatted: bool = True
    """Ask the items of split hard in the format of mixture ``mimic`` too."""
    naming: int | None = Field(default=40, ge=1)
    """Concepts asked in every drawing style; none if null."""
    generation: GenerationSettings = GenerationSettings(max_new_tokens=160)
    batch_size: int = Field(default=24, ge=1)
    runs: Path = Path("runs")
    name: str = "study"


def arm_of(name: str) -> Arm:
    """An arm by name; ``rows-N`` is MIRage on N rows.

    Raises:
        SettingsError: there is none of that name.
    """
    if name in ARMS:
        return ARMS[name]
    number = name.removeprefix(SIZE)
    if name.startswith(SIZE) and number.isdigit() and int(number):
        return Arm("mirage", options={"rows": int(number)})
    raise SettingsError(f"unknown mixture {name!r} in a study; known: {', '.join(ARMS)}, {SIZE}N")


def arm_settings(name: str, settings: StudySettings) -> TrainSettings:
    """Training settings of one arm: the shared ones with its recipe, seen as many rows in all as every other arm."""
    arm = arm_of(name)
    named = {"name": f"{settings.name}-{name}", "runs": settings.runs}
    if arm.recipe == "dpo":
        shared = settings.train.model_dump(exclude={"method", "feature_cache"})  # TRL's DPO has no cache
        pairs = settings.rows and settings.rows // 2  # each harmful item brings its twin
        rate = settings.train.learning_rate * DPO_RATE
        return DpoSettings(**{**shared, **named, "learning_rate": rate, "limit": pairs, "sft_weight": 1.0})
    options = {"rows": settings.rows, **arm.options}
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


def asked_samples(settings: StudySettings, folder: Path) -> list[Sample]:
    """The items that every mixture is asked: pairs of each split, and those of ``hard`` in another format."""
    samples = read_splits(folder, settings.splits, settings.limit)
    if settings.formatted:
        samples += [_formatted(sample) for sample in samples if sample.split == HARD]
    return samples


def _formatted(sample: Sample) -> Sample:
    twin = None if sample.twin_id is None else f"{sample.twin_id}-{FORMATTED}"
    question = USER_FORMAT.replace(QUESTION, sample.question)
    return sample.model_copy(
        update={"id": f"{sample.id}-{FORMATTED}", "twin_id": twin, "question": question, "split": FORMATTED}
    )


def check(settings: StudySettings) -> None:
    """Refuse what cannot be compared before anything is trained.

    Raises:
        SettingsError: the settings of training contradict the study's.
    """
    shared = {
        key: getattr(settings.train, key)
        for key in ("mixture", "mixture_options", "arm")
        if getattr(settings.train, key)
    }
    if shared:
        raise SettingsError(f"a study sets the mixture of each arm itself, found {shared} in train; leave it out")
    if settings.train.tuning != "lora":
        raise SettingsError(
            f"a study compares adapters of one base: expected train.tuning: lora, found {settings.train.tuning}"
        )
    if settings.train.data is not None and not settings.train.data.is_dir():
        raise SettingsError(
            f"train.data: expected a folder with train, general and the tested splits, found {settings.train.data}"
        )
