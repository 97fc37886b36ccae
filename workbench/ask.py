"""What a page of the Annotate tab asks for, and the address that says the same."""

from dataclasses import dataclass, field, replace

from mis_lib.analysis.worth import Item, Order
from mis_lib.annotate.worklist import Filter, Whose
from workbench.links import Link, Tab


@dataclass(frozen=True)
class Ask:
    """What the page asks for: a run, a part of it, how it is shown, and to whom."""

    run: str = ""
    chosen: Filter = field(default_factory=Filter)
    blind: bool = True
    author: str = ""


def ask_of_link(link: Link, ask: Ask) -> Ask:
    """The filters that a link means; where it does not name whose responses, those that are decided on are shown too."""
    first, second = link.variants if len(link.variants) == 2 else (link.beside, "")
    decided_too = link.item or link.outcome or link.after
    chosen = Filter(
        variant=second or link.variant,
        beside=first,
        split=link.split,
        category=link.category,
        judge=link.judge,
        outcome=link.after or link.outcome,
        beside_outcome=link.before,
        signal=link.signal,
        whose=Whose(link.whose) if link.whose else Whose.ALL if decided_too else Whose.OPEN,
        order=Order(link.order) if link.order else Order.WORST,
    )
    return replace(ask, run=link.run or ask.run, chosen=chosen)


def shows(place: str, ask: Ask) -> bool:
    """Whether an address is one of this list: the same run under the same filters."""
    link = Link.parse(place)
    return link.tab is Tab.ANNOTATE and link.run == ask.run and ask_of_link(link, ask).chosen == ask.chosen


def link_of(ask: Ask, item: Item | None) -> str:
    """The address of a list, opened at an item if there is one: ``ask_of_link`` of it is the same list."""
    chosen = ask.chosen
    pair = (chosen.beside, chosen.variant) if chosen.beside and chosen.variant else ()
    return Link(
        tab=Tab.ANNOTATE,
        run=ask.run,
        variant="" if pair else chosen.variant,
        variants=pair,
        beside="" if pair else chosen.beside,
        split=chosen.split,
        category=chosen.category,
        judge=chosen.judge,
        outcome="" if chosen.beside_outcome else chosen.outcome,
        after=chosen.outcome if chosen.beside_outcome else "",
        before=chosen.beside_outcome,
        whose=str(chosen.whose),
        signal=chosen.signal,
        order="" if chosen.order is Order.WORST else str(chosen.order),
        item=item.sample.id if item else "",
        response=item.response.variant if item and not chosen.variant else "",
    ).query()
