"""A few of many samples, spread evenly over their categories: the first so many of a file would often be one category only.

Choosing more keeps those that were chosen before, so a run over few items can be continued with more.
"""

from collections.abc import Iterable, Sequence

from mis_lib.schema import Sample


def spread(samples: Iterable[Sample], n: int) -> list[Sample]:
    """At most ``n`` samples, one of each category in turn, and within a category one of each sub-category in turn."""
    categories: dict[str | None, dict[str | None, list[Sample]]] = {}
    for sample in samples:
        categories.setdefault(sample.category, {}).setdefault(sample.sub_category, []).append(sample)
    return in_turn([in_turn(list(parts.values())) for parts in categories.values()])[:n]


def in_turn(groups: Sequence[Sequence[Sample]]) -> list[Sample]:
    """The first of every group, then the second of every group, and so on."""
    longest = max(map(len, groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]
