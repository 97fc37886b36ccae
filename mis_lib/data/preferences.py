"""Preference pairs: one question about images, the answer that is wanted and one that is not.

    {"sample": {...}, "chosen": "...", "rejected": "...", "provenance": {...}}       pairs.jsonl, one a line

The sample's images are relative to the folder that holds the file, as in any data folder. What is read is checked at
once: equal answers teach nothing and a missing image stops training hours later.

Published sets rate two responses, some for helpfulness and for safety apart: ``by_rating`` makes pairs of one rating.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from mis_lib.errors import DataError
from mis_lib.files import read_records
from mis_lib.schema import Record, Sample

PAIRS = "pairs.jsonl"
Rating = Literal["helpful", "safer", "overall"]
Preferred = Literal[Rating, "agreed"]
AGREED, PUBLISHED = "agreed", "published"


class Preference(Record):
    """A sample with a preferred and a rejected answer; ``sample.answer`` is not used."""

    sample: Sample
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Where ``rejected`` comes from: a model's own answer, constructed, or a person's decision."""

    @model_validator(mode="after")
    def _answers_differ(self) -> Self:
        if self.chosen.strip() == self.rejected.strip():
            raise ValueError(f"expected two answers that differ, found the same twice: {self.chosen[:60]!r}")
        return self


class Rated(NamedTuple):
    """Two published responses to a sample."""

    responses: tuple[str, str]
    preferred: Mapping[Rating, int]
    """The place, 0 or 1, of the response that each rating prefers."""
    safe: tuple[bool, bool] | None = None
    """Whether each response is marked safe, where the set says so."""

    def choose(self, prefer: Preferred) -> int | None:
        """The place of the preferred response; ``agreed``: only where all of several ratings prefer the same one."""
        if prefer != AGREED:
            return self.preferred.get(prefer)
        places = set(self.preferred.values())
        return places.pop() if len(places) == 1 and len(self.preferred) > 1 else None


def by_rating(rated: Iterable[tuple[Sample, Rated]], prefer: Preferred) -> list[Preference]:
    """The pairs of one rating; samples that it does not rate, and equal responses, make none.

    Args:
        rated: samples with their responses.
        prefer: a ``Rating``, or ``agreed``.
    """
    pairs: list[Preference] = []
    for sample, one in rated:
        place = one.choose(prefer)
        if place is None or one.responses[0].strip() == one.responses[1].strip():
            continue
        marks = {} if one.safe is None else {"chosen_safe": one.safe[place], "rejected_safe": one.safe[1 - place]}
        origin = {"rejected": PUBLISHED, "preferred": prefer, **marks}
        chosen, rejected = one.responses[place], one.responses[1 - place]
        pairs.append(Preference(sample=sample, chosen=chosen, rejected=rejected, provenance=origin))
    return pairs


def read_preferences(path: Path) -> list[Preference]:
    """The pairs of a file, or of the ``pairs.jsonl`` of a folder, with every image in its place.

    Raises:
        DataError: the file is missing or empty, a line is wrong, two pairs are the same, or an image is not there (row
            named).
    """
    file = path / PAIRS if path.is_dir() else path
    pairs = read_records(file, Preference)
    if not pairs:
        raise DataError(f"{file}: expected at least one preference pair, found none")
    _check_images(file, pairs)
    _check_distinct(file, pairs)
    return pairs


def _check_images(file: Path, pairs: Sequence[Preference]) -> None:
    for row, pair in enumerate(pairs, 1):
        for name in pair.sample.images:
            if not (file.parent / name).is_file():
                raise DataError(
                    f"{file}, row {row} ({pair.sample.id}): expected the image {file.parent / name}, found no such "
                    "file; "
                    "image paths are relative to the folder of the pairs"
                )


def _check_distinct(file: Path, pairs: Sequence[Preference]) -> None:
    seen: dict[tuple[str, str, str], int] = {}
    for row, pair in enumerate(pairs, 1):
        first = seen.setdefault((pair.sample.id, pair.chosen, pair.rejected), row)
        if first != row:
            raise DataError(f"{file}, row {row}: the same pair as row {first} ({pair.sample.id}); remove one")
