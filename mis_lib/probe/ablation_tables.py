"""The tables of an ablation: what declines under which condition, who declines without images, and which image decides."""

from collections import Counter
from collections.abc import Mapping, Sequence

from mis_lib.probe.ablation import DECIDERS, ORIGINAL, Measured, Skipped
from mis_lib.results.stats import Interval, Rate
from mis_lib.results.tables import Sheet, count_cell, difference_cell, p_cell, rate_cell

Found = Mapping[tuple[str, str, str, str], Measured]  # by variant, items, measure, condition


def ablation_sheets(measured: Sequence[Measured], *, tag: str, skipped: Sequence[Skipped] = ()) -> list[Sheet]:
    """Sheets "conditions", "shortcut", "interaction" and "deciding"; empty ones are left out."""
    found = {(one.variant, one.items, one.measure, one.condition): one for one in measured}
    sheets = [
        _conditions(found, measured, tag, skipped),
        _shortcut(found, measured, tag),
        _interaction(found, measured, tag),
        _deciding(found, measured, tag),
    ]
    return [sheet for sheet in sheets if sheet.cells]


def _conditions(found: Found, measured: Sequence[Measured], tag: str, skipped: Sequence[Skipped]) -> Sheet:
    left_out = f"; left out: {_reasons(skipped)}" if skipped else ""
    return Sheet(
        "conditions",
        f"Who declines under which condition [{tag}]",
        ("variant", "condition", "declines", "unsafe", "against original", "p", "decision flips", "n"),
        [_condition(one, found) for one in measured if one.measure == "declines"],
        [one.model_dump() for one in measured if one.measure in ("declines", "unsafe", "shift", "flips")],
        "percent, Wilson 95 % interval; against original: points of declining, bootstrap interval by image pair, p: McNemar's exact test, "
        "which takes the items for independent; "
        f"twin-all shows the benign twin, where declining is over-refusal{left_out}",
    )


def _condition(one: Measured, found: Found) -> list[str]:
    unsafe, shift, flips = (
        found.get((one.variant, one.items, measure, one.condition)) for measure in ("unsafe", "shift", "flips")
    )
    p = p_cell(shift.p if shift else None)
    return [
        _variant(one),
        one.condition,
        _share(one),
        _share(unsafe),
        _points(shift),
        p,
        _share(flips),
        count_cell(one),
    ]


def _shortcut(found: Found, measured: Sequence[Measured], tag: str) -> Sheet:
    rows = [one for one in measured if one.measure == "shortcut"]
    cells = [
        [
            _variant(one),
            one.condition,
            *(_share(found[one.variant, one.items, "declines", name]) for name in (ORIGINAL, one.condition)),
            _share(one),
            count_cell(one),
        ]
        for one in rows
    ]
    return Sheet(
        "shortcut",
        f"Text shortcut: who still declines without images [{tag}]",
        ("variant", "condition", "declines, original", "declines, no images", "of those that decline, still do", "n"),
        cells,
        [one.model_dump() for one in rows],
        "percent, Wilson 95 % interval; n: items whose original is declined. Who looks at the images has no reason to decline without them",
    )


def _interaction(found: Found, measured: Sequence[Measured], tag: str) -> Sheet:
    rows = [one for one in measured if one.measure == "interaction"]
    cells = [
        [
            _variant(one),
            one.condition,
            _points(one),
            _share(found.get((one.variant, one.items, "only_both", one.condition))),
            count_cell(one),
        ]
        for one in rows
    ]
    return Sheet(
        "interaction",
        f"What only both images together bring [{tag}]",
        ("variant", "state", "interaction", "unsafe only with both", "n"),
        cells,
        [one.model_dump() for one in measured if one.measure in ("interaction", "interaction_unsafe", "only_both")],
        "interaction: points of declining, with both - first only - second only + neither, bootstrap interval by image pair; last: percent",
    )


def _deciding(found: Found, measured: Sequence[Measured], tag: str) -> Sheet:
    names = [f"decides_{decider}" for decider in DECIDERS]
    cells = [
        [
            _variant(one),
            one.condition,
            *(_share(found.get((one.variant, one.items, name, one.condition))) for name in names),
            count_cell(one),
        ]
        for one in measured
        if one.measure == names[0]
    ]
    return Sheet(
        "deciding",
        f"Which image the decision hangs on [{tag}]",
        ("variant", "state", *DECIDERS, "n"),
        cells,
        [one.model_dump() for one in measured if one.measure in names],
        "percent of items whose decision changes when the first image goes, the second, each of them, only both together, never",
    )


def _variant(one: Measured) -> str:
    return one.variant if one.items == "harmful" else f"{one.variant}, benign items"


def _share(one: Measured | None) -> str:
    if one is None or one.value is None or one.low is None or one.high is None:
        return "-"
    return rate_cell(Rate(value=one.value, n=one.n, low=one.low, high=one.high))


def _points(one: Measured | None) -> str:
    return "-" if one is None else difference_cell(Interval(value=one.value, low=one.low, high=one.high))


def _reasons(skipped: Sequence[Skipped]) -> str:
    counts = Counter((one.condition, one.reason) for one in skipped)
    return ", ".join(f"{condition} of {count} items ({reason})" for (condition, reason), count in counts.items())
