"""The tables of a report: rates, bounds, paired comparisons, the regression set, official scores and notes.

Every cell carries its interval, every row its denominators and what could not be scored, so that no number can be
quoted without them. CSV and JSON are in long form, one rate a record, for analysis; the other forms are for reading.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Group
from rich.text import Text

from mis_lib.errors import SettingsError
from mis_lib.results import paired
from mis_lib.results.evaluated import Evaluated, run_name
from mis_lib.results.metrics import METRICS, OUTCOME_METRICS, RateRow
from mis_lib.results.official import EFFECTIVE, OFFICIAL, Score, official_scores
from mis_lib.results.paired import FLIPS, Flip, Paired, Side
from mis_lib.results.paired import flips as flips_of
from mis_lib.results.regression import Entry, Regression, compare
from mis_lib.results.runs import read_note
from mis_lib.results.slices import Slices
from mis_lib.results.stats import Interval, Rate, rate
from mis_lib.results.tables import Table, count_cell, difference_cell, p_cell, rate_cell
from mis_lib.schema import HARMFUL_OUTCOMES

NOTE = "percent, Wilson 95 % interval; n: scored + unscored"
SHOWN = ("asr", "rsr", "over_refusal", "helped", "pair")
"""Metrics that a comparison shows to people; its records hold all of them."""
BECAME = ("fixed", "still_failing", "newly_broken", "still_right", "unscored")
Blocks = Sequence[Sequence[str]]  # names of metrics, those with one denominator together


def rates_table(rows: Sequence[RateRow], title: str, *, tag: str = "") -> Table:
    """The rates as a table; columns for run and judge where there are several."""
    words, blocks = _words(rows), _blocks(rows)
    return Table(
        "rates",
        title,
        _headings(_heads(words, rows), blocks),
        [[*_named(row, words), *map(_inline, _cells(row, blocks))] for row in rows],
        [_record(row, metric, rate, tag) for row in rows for metric, rate in row.rates.items()],
        NOTE,
        left=len(words),
    )


def bounds_table(rows: Sequence[RateRow]) -> Table:
    """Where a judge failed: the rate of what it scored, and what it would be with every failure a miss, or a hit."""
    words = _words(rows)
    open_ones = [(row, name, rate) for row in rows for name, rate in row.rates.items() if rate.n_unscored]
    shown = [(row, name, rate) for row, name, rate in open_ones if name in ("asr", "over_refusal", "pair")]
    return Table(
        "bounds",
        "Unscored items: parsed only, and the worst that they could hide",
        (*_heads(words, rows), "metric", "parsed only", "all unscored misses", "all unscored hits", "n"),
        [
            [
                *_named(row, words),
                METRICS[name].label,
                rate_cell(rate),
                *(f"{end:.1f}" for end in rate.worst),
                count_cell(rate),
            ]
            for row, name, rate in shown
        ],
        [_record(row, name, rate, "") for row, name, rate in open_ones],
        "percent; a judge's failure is in neither numerator nor denominator of the rates",
        left=len(words) + 1,
    )


def rich_rates(rows: Sequence[RateRow], title: str) -> Group:
    """Tables for the terminal, value above interval: harmful and benign items, pairs, naming, each 80 columns wide.

    A row stands in the tables that it has items for: a split without harmful ones, such as everyday pairs, has no line
    of dashes among these.
    """
    named = _blocks(rows)
    parts = (
        {"harmful items": named[:1], "benign items": named[1:2], "both": named[2:]} if len(named) > 2 else {"": named}
    )
    counted = {name: [row for row in rows if _counts(row, blocks)] for name, blocks in parts.items()}
    tables = [_rich_block(counted[name], parts[name], f"{title} {name}".strip()) for name in parts if counted[name]]
    return Group(*tables, Text("percent, Wilson 95 % interval; n: scored items + unscored ones", style="dim italic"))


def find_side(text: str, runs: Sequence[Evaluated]) -> Side:
    """The side that ``VARIANT`` or ``RUN:VARIANT`` names; RUN is NAME/vN, NAME or a path of one of the runs.

    Raises:
        SettingsError: no run or several have that variant, or the run is not among those read.
    """
    place, _, variant = text.rpartition(":")
    fitting = [run for run in runs if not place or _is_called(run, place)]
    if not fitting:
        raise SettingsError(f"{text}: no run {place!r} here; runs: {', '.join(run.name for run in runs)}")
    having = [run for run in fitting if variant in run.variants]
    if not having:
        known = ", ".join(dict.fromkeys(name for run in fitting for name in run.variants))
        raise SettingsError(f"{text}: unknown variant {variant!r}; known: {known}")
    if len({run.name for run in having}) > 1:
        raise SettingsError(
            f"{text}: several runs have it ({', '.join(run.name for run in having)}); write RUN:{variant}"
        )
    return Side(having[0], variant)


def paired_tables(before: Side, after: Side, *, by: str | Slices = "split") -> list[Table]:
    """The flip matrix of two sides, and their differences with test and interval."""
    names = (before.variant, after.variant)
    if names[0] == names[1]:
        names = (before.label, after.label)
    title = f"{names[0]} \N{RIGHTWARDS ARROW} {names[1]}, same items, judge {before.evaluated.judge}"
    return [
        _flip_table(flips_of(before, after), title),
        _test_table(paired.compare(before, after, by=by), title, "group" if isinstance(by, str) else by.name),
    ]


def regression_table(runs: Sequence[Evaluated], entries: Sequence[Entry]) -> Table:
    """What became of the responses that people have decided about, by variant; those trained on are separate."""
    compared = [
        (run, compare(entries, run.verdicts, variant, run.judge))
        for run in runs
        if run.judge
        for variant in run.variants
    ]
    rows = [
        (run, found.variant, trained, {name: _of(getattr(found, name), found, trained=trained) for name in BECAME})
        for run, found in compared
        for trained in (False, True)
    ]
    rows = [row for row in rows if any(row[3].values())]
    unjudged = {run.judge: len(found.by_label) for run, found in compared if found.by_label}
    by_label = "".join(
        f"; {count:,} were not ruled on by {judge} before: people's label is what was before"
        for judge, count in unjudged.items()
    )
    return Table(
        "regression",
        "Regression set: responses that people have decided about",
        ("variant", "items", *(name.replace("_", " ") for name in BECAME), "n"),
        [
            [
                variant if len(runs) == 1 else f"{run.name}:{variant}, {run.judge}",
                "trained on" if trained else "not trained on",
                *(f"{len(ids):,}" for ids in lists.values()),
                f"{sum(map(len, lists.values())):,}",
            ]
            for run, variant, trained, lists in rows
        ],
        [
            {
                "run": run.name,
                "variant": variant,
                "judge": run.judge,
                "trained_on": trained,
                "became": name,
                "n": len(ids),
                "ids": ids,
            }
            for run, variant, trained, lists in rows
            for name, ids in lists.items()
        ],
        "items, before and after by the same judge; those trained on show whether the lesson was learned, and are left "
        f"out of all rates below{by_label}",
    )


def official_tables(
    runs: Sequence[Evaluated], effectiveness: Mapping[tuple[str, str], bool] | None = None
) -> list[Table]:
    """Scores as the benchmarks define them, for runs whose samples come from published sets; none for others.

    Args:
        runs: under one judge each.
        effectiveness: SIUO's second judgement (``official_scores.read_effects``).
    """
    found = [(run, score) for run in runs for score in official_scores(run, effectiveness)]
    if not found:
        return []
    titles = dict.fromkeys(score.benchmark for _, score in found)
    said = [
        f"{measure.name}: {measure.definition}"
        for one in OFFICIAL.values()
        if one.title in titles
        for measure in one.measures
    ]
    named = {score.name for _, score in found}
    said += [f"{name}: {definition}" for name, definition in EFFECTIVE.items() if name in named]
    judges = [f"{one.title}: {one.judge}" for one in OFFICIAL.values() if one.title in titles]
    return [
        Table(
            "official",
            "As the benchmarks define it",
            ("benchmark", "variant", "judge", "group", "score", "percent", "bounds", "n"),
            [
                [
                    score.benchmark,
                    _variant(run, score, runs),
                    score.judge,
                    score.group,
                    score.name,
                    _share(score),
                    f"{score.worst_low:.1f}-{score.worst_high:.1f}" if score.n_unscored else "",
                    count_cell(score),
                ]
                for run, score in found
            ],
            [{"run": run.name, **score.model_dump()} for run, score in found],
            f"{'; '.join(dict.fromkeys(said))}. n: scored + unscored; "
            f"bounds: if every unscored item were a miss, or a hit. Official judges: {'; '.join(judges)}",
            left=5,
        )
    ]


def notes_table(runs: Sequence[Evaluated]) -> Table:
    """What people noted about the runs (``results.runs``)."""
    noted = {run.name: note for run in runs if (note := read_note(run.run.folder))}
    return Table(
        "notes",
        "Notes",
        ("run", "note"),
        [(name, " ".join(note.split())) for name, note in noted.items()],
        [{"run": name, "note": note} for name, note in noted.items()],
    )


def _words(rows: Sequence[RateRow]) -> list[str]:
    """The columns that say what a row is about."""
    several = [name for name in ("run", "judge") if len({getattr(row, name) for row in rows}) > 1]
    return ["group", *(name for name in ("run", "variant", "judge") if name == "variant" or name in several)]


def _heads(words: Sequence[str], rows: Sequence[RateRow]) -> list[str]:
    """The words as headings: groups by what they are called together."""
    return [(rows[0].by if rows else "") or word if word == "group" else word for word in words]


def _named(row: RateRow, words: Sequence[str]) -> list[str]:
    return [str(getattr(row, word)) for word in words]


def _rich_block(rows: Sequence[RateRow], blocks: Blocks, title: str) -> rich.table.Table:
    table = rich.table.Table(title=Text(title), title_justify="left", header_style="bold", show_lines=True)
    words = _words(rows)
    for position, heading in enumerate(_headings(_heads(words, rows), blocks)):
        table.add_column(heading, justify="left" if position < len(words) else "right", overflow="fold")
    for row in rows:
        table.add_row(*_named(row, words), *(_stacked(cell) for cell in _cells(row, blocks)))
    return table


def _blocks(rows: Sequence[RateRow]) -> Blocks:
    """The metrics that any row has, those with one denominator together: harmful, benign, pairs, naming."""
    have = [name for name in METRICS if any(name in row.rates for row in rows)]
    harmful = [name for name in have if OUTCOME_METRICS.get(name) in HARMFUL_OUTCOMES]
    benign = [name for name in have if name in OUTCOME_METRICS and name not in harmful]
    others = [[name] for name in have if name not in OUTCOME_METRICS]
    return [block for block in (harmful, benign, *others) if block]


def _counts(row: RateRow, blocks: Blocks) -> bool:
    """Whether a row has any item, scored or not, that these metrics are about."""
    found = (row.rates.get(name) for block in blocks for name in block)
    return any(rate.n + rate.n_unscored for rate in found if rate is not None)


def _headings(words: Sequence[str], blocks: Blocks) -> list[str]:
    return [*words, *(heading for block in blocks for heading in (*(METRICS[name].heading for name in block), "n"))]


def _cells(row: RateRow, blocks: Blocks) -> list[Rate | str]:
    cells: list[Rate | str] = []
    for block in blocks:
        found = [row.rates.get(name) for name in block]
        cells += ["-" if rate is None else rate for rate in found]
        cells.append("-" if found[0] is None else count_cell(found[0]))
    return cells


def _stacked(cell: Rate | str) -> str:
    if isinstance(cell, str) or cell.value is None:
        return cell if isinstance(cell, str) else "-"
    return f"{cell.value:.1f}\n[dim]{cell.low:.1f}-{cell.high:.1f}[/dim]"


def _inline(cell: Rate | str) -> str:
    return cell if isinstance(cell, str) else rate_cell(cell)


def _record(row: RateRow, metric: str, rate: Rate, tag: str) -> Mapping[str, Any]:
    known = {"tag": row.tag or tag, "run": row.run, "variant": row.variant, "judge": row.judge, "group": row.group}
    low, high = rate.worst
    return {**known, "metric": metric, **rate.model_dump(), "worst_low": low, "worst_high": high}


def _flip_table(flips: Sequence[Flip], title: str) -> Table:
    kinds = Counter(flip.kind for flip in flips)
    moves = Counter((flip.before, flip.after, flip.kind) for flip in flips)
    ordered = sorted(moves.items(), key=lambda item: (list(FLIPS).index(item[0][2]), -item[1]))
    return Table(
        "flips",
        f"What flipped: {title}",
        ("flip", "before", "after", "items"),
        [[f"{kind}, {kinds[kind]}", str(before), str(after), f"{count:,}"] for (before, after, kind), count in ordered],
        [flip.model_dump(mode="json") for flip in flips],
        "; ".join(f"{kind}: {FLIPS[kind]}" for kind in FLIPS if kinds[kind]),
        left=3,
    )


def prompting_table(runs: Sequence[Evaluated]) -> Table:
    """Variants under prompts and defences against the same variants without, on the same items, and what they cost."""
    rows = [(run, name) for run in runs if run.judge for name in _asked_with_and_without(run)]
    records = [_prompting_record(run, name, several=len({run.name for run, _ in rows}) > 1) for run, name in rows]
    named = ("asr", "over_refusal")
    return Table(
        "prompting",
        "Prompts and defences, against the same variant without",
        ("variant", "judge", *(text for name in named for text in (METRICS[name].heading, "change")), "n",
         "calls", "of a guard", "tokens", "unreadable"),
        [
            [
                one["variant"], one["judge"],
                *(cell for name in named for cell in (rate_cell(one[name].after), one["shown"][name])),
                " | ".join(count_cell(one[name].after) for name in named),
                *(f"{one[name]:.2f}" for name in ("calls", "guard_calls")), f"{one['tokens']:.0f}",
                f"{one['unreadable']:,}",
            ]
            for one in records
        ],
        [
            {name: value for name, value in one.items() if name not in (*named, "shown")}
            | {f"{name}_{key}": value for name in named for key, value in one[name].flat().items()}
            for one in records
        ],
        "percent and points; interval: bootstrap by block or image pair; n: harmful | benign items, scored + unscored; "
        "calls, tokens: of an answer, every step of a defence included; unreadable: steps in which a guard, or the "
        "model itself, said neither safe nor unsafe",
    )  # fmt: skip


def _asked_with_and_without(run: Evaluated) -> list[str]:
    """The variants under prompts, each base before them."""
    asked = [name for name in run.variants if name in run.run.config.prompts]
    bases = {name.rpartition("+")[0] for name in asked}
    return [name for name in run.variants if name in asked or name in bases]


def _prompting_record(run: Evaluated, name: str, *, several: bool) -> dict[str, Any]:
    base = name.rpartition("+")[0] if name in run.run.config.prompts else name
    against = base if base in run.variants else name
    compared = paired.compare(Side(run, against), Side(run, name), metrics=("asr", "over_refusal"))
    last = {row.metric: row for row in compared if row.group == compared[-1].group}
    none, no_difference = rate(0, 0), Interval(value=None, low=None, high=None)
    nothing = Paired(
        group="", metric="", before=none, after=none, difference=no_difference, fixed=0, broken=0, p=1, p_holm=1
    )
    found = {metric: last.get(metric, nothing) for metric in ("asr", "over_refusal")}
    known = {sample.id for sample in run.samples}
    answers = [one for one in run.responses if one.variant == name and one.sample_id in known]
    steps = [step for one in answers for step in one.steps]
    asked = sum(step.by == "model" for step in steps) + sum(not one.steps for one in answers)
    count = max(1, len(answers))
    return {
        "variant": f"{run.name}:{name}" if several else name,
        "against": against if against != name else None,
        "judge": run.judge,
        **found,
        "shown": {key: difference_cell(row.difference) if against != name else "-" for key, row in found.items()},
        "calls": asked / count,
        "guard_calls": sum(step.by == "guard" for step in steps) / count,
        "tokens": sum(one.tokens for one in answers) / count,
        "unreadable": sum(step.found == "unscored" for step in steps),
    }


def _test_table(rows: Sequence[Paired], title: str, groups: str) -> Table:
    return Table(
        "paired",
        f"Differences: {title}",
        (groups, "metric", "before", "after", "difference", "fixed", "broken", "p", "p (Holm)", "n"),
        [
            [
                row.group, METRICS[row.metric].label, _plain(row.before), _plain(row.after),
                difference_cell(row.difference), f"{row.fixed:,}", f"{row.broken:,}", p_cell(row.p), p_cell(row.p_holm),
                count_cell(row.before),
            ]
            for row in rows
            if row.metric in SHOWN
        ],
        [row.flat() for row in rows],
        "percent and points, on items that the judge scored on both sides; interval: bootstrap, p: exact "
        "sign-flip test, both by block or image pair; adjusted by Holm for all metrics and groups of this comparison",
    )  # fmt: skip


def _of(ids: Sequence[str], found: Regression, *, trained: bool) -> list[str]:
    return [one for one in ids if (one in found.trained_on) is trained]


def _is_called(run: Evaluated, place: str) -> bool:
    folder = run.run.folder.resolve()
    return place in (run_name(run.run), folder.parent.name) or Path(place).resolve() in (folder, folder.parent)


def _variant(run: Evaluated, score: Score, runs: Sequence[Evaluated]) -> str:
    return score.variant if len({one.name for one in runs}) == 1 else f"{run.name}:{score.variant}"


def _plain(rate: Rate) -> str:
    return "-" if rate.value is None else f"{rate.value:.1f}"


def _share(score: Score) -> str:
    if score.value is None or score.low is None or score.high is None:
        return "-" if score.value is None else f"{score.value:.1f}"
    return rate_cell(Rate(value=score.value, n=score.n, low=score.low, high=score.high))
