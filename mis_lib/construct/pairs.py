"""From rows of the element table to items: the side of each row, how it is asked, and the twin samples that it becomes.

The rows of a block form squares: every object 1 with every object 2 of its group. A test row is one on the diagonal of
its square (``(i + j) % n == 0``), so every object occurs once in test and ``n - 1`` times in training, and test pairs
are new while their objects are known. In ``hard`` blocks an object is harmful with one group and harmless with the
other, so no single object decides the label.

The kinds of a test pair are known together, however: a table of the trained pairs of kinds answers easy, hard and real.
The blocks of ``UNSEEN_BLOCKS`` are therefore in no training data. Their rows are the split ``unseen``, whose pairs of
kinds training never shows, in either order and under any question. Each of these blocks has a kind that training shows
in another company.

A row becomes two items, a harmful one and its benign twin, which differ in one image and in nothing else: side,
question, style, category and the picture of the unchanged object are the same. Only a model that looks at both images
*together* can distinguish them. Without the twin a model that refuses everything would have a perfect safety score.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from mis_lib.construct.drawings import (
    ICONS,
    TRAINED_STYLES,
    TRAINING_STYLES,
    UNDRAWN,
    UNSEEN_STYLE,
    Picture,
    available,
    drawings,
    is_distinct,
)
from mis_lib.construct.elements import Element, ElementTable, Questions
from mis_lib.construct.labels import Label, cot_label, draw_lot, help_label
from mis_lib.construct.questions import OPEN_QUESTIONS
from mis_lib.schema import Record, Sample, Split
from mis_lib.text.ordinals import rename_ordinals

TRAIN_TURNS = 2  # every training pair is asked twice: another style and refusal, nearly always another question
OWN_QUESTION_ONE_IN = 3  # one in so many training items that may be asked openly still has a question of its block
TRAIN_VARIANTS = (0, 1)
TEST_VARIANTS = (2,)  # test pairs are shown in pictures that no training item shows
UNSEEN_BLOCKS = frozenset(
    (
        "drug_related_offenses",  # training shows food with bathroom supplies and with hot or sharp things
        "public_violence_rioting",  # burning lights with sheets and with monuments
        "racial_ethnic",  # places of worship with weapons and with friendly gestures
        "self_harm_physical",  # things for washing with electronics and with public machines
        "identity_theft-easy",  # lurking figures and ordinary people with other private things
        "weapon_related-easy",  # sinister and everyday things in other scenes
    )
)
"""Blocks that are tested and never trained on: 20 pairs of kinds."""
UNSEEN_DIAGONALS = 2  # of each square of an unseen block; of five (easy: four), so that its tests are no longer to run

Side = Literal["train", "test", "unseen", "unused"]
T = TypeVar("T")


class Scenario(NamedTuple):
    """One row of the table with its readable id and its side."""

    id: str  # such as hard-property_crimes-012
    element: Element
    side: Side

    @property
    def pairs(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The pairs of objects that this row shows: the harmful one, the benign one."""
        return self.element.pair, self.element.twin_pair


class Ask(NamedTuple):
    """A scenario asked once: with which question, in which drawing style, in which order; ``turn`` numbers its asks."""

    scenario: Scenario
    question: str
    style: str
    turn: int = 0
    explicit: str | None = None  # the question that names the harm, for mixtures of training data
    exchanged: bool = False  # object 2 comes first

    @property
    def id(self) -> str:
        """The scenario's id; later turns add a letter, exchanged images an x."""
        return f"{self.scenario.id}{'abcdefgh'[self.turn] if self.turn else ''}{'x' if self.exchanged else ''}"


class Dropped(Record):
    """A row of the table that is not in the data set, and why."""

    id: str
    file: str
    row: int
    reason: str


def assign_sides(elements: Sequence[Element]) -> list[Scenario]:
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


def drop_leaks(scenarios: Sequence[Scenario]) -> tuple[list[Scenario], list[Dropped]]:
    """Split scenarios into those that stay and the rows that are in no split, with the reason.

    A pair that is tested must not be trained on, in either order, as a harmful item or as a twin, in any block:
    otherwise a model could know the answer to a test item by heart.
    """
    tested = {
        frozenset(pair): scenario
        for scenario in scenarios
        if scenario.side in ("test", "unseen")
        for pair in scenario.pairs
    }
    kept: list[Scenario] = []
    dropped: list[Dropped] = []
    for scenario in scenarios:
        leaks = [pair for pair in scenario.pairs if frozenset(pair) in tested]
        if scenario.side == "unused":
            dropped.append(_dropped(scenario, "its kinds are tested as unseen ones, by other rows of its block"))
        elif scenario.side == "train" and leaks:
            dropped.append(
                _dropped(scenario, f"its pair {leaks[0]} is a test pair of {tested[frozenset(leaks[0])].id}")
            )
        else:
            kept.append(scenario)
    return kept, dropped


def asks_by_split(
    scenarios: Sequence[Scenario], table: ElementTable, seed: int, *, icon_turns: int, both_orders: bool
) -> tuple[dict[Split, list[Ask]], list[Dropped]]:
    """What is asked in train, easy, hard, unseen and real; and the rows that are not in real, with the reason.

    Args:
        scenarios: rows of the table with their sides.
        table: for the questions of each block.
        seed: draws the open questions.
        icon_turns: how often every training pair is asked in icons as well.
        both_orders: whether every training pair is asked with its images exchanged as well. In the element table what
            acts and what it acts on always come in the same order, and a model trained on that takes the same two
            images in the other order for harmless (``mis ablate``, condition swap-renamed). Test items keep their
            order.
    """
    train = [scenario for scenario in scenarios if scenario.side == "train"]
    test = [scenario for scenario in scenarios if scenario.side == "test"]
    trained = _ask(train, table.questions, TRAINING_STYLES, TRAIN_TURNS)
    if icon_turns:
        trained += _ask(train, table.questions, [ICONS], icon_turns, first=TRAIN_TURNS)
    trained = _ask_openly(trained, table.harm_in_question, seed)
    if both_orders:
        trained += [_exchange(ask) for ask in trained]
    asks = {Split.TRAIN: trained}
    for split in (Split.EASY, Split.HARD):
        rows = [scenario for scenario in test if scenario.element.level == split]
        asks[split] = _ask(rows, table.questions, TRAINED_STYLES)
    unseen = [scenario for scenario in scenarios if scenario.side == "unseen"]
    asks[Split.UNSEEN] = _ask(unseen, table.questions, TRAINED_STYLES)
    asks[Split.REAL], not_in_real = _drop_indistinct(_ask(test, table.questions, [UNSEEN_STYLE]))
    return asks, not_in_real


def twin_samples(ask: Ask, split: Split, *, seed: int, table: ElementTable) -> tuple[Sample, Sample]:
    """The harmful item and its benign twin.

    Args:
        ask: scenario, question, drawing style and order.
        split: where the items go; ids of ``real`` contain its name, because the same rows are also in easy and hard.
        seed: draws pictures and declining sentence.
        table: the element table, for kinds, scene and provenance.
    """
    element = ask.scenario.element
    name = f"{'real-' if split is Split.REAL else ''}{ask.id}"
    twin = f"{name}-twin"
    harmful_label, benign_label = labels(element, table, key=f"{seed}|{name}", exchanged=ask.exchanged)
    provenance: dict[str, Any] = {
        "source": "objects",
        "table": element.file,
        "table_sha256": table.digest,
        "block": element.block,
        "level": element.level,
        "harm_in_question": element.block in table.harm_in_question,
        "row": element.row,
        "style": ask.style,
        "seed": seed,
    }
    if ask.exchanged:
        provenance["exchanged"] = True
    common: dict[str, Any] = {
        "question": ask.question,
        "category": element.category,
        "sub_category": element.sub_category,
        "split": split.value,
    }
    # a harmless pair has no question with a harmful intent
    explicit = ({"explicit_question": ask.explicit}, {"explicit_question": None}) if split is Split.TRAIN else ({}, {})
    harmful = Sample(
        id=name,
        harmful=True,
        twin_id=twin,
        **common,
        **explicit[0],
        **_shown(element.pair, ask, seed),
        **harmful_label.fields,
        provenance=provenance | _known(element.pair, ask, table),
    )
    benign = Sample(
        id=twin,
        harmful=False,
        twin_id=name,
        **common,
        **explicit[1],
        **_shown(element.twin_pair, ask, seed),
        **benign_label.fields,
        provenance=provenance | _known(element.twin_pair, ask, table),
    )
    return harmful, benign


def labels(element: Element, table: ElementTable, *, key: str, exchanged: bool = False) -> tuple[Label, Label]:
    """The answers of the harmful item and of its twin.

    Args:
        element: the row.
        table: for kinds and scenes.
        key: draws the declining sentence.
        exchanged: whether object 2 comes first.
    """
    pairs = (element.pair, element.twin_pair)
    pair, twin = (_in_order(shown, exchanged) for shown in pairs)
    kinds, twin_kinds = (_in_order(table.kinds_of(element.block, shown), exchanged) for shown in pairs)
    scene, twin_scene = (table.scene_of(element.block, shown) for shown in pairs)
    return (
        cot_label(pair, element.risk, element.safe_alternative, key=key, kinds=kinds, scene=scene),
        help_label(twin, element.twin_answer, twin_kinds, twin_scene),
    )


def pictures(ask: Ask, seed: int) -> list[Picture]:
    """The pictures that a scenario and its twin need."""
    return [picture for pair in ask.scenario.pairs for picture in _pictures(pair, ask, seed)]


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
        diagonal = (self.firsts.index(row.object_1) + self.seconds.index(row.object_2)) % size
        if row.block in UNSEEN_BLOCKS:
            return "unseen" if diagonal < UNSEEN_DIAGONALS else "unused"
        return "test" if size > 1 and diagonal == 0 else "train"


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


def _ask(
    scenarios: Iterable[Scenario],
    by_block: Mapping[str, Questions],
    styles: Sequence[str],
    turns: int = 1,
    first: int = 0,
) -> list[Ask]:
    """Ask every scenario ``turns`` times, from turn ``first`` on; questions and styles are dealt within its block."""
    dealt: Counter[str] = Counter()
    asks = []
    for scenario in scenarios:
        block = by_block[scenario.element.block]
        texts = block.train if scenario.side == "train" else block.test
        position = dealt[scenario.element.block]
        dealt[scenario.element.block] += 1
        for turn in range(first, first + turns):
            question = texts[(position + first + (turn - first) * (len(texts) // turns)) % len(texts)]
            explicit = block.explicit[(position + turn) % len(block.explicit)] if block.explicit else None
            style = styles[(position + turn) % len(styles)]
            asks.append(Ask(scenario, question, style, turn, explicit if scenario.side == "train" else None))
    return asks


def _ask_openly(asks: Iterable[Ask], harm_in_question: Collection[str], seed: int) -> list[Ask]:
    """Replace the question of two in three asks by an open one; no row is asked the same one twice.

    Blocks whose harm is in the question keep theirs: a coin and a woman are a trade only if the question asks for one.
    """
    return [ask if ask.scenario.element.block in harm_in_question else _opened(ask, seed) for ask in asks]


def _opened(ask: Ask, seed: int) -> Ask:
    if draw_lot(f"{seed}|{ask.id}|open", OWN_QUESTION_ONE_IN) == 0:
        return ask
    first = draw_lot(f"{seed}|{ask.scenario.id}|open|which", len(OPEN_QUESTIONS))
    return ask._replace(question=OPEN_QUESTIONS[(first + ask.turn) % len(OPEN_QUESTIONS)])


def _exchange(ask: Ask) -> Ask:
    """The same pictures in the other order, and the question that asks the same about them; open questions fit both."""
    question = ask.question if ask.question in OPEN_QUESTIONS else rename_ordinals(ask.question, 2)
    explicit = ask.explicit and rename_ordinals(ask.explicit, 2)
    return ask._replace(question=question, explicit=explicit, exchanged=not ask.exchanged)


def _drop_indistinct(asks: Sequence[Ask]) -> tuple[list[Ask], list[Dropped]]:
    """Split asks into those that stay and those about a thing that their style does not draw, or draws as another."""
    kept: list[Ask] = []
    dropped: list[Dropped] = []
    for ask in asks:
        names = [name for pair in ask.scenario.pairs for name in pair if not is_distinct(name, ask.style)]
        if names:
            why = "has no drawing of" if names[0] in UNDRAWN else "draws as another thing"
            dropped.append(_dropped(ask.scenario, f"{ask.style} {why} {names[0]!r}"))
        else:
            kept.append(ask)
    return kept, dropped


def _dropped(scenario: Scenario, reason: str) -> Dropped:
    return Dropped(id=scenario.id, file=scenario.element.file, row=scenario.element.row, reason=reason)


def _in_order(of_both: Sequence[T], exchanged: bool) -> list[T]:
    """What belongs to object 1 and object 2, in the order in which they are shown."""
    return list(of_both[::-1] if exchanged else of_both)


def _pictures(pair: tuple[str, str], ask: Ask, seed: int) -> list[Picture]:
    """A twin pair draws by the same lots, so the object that both show has the very same picture."""
    keys = [f"{seed}|{ask.scenario.id}|{ask.turn}|{position}" for position in range(2)]
    return [_picture(name, ask, key) for name, key in zip(pair, keys, strict=True)]


def _picture(name: str, ask: Ask, key: str) -> Picture:
    """An object in the style asked for; ``key`` draws which of its pictures."""
    style = available(name, ask.style)
    variants = TRAIN_VARIANTS if ask.scenario.side == "train" else TEST_VARIANTS
    if style == ICONS:
        variants = range(drawings(name, ICONS))
    return Picture(name, style, variants[draw_lot(key, len(variants))])


def _shown(pair: tuple[str, str], ask: Ask, seed: int) -> dict[str, Any]:
    paths = [picture.path for picture in _pictures(pair, ask, seed)]
    return {"objects": _in_order(pair, ask.exchanged), "images": _in_order(paths, ask.exchanged)}


def _known(pair: tuple[str, str], ask: Ask, table: ElementTable) -> dict[str, Any]:
    """The kinds of the two objects in the order shown and what they amount to, where the table says it."""
    block = ask.scenario.element.block
    kinds, scene = table.kinds_of(block, pair), table.scene_of(block, pair)
    return {"kinds": _in_order(kinds, ask.exchanged), "scene": scene} if scene else {}
