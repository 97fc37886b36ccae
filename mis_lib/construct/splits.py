"""Splits: which rows of the element table are asked where, how often, in which styles, words and order."""

from collections.abc import Sequence

from mis_lib.construct.drawings import ICONS, TRAINED_STYLES, TRAINING_STYLES, UNSEEN_STYLE
from mis_lib.construct.elements import ElementTable
from mis_lib.construct.filters import Dropped, drop_untold
from mis_lib.construct.open_questions import ask_openly
from mis_lib.construct.orders import ask_in_both_orders
from mis_lib.construct.pairs import Ask, Scenario, ask
from mis_lib.schema import Split

TRAIN_TURNS = 2  # every training pair is asked twice: another style and refusal, nearly always another question


def asks_by_split(
    scenarios: Sequence[Scenario], table: ElementTable, seed: int, *, icon_turns: int, both_orders: bool
) -> tuple[dict[Split, list[Ask]], list[Dropped]]:
    """What is asked in train, easy, hard and real; and the rows that are not in real, with the reason.

    Args:
        scenarios: rows of the table with their sides.
        table: for the questions of each block.
        seed: draws the open questions.
        icon_turns: how often every training pair is asked in icons as well.
        both_orders: whether every training pair is asked with its images exchanged as well.
    """
    train = [scenario for scenario in scenarios if scenario.side == "train"]
    test = [scenario for scenario in scenarios if scenario.side == "test"]
    trained = ask(train, table.questions, TRAINING_STYLES, TRAIN_TURNS)
    if icon_turns:
        trained += ask(train, table.questions, [ICONS], icon_turns, first=TRAIN_TURNS)
    trained = ask_openly(trained, table.bound, seed)
    asks = {Split.TRAIN: ask_in_both_orders(trained) if both_orders else trained}
    for split in (Split.EASY, Split.HARD):
        rows = [scenario for scenario in test if scenario.element.level == split]
        asks[split] = ask(rows, table.questions, TRAINED_STYLES)
    asks[Split.REAL], untold = drop_untold(ask(test, table.questions, [UNSEEN_STYLE]))
    return asks, untold
