"""What a report shows beside its rates: paired comparisons, official scores, the regression set. Sheets from what runs hold."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mis_lib.errors import SettingsError
from mis_lib.results import paired
from mis_lib.results.evaluated import Evaluated, run_name
from mis_lib.results.metrics import METRICS
from mis_lib.results.official import EFFECTIVE, OFFICIAL, Score, official_scores
from mis_lib.results.paired import FLIPS, Flip, Paired, Side
from mis_lib.results.paired import flips as flips_of
from mis_lib.results.regression import Entry, Regression, compare
from mis_lib.results.runs import read_note
from mis_lib.results.slices import Slices
from mis_lib.results.stats import Rate
from mis_lib.results.tables import Sheet, count_cell, difference_cell, p_cell, rate_cell

SHOWN = ("asr", "rsr", "over_refusal", "helped", "pair")
"""Metrics that a comparison shows to people; its records hold all of them."""
BECAME = ("fixed", "still_failing", "newly_broken", "still_right", "unscored")


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


def paired_sheets(before: Side, after: Side, *, by: str | Slices = "split") -> list[Sheet]:
    """The flip matrix of two sides, and their differences with test and interval."""
    names = (before.variant, after.variant)
    if names[0] == names[1]:
        names = (before.label, after.label)
    title = f"{names[0]} \N{RIGHTWARDS ARROW} {names[1]}, same items, judge {before.evaluated.judge}"
    return [
        _flip_sheet(flips_of(before, after), title),
        _test_sheet(paired.compare(before, after, by=by), title, "group" if isinstance(by, str) else by.name),
    ]


def notes_sheet(runs: Sequence[Evaluated]) -> Sheet:
    """What people noted about the runs (``store.notes``)."""
    noted = {run.name: note for run in runs if (note := read_note(run.run.folder))}
    return Sheet(
        "notes",
        "Notes",
        ("run", "note"),
        [(name, " ".join(note.split())) for name, note in noted.items()],
        [{"run": name, "note": note} for name, note in noted.items()],
    )


def _flip_sheet(flips: Sequence[Flip], title: str) -> Sheet:
    kinds = Counter(flip.kind for flip in flips)
    moves = Counter((flip.before, flip.after, flip.kind) for flip in flips)
    ordered = sorted(moves.items(), key=lambda item: (list(FLIPS).index(item[0][2]), -item[1]))
    return Sheet(
        "flips",
        f"What flipped: {title}",
        ("flip", "before", "after", "items"),
        [[f"{kind}, {kinds[kind]}", str(before), str(after), f"{count:,}"] for (before, after, kind), count in ordered],
        [flip.model_dump(mode="json") for flip in flips],
        "; ".join(f"{kind}: {FLIPS[kind]}" for kind in FLIPS if kinds[kind]),
        left=3,
    )


def _test_sheet(rows: Sequence[Paired], title: str, groups: str) -> Sheet:
    return Sheet(
        "paired",
        f"Differences: {title}",
        (groups, "metric", "before", "after", "difference", "fixed", "broken", "p", "p (Holm)", "n"),
        [
            [
                row.group, METRICS[row.metric].label, _plain(row.before), _plain(row.after), difference_cell(row.difference),
                f"{row.fixed:,}", f"{row.broken:,}", p_cell(row.p), p_cell(row.p_holm), count_cell(row.before),
            ]
            for row in rows
            if row.metric in SHOWN
        ],
        [row.flat() for row in rows],
        "percent and points, on items that the judge scored on both sides; interval: bootstrap by image pair; p: McNemar's exact test, "
        "and adjusted by Holm for all metrics and groups of this comparison; p takes the items for independent and is too small where several "
        "are about the same images",
    )  # fmt: skip


def regression_sheet(runs: Sequence[Evaluated], entries: Sequence[Entry]) -> Sheet:
    """What became of the responses that people have decided about, variant by variant; what was trained on stands apart."""
    compared = [(run, compare(entries, run.verdicts, variant)) for run in runs if run.judge for variant in run.variants]
    rows = [
        (run, found.variant, trained, {name: _of(getattr(found, name), found, trained=trained) for name in BECAME})
        for run, found in compared
        for trained in (False, True)
    ]
    rows = [row for row in rows if any(row[3].values())]
    return Sheet(
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
        "items; those trained on show whether the lesson was learned, and are left out of all rates below",
    )


def _of(ids: Sequence[str], found: Regression, *, trained: bool) -> list[str]:
    return [one for one in ids if (one in found.trained_on) is trained]


def official_sheets(
    runs: Sequence[Evaluated], effectiveness: Mapping[tuple[str, str], bool] | None = None
) -> list[Sheet]:
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
    told = {score.name for _, score in found}
    said += [f"{name}: {definition}" for name, definition in EFFECTIVE.items() if name in told]
    judges = [f"{one.title}: {one.judge}" for one in OFFICIAL.values() if one.title in titles]
    return [
        Sheet(
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
            f"{'; '.join(dict.fromkeys(said))}. n: scored + unscored; bounds: if every unscored item were a miss, or a hit. "
            f"Official judges: {'; '.join(judges)}",
            left=5,
        )
    ]


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
