"""Scenarios: which rows of the element table are for training and which for testing, and how each one is asked.

The rows of a block form squares: every object 1 with every object 2 of its group. A test row is one on the diagonal of its square
(``(i + j) % n == 0``), so every object occurs once in test and ``n - 1`` times in training, and test pairs are new while their objects are
known. In ``hard`` blocks an object is harmful beside one group and harmless beside the other: no single object tells the label. A
harmful row and its twin stay together: same side, same question, same drawing style.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

from mis_lib.construct.element_rows import Element
from mis_lib.construct.elements import Questions

Side = Literal["train", "test"]
T = TypeVar("T")


class Scenario(NamedTuple):
    """One row of the table with its readable id and its side."""

    id: str  # such as hard-property_crimes-012
    element: Element
    side: Side

    @property
    def pairs(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The pairs of objects that this row puts before a model: the harmful one, the benign one."""
        return self.element.pair, self.element.twin_pair


class Ask(NamedTuple):
    """A scenario asked once: with which question, in which drawing style, in which order; ``turn`` tells several asks of one row apart."""

    scenario: Scenario
    question: str
    style: str
    turn: int = 0
    explicit: str | None = None  # the question that names the harm, for mixtures of training data
    exchanged: bool = False  # object 2 comes first

    @property
    def id(self) -> str:
        """The scenario's id; later turns have a letter behind it, exchanged images an x."""
        return f"{self.scenario.id}{'abcdefgh'[self.turn] if self.turn else ''}{'x' if self.exchanged else ''}"


@dataclass
class _Square:
    """Rows that share objects, and these objects in the order in which they come up."""

    rows: list[Element] = field(default_factory=list)

    @property
    def firsts(self) -> list[str]:
        return list(dict.fromkeys(row.object_1 for row in self.rows))

    @property
    def seconds(self) -> list[str]:
        return list(dict.fromkeys(row.object_2 for row in self.rows))

    def side(self, row: Element) -> Side:
        size = max(len(self.firsts), len(self.seconds))
        diagonal = self.firsts.index(row.object_1) + self.seconds.index(row.object_2)
        return "test" if size > 1 and diagonal % size == 0 else "train"


def in_order(of_both: Sequence[T], exchanged: bool) -> list[T]:
    """What belongs to object 1 and object 2, in the order in which they are shown."""
    return list(of_both[::-1] if exchanged else of_both)


def place(elements: Sequence[Element]) -> list[Scenario]:
    """Give every row its id and its side, in the order of the table."""
    numbers: Counter[str] = Counter()
    squares = {(row.file, row.row): square for square in _squares(elements) for row in square.rows}
    scenarios = []
    for element in elements:
        stem = f"{element.level}-{element.block.removesuffix(f'-{element.level}')}"
        numbers[stem] += 1
        side = squares[element.file, element.row].side(element)
        scenarios.append(Scenario(f"{stem}-{numbers[stem]:03d}", element, side))
    return scenarios


def ask(
    scenarios: Iterable[Scenario],
    questions: Mapping[str, Questions],
    styles: Sequence[str],
    turns: int = 1,
    first: int = 0,
) -> list[Ask]:
    """Ask every scenario ``turns`` times, dealing the questions of its side and the styles out in turn within its block.

    Args:
        scenarios: rows of the table.
        questions: by block.
        styles: to deal out.
        turns: how often each is asked.
        first: number of the first turn, behind those that another call asked.
    """
    dealt: Counter[str] = Counter()
    asks = []
    for scenario in scenarios:
        block = questions[scenario.element.block]
        texts = block.train if scenario.side == "train" else block.test
        position = dealt[scenario.element.block]
        dealt[scenario.element.block] += 1
        for turn in range(first, first + turns):
            question = texts[(position + first + (turn - first) * (len(texts) // turns)) % len(texts)]
            explicit = block.explicit[(position + turn) % len(block.explicit)] if block.explicit else None
            style = styles[(position + turn) % len(styles)]
            asks.append(Ask(scenario, question, style, turn, explicit if scenario.side == "train" else None))
    return asks


def _squares(elements: Iterable[Element]) -> list[_Square]:
    """Rows of one block and level that share an object, directly or over other rows."""
    squares: list[_Square] = []
    for row in elements:
        near = [square for square in squares if _touches(square, row)]
        merged = _Square([*(other for square in near for other in square.rows), row])
        squares = [square for square in squares if square not in near] + [merged]
    return squares


def _touches(square: _Square, row: Element) -> bool:
    return any(
        (other.block, other.level) == (row.block, row.level)
        and (other.object_1 == row.object_1 or other.object_2 == row.object_2)
        for other in square.rows
    )
