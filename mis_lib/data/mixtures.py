"""Mixtures: what a training set is made of, as a recipe over any sets of samples.

A recipe is a frozen value: which rows of which source, in what share, under which change of label, question or images. Recipes that compare two
things have two *arms* made of the same rows. ``data.compose`` makes the rows, ``data.recipes`` holds those of the paper and its neighbours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from mis_lib.schema import Sample
from mis_lib.settings import Settings
from mis_lib.text.refusals import REFUSALS

QUESTION = "{question}"
SAFETY, GENERAL, EVERYDAY = "safety", "general", "everyday"
BESIDE = {GENERAL: "general", EVERYDAY: "everyday_train"}
"""The split, beside the safety data, that each other source is; ``EVERYDAY`` itself is the split to test."""
BLACK, SIDE_BY_SIDE = "black.png", "side_by_side"


class Part(Settings):
    """Some rows of one source and what becomes of them."""

    source: Literal["safety", "general", "everyday"]
    keep: Literal["all", "harmful", "benign"] = "all"
    share: float | None = Field(default=None, ge=0, lt=1)
    """Of the whole mixture; without it all rows, or those that ``fraction`` left."""
    fraction: float | None = Field(default=None, gt=0, lt=1)
    """Of the rows of the source."""
    label: Literal["as_given", "cot", "refusal", "sentence"] = "as_given"
    images: Literal["as_given", "black", "side_by_side"] = "as_given"
    question: Literal["as_given", "in_words"] = "as_given"
    template: str | None = None
    """The format of another task, with ``{question}`` where the question goes."""
    mask_eos: bool = False
    """Leave the answer's end token out of the loss."""
    cut: float = Field(default=0.0, ge=0, le=1)
    """Share of rows whose answer stops after the first sentence behind its perception, without an end: whether that warns or helps is then what
    they teach, at half the tokens."""

    @model_validator(mode="after")
    def _has_a_place_for_the_question(self) -> Self:
        if self.template is not None and QUESTION not in self.template:
            raise ValueError(f"template: expected {QUESTION} in it, found {self.template!r}")
        return self


class Arm(Settings):
    """One training set of a recipe."""

    name: str
    parts: tuple[Part, ...] = Field(min_length=1)


class Recipe(Settings):
    """A named mixture."""

    name: str
    about: str
    arms: tuple[Arm, ...] = Field(min_length=1)
    seed: int = 0
    rows: int | None = Field(default=None, ge=1)
    """Size of each arm; without it as many as the sources give."""
    held_out: tuple[str, ...] = ()
    """Categories whose safety rows are left out, to be tested as unseen ones."""
    sentence: str = REFUSALS[0]
    """The answer under the label "sentence"."""


class SampleSet(NamedTuple):
    """Samples and the folder that their images lie in."""

    samples: Sequence[Sample]
    folder: Path


class MixedRow(NamedTuple):
    """A row of a mixture: the changed sample, its part and source, and where its images come from."""

    sample: Sample
    part: Part
    folder: Path
    pictures: tuple[str, ...]
    """Images as the source names them; empty for black ones."""


Arms = Mapping[str, list[MixedRow]]
