"""Both orders: every training pair asked with its images exchanged as well, so that what two things come to is not learned from where they stand.

In the element table the two things of a block have their parts, such as what acts and what it acts on, and these always come in the same order. A model trained on it takes
the same two images in the other order for harmless (``mis ablate``, condition swap-renamed). Test items keep their order.
"""

from collections.abc import Iterable

from mis_lib.construct.open_questions import OPEN_QUESTIONS
from mis_lib.construct.pairs import Ask
from mis_lib.ordinals import rename_ordinals


def ask_in_both_orders(asks: Iterable[Ask]) -> list[Ask]:
    """The asks and, behind them, each with its images exchanged."""
    as_they_are = list(asks)
    return as_they_are + [exchange(ask) for ask in as_they_are]


def exchange(ask: Ask) -> Ask:
    """The same pictures in the other order and the question that asks the same of them; an open question, which fits any two images, stays as it is."""
    question = ask.question if ask.question in OPEN_QUESTIONS else rename_ordinals(ask.question, 2)
    explicit = ask.explicit and rename_ordinals(ask.explicit, 2)
    return ask._replace(question=question, explicit=explicit, exchanged=not ask.exchanged)
