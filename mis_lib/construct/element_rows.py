"""Rows of the element table (``elements``): a pair of objects with its twin, and a question. A row that is wrong says which field and why."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from mis_lib.construct.csv_tables import TableRow
from mis_lib.construct.drawings import concepts
from mis_lib.data.taxonomy import TAXONOMY
from mis_lib.errors import close_to

Use = Literal["train", "own", "test", "explicit"]


class Element(TableRow):
    """A harmful pair of objects (image 1, image 2), its texts, and the twin that differs in one image and is harmless."""

    level: Literal["easy", "hard"]
    category: str
    sub_category: str
    object_1: str
    object_2: str
    risk: str = Field(min_length=1)
    safe_alternative: str = Field(min_length=1)
    twin_object_1: str
    twin_object_2: str
    twin_answer: str = Field(min_length=1)

    @property
    def pair(self) -> tuple[str, str]:
        """What the two images of the harmful item show."""
        return self.object_1, self.object_2

    @property
    def twin_pair(self) -> tuple[str, str]:
        """What the two images of the benign twin show."""
        return self.twin_object_1, self.twin_object_2

    @field_validator("object_1", "object_2", "twin_object_1", "twin_object_2")
    @classmethod
    def _can_be_drawn(cls, name: str) -> str:
        if name not in concepts():
            raise ValueError(f"expected a name of mis_lib/text/concepts.csv{close_to(name, concepts())}")
        return name

    @field_validator("category")
    @classmethod
    def _is_known(cls, category: str) -> str:
        if category not in TAXONOMY:
            raise ValueError(f"expected one of {', '.join(TAXONOMY)}{close_to(category, TAXONOMY)}")
        return category

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.sub_category not in TAXONOMY[self.category]:
            raise ValueError(
                f"sub_category: expected one of {', '.join(TAXONOMY[self.category])} "
                f"for category {self.category!r}, found {self.sub_category!r}"
            )
        changed = (self.object_1 != self.twin_object_1) + (self.object_2 != self.twin_object_2)
        if changed != 1:
            raise ValueError(
                f"twin_object_1, twin_object_2: expected exactly one object to differ from {self.pair}, "
                f"found {changed}: {self.twin_pair}"
            )
        return self


class QuestionRow(TableRow):
    """One question of a block.

    ``own`` ones are for training, of a block whose harm lies in what is asked (a swap, a caption) rather than in the two things: no open
    question may stand in their place. ``explicit`` ones name the harm and are asked in training only, about harmful pairs.
    """

    use: Use
    question: str = Field(min_length=1)

    @field_validator("question")
    @classmethod
    def _points_at_both_images(cls, question: str) -> str:
        missing = [words for words in ("first image", "second image") if words not in question.lower()]
        if missing:
            raise ValueError(f"expected the words {' and '.join(map(repr, missing))} in it")
        return question
