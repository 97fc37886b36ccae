"""Findings: what is wrong with a data set, each with file, row, field, what was found and how to put it right.

An *error* means that training must not start: a row would crash it, be learned wrongly or be cut. A *warning* means
that a person should look. One table, ``WARNINGS``, says which kind is which, so that a report can be read by programs.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from mis_lib.schema import Record


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


class Kind(StrEnum):
    """Every kind of finding."""

    # the file
    EMPTY_FILE = "empty-file"
    EMPTY_SPLIT = "empty-split"
    PARTIAL_SET = "partial-set"
    NOT_JSON = "not-json"
    NOT_ROWS = "not-rows"
    TORN_LINE = "torn-line"
    REPEATED_KEY = "repeated-key"
    UNKNOWN_FORM = "unknown-form"
    MALFORMED = "malformed"
    # fields
    MISSING_FIELD = "missing-field"
    WRONG_TYPE = "wrong-type"
    EMPTY_TEXT = "empty-text"
    STRING_FOR_LIST = "string-for-list"
    NO_IMAGES = "no-images"
    TEXT_ROW = "text-row"
    OBJECT_COUNT = "object-count"
    UNKNOWN_SPLIT = "unknown-split"
    UNKNOWN_CATEGORY = "unknown-category"
    WRONG_SUB_CATEGORY = "wrong-sub-category"
    # turns and text
    TURNS = "turns"
    PLACEHOLDER_COUNT = "placeholder-count"
    PLACEHOLDER_PLACE = "placeholder-place"
    SPECIAL_TOKEN = "special-token"
    DAMAGED_TEXT = "damaged-text"
    # labels
    LABEL_LEAK = "label-leak"
    BENIGN_REFUSED = "benign-refused"
    ANSWER_IN_QUESTION = "answer-in-question"
    BROKEN_OFF = "broken-off"
    AS_PUBLISHED = "as-published"
    NOT_SHOWN = "not-shown"
    ANSWER_CUT = "answer-cut"
    IMAGES_CUT = "images-cut"
    # images
    PATH = "path"
    SEPARATOR = "separator"
    MISSING_IMAGE = "missing-image"
    NOT_AN_IMAGE = "not-an-image"
    CUT_SHORT = "cut-short"
    TOO_LARGE = "too-large"
    TOO_SMALL = "too-small"
    ODD_SHAPE = "odd-shape"
    WRONG_ENDING = "wrong-ending"
    ANIMATED = "animated"
    SAME_IMAGE_TWICE = "same-image-twice"
    # rows among each other
    DUPLICATE_ID = "duplicate-id"
    CONTRADICTION = "contradiction"
    DUPLICATE_ROW = "duplicate-row"
    REPEATED_QUESTION = "repeated-question"
    TWIN = "twin"
    LEAKAGE = "leakage"
    NEAR_DUPLICATE = "near-duplicate"

    @property
    def level(self) -> Level:
        """Whether it stops training."""
        return Level.WARNING if self in WARNINGS else Level.ERROR


WARNINGS = frozenset(
    [Kind.EMPTY_SPLIT, Kind.PARTIAL_SET, Kind.TEXT_ROW, Kind.SEPARATOR, Kind.UNKNOWN_SPLIT, Kind.UNKNOWN_CATEGORY,
     Kind.WRONG_SUB_CATEGORY, Kind.DAMAGED_TEXT, Kind.BROKEN_OFF, Kind.AS_PUBLISHED, Kind.NOT_SHOWN, Kind.WRONG_ENDING,
     Kind.ANIMATED, Kind.SAME_IMAGE_TWICE, Kind.DUPLICATE_ROW, Kind.REPEATED_QUESTION, Kind.NEAR_DUPLICATE]
)  # fmt: skip
# About what rows say: in a published set that is its authors' choice, as in VLGuard, which refuses a few harmless rows.
AUTHORS = frozenset(
    [Kind.LABEL_LEAK, Kind.BENIGN_REFUSED, Kind.ANSWER_IN_QUESTION, Kind.CONTRADICTION, Kind.MISSING_FIELD,
     Kind.EMPTY_TEXT]
)  # fmt: skip


class Finding(Record):
    """One thing that is wrong; ``row`` counts from 1 and is 0 where the whole file is meant."""

    kind: Kind
    file: str
    row: int
    field: str
    message: str
    """What was expected and what was found."""
    fix: str
    id: str = ""
    rows: int = 1
    """How many rows share it, this one the first of them."""

    @property
    def level(self) -> Level:
        """Whether it stops training."""
        return self.kind.level


class Location(NamedTuple):
    """A file, and a row of it by number and id."""

    file: str
    row: int = 0
    id: str = ""

    def finding(self, kind: Kind, field: str, message: str, fix: str, rows: int = 1) -> Finding:
        """A finding at this place."""
        texts = {"file": self.file, "id": self.id, "field": field, "message": message, "fix": fix}
        return Finding(kind=kind, row=self.row, rows=rows, **{name: printable(text) for name, text in texts.items()})


def printable(text: str) -> str:
    """The text without half characters, which no terminal and no file takes."""
    return text.encode("utf-8", "replace").decode()


def count_by_kind(findings: Iterable[Finding]) -> dict[Kind, int]:
    """How often each kind was found, errors first, then by number."""
    counts = Counter(finding.kind for finding in findings)
    return dict(sorted(counts.items(), key=lambda item: (item[0].level, -item[1], item[0])))
