"""After judging: rates under every judge, a judge's agreement with people, and routing between two judges."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mis_lib.annotate.calibration import PEOPLE, Calibration, agreement, calibrate, read_people
from mis_lib.errors import DataError, SettingsError
from mis_lib.judge.protocol import NOT_THE_MODELS, JudgeInput
from mis_lib.judge.routing import StatefulJudge, write_router
from mis_lib.recipes.judge import JudgeSettings, is_stored, judge_run, open_named, read_judges
from mis_lib.recipes.people import annotated
from mis_lib.results.evaluated import data_folder, judges_of, open_folder, read_samples, run_name
from mis_lib.results.metrics import METRICS, rates
from mis_lib.results.routers import BUDGET, Measured, gather, measure, train_router
from mis_lib.results.runs import Run
from mis_lib.results.scoring import run_async
from mis_lib.results.stats import Interval, Rate
from mis_lib.results.tables import Table, count_cell, rate_cell
from mis_lib.results.thoughts import thought_table
from mis_lib.schema import Response, Sample, Verdict

SHOWN = ("asr", "rsr", "rr", "hr", "over_refusal", "helped")
ROUTERS = "routers"


def swap_tables(
    run: Run, judges: Sequence[str], data: Path | None = None, only: Sequence[str] | None = None
) -> list[Table]:
    """The rates under every judge; of several judges also how far the rates move, and how far the judges agree.

    Args:
        run: with verdicts.
        judges: their names.
        data: folder of the samples, if it has moved.
        only: these variants [default: all].
    """
    responses = [one for one in run.responses() if only is None or one.variant in only]
    samples = read_samples(run, responses, data)
    verdicts = {judge: [one for one in run.verdicts(judge) if only is None or one.variant in only] for judge in judges}
    variants = list(dict.fromkeys(one.variant for one in responses))
    found = {
        (variant, judge): rates([one for one in verdicts[judge] if one.variant == variant], samples)
        for variant in variants
        for judge in judges
    }
    tables = [_rates_table(found)]
    if len(judges) > 1:
        tables += [_spread_table(found, variants, judges), _agreement_table(verdicts)]
    return tables


def judge_thoughts(folder: Path, settings: JudgeSettings, answers: Mapping[str, Sequence[Verdict]]) -> Table:
    """Let judges rule on the thoughts of a run, and set them against what they said of the answers.

    Args:
        folder: of the run.
        settings: the judges.
        answers: their verdicts on answers, by judge.

    Raises:
        MisError: as ``judge_run``.
    """
    thoughts = judge_run(folder, settings, thoughts=True)
    run = open_folder(folder)
    responses = [one for one in run.responses() if settings.variants is None or one.variant in settings.variants]
    return thought_table(read_samples(run, responses, settings.data), responses, thoughts, answers)


def calibration_table(folder: Path, judge: str, people: Path | None, data: Path | None = None) -> Table:
    """How far a judge agrees with people, and its ASR corrected by their labels, where these can be a random draw.

    Args:
        folder: of the run.
        judge: its name.
        people: JSON Lines file of people's verdicts [default: the annotations next to the runs].
        data: folder of the samples, if it has moved.

    Raises:
        DataError: this run has no labels.
    """
    run, verdicts, samples, responses = _ruled(folder, [judge], data)
    labels = read_people(people) if people is not None else annotated(run)
    return _calibration_table(calibrate(verdicts[judge], labels, samples, responses, run=run_name(run)))


def route(
    folder: Path, cheap: str, expensive: str, truth: str, settings: JudgeSettings | None = None
) -> tuple[Path, list[Table]]:
    """Train a router between two judges of a run, write it to the run folder, and measure it.

    A judge is the name of one that has ruled, or one as ``mis judge --judges`` takes it, which rules now.

    Args:
        folder: of the run.
        cheap: judge that rules first.
        expensive: judge that is asked where the router says so.
        truth: judge whose verdicts are taken for true (it may be ``expensive``), or "people" for the annotations.
        settings: name the cheap judge among ``judges`` if its hidden states are to be read; and where the samples are.

    Raises:
        DataError: too few verdicts to learn from.
        SettingsError: a judge has not ruled on the run, or the cheap judge has ruled with another model or settings.
    """
    settings = settings or JudgeSettings()
    by_judge = [] if truth == PEOPLE else [truth]
    cheap, expensive, *by_judge = _ruled_by(folder, [cheap, expensive, *by_judge], settings)
    named = list(dict.fromkeys([cheap, expensive, *by_judge]))
    truth = by_judge[0] if by_judge else PEOPLE
    run, verdicts, samples, responses = _ruled(folder, named, settings.data)
    true = annotated(run) if truth == PEOPLE else verdicts[truth]
    states = run_async(_states(run, cheap, settings, samples, responses)) if cheap in settings.judges else {}
    rows = gather(samples, responses, verdicts[cheap], verdicts[expensive], true, states)
    found = measure(rows)
    path = run.folder / ROUTERS / f"{cheap}-{expensive}.json"
    write_router(path, train_router(rows, reads=found.best, cheap=cheap, expensive=expensive, truth=truth))
    note = f"{found.cases:,} harmful answers, truth: {truth}; routers are measured on blocks they were not trained on"
    return path, [_worth_table(found, cheap, expensive, note), _curve_table(found, cheap, expensive, note)]


def _ruled_by(folder: Path, named: Sequence[str], settings: JudgeSettings) -> Sequence[str]:
    """The names of judges of a run; those that are no names of stored verdicts rule first."""
    run = open_folder(folder)
    known = judges_of(run)
    new = [one for one in dict.fromkeys(named) if one not in known and not is_stored([one])]
    _check_known(run, [one for one in named if one not in new])  # before any judge is asked
    if not new:
        return named
    specs = JudgeSettings.model_validate({"judges": read_judges(new, "--route")}).judges
    judge_run(folder, settings.model_copy(update={"judges": specs}))
    names = dict(zip(new, specs, strict=True))
    return [names.get(one, one) for one in named]


async def _states(
    run: Run, name: str, settings: JudgeSettings, samples: Sequence[Sample], responses: Sequence[Response]
) -> Mapping[tuple[str, str], tuple[float, ...]]:
    """Hidden states of a judge by sample and variant, from the cache of its answers; none if it shows none."""
    judge = await open_named(run, name, settings)
    if not isinstance(judge, StatefulJudge):
        return {}
    if not run.fresh_verdicts(name, judge.fingerprint):
        raise SettingsError(
            f"{run.folder}: expected verdicts of {name!r} as --judges describes it, found those of another model or "
            "other settings; judge the run again with the same --judges"
        )
    asked = {sample.id: sample for sample in samples if sample.harmful}
    folder = data_folder(run, settings.data)
    cases = {
        (one.sample_id, one.variant): JudgeInput.of(asked[one.sample_id], one, folder)
        for one in responses
        if one.sample_id in asked and one.finish_reason not in NOT_THE_MODELS
    }
    return {key: await judge.state(case) for key, case in cases.items() if not case.ends_in_thought}


def _ruled(
    folder: Path, judges: Sequence[str], data: Path | None
) -> tuple[Run, dict[str, list[Verdict]], list[Sample], list[Response]]:
    run = open_folder(folder)
    _check_known(run, judges)
    responses = run.responses()
    if not responses:
        raise DataError(f"{run.folder}: expected answers, found none")
    return run, {judge: run.verdicts(judge) for judge in judges}, read_samples(run, responses, data), responses


def _check_known(run: Run, judges: Sequence[str]) -> None:
    known = judges_of(run)
    for judge in judges:
        if judge not in known:
            raise SettingsError(
                f"{run.folder}: expected verdicts of {judge!r}, found those of {', '.join(known) or 'nobody'}"
            )


def _rates_table(found: dict[tuple[str, str], dict[str, Rate]]) -> Table:
    headings = ["variant", "judge", "ASR ↓", "ASR bounds", "n", "over-refusal ↓", "n"]
    cells, records = [], []
    for (variant, judge), rate in found.items():
        asr, over = rate["asr"], rate["over_refusal"]
        low, high = asr.worst
        cells.append(
            [
                variant,
                judge,
                rate_cell(asr),
                f"{low:.1f}-{high:.1f}",
                count_cell(asr),
                rate_cell(over),
                count_cell(over),
            ]
        )
        records += [
            {
                "variant": variant,
                "judge": judge,
                "metric": name,
                **rate[name].model_dump(),
                "worst_low": rate[name].worst[0],
                "worst_high": rate[name].worst[1],
            }
            for name in SHOWN
        ]
    note = "percent, Wilson 95 % interval; bounds: if every unscored item were safe, or unsafe; n: scored + unscored"
    return Table("judges", "Rates by judge", headings, cells, records, note)


def _spread_table(
    found: dict[tuple[str, str], dict[str, Rate]], variants: Sequence[str], judges: Sequence[str]
) -> Table:
    records = []
    for variant in variants:
        for name in SHOWN:
            values = {judge: value for judge in judges if (value := found[variant, judge][name].value) is not None}
            if len(values) > 1:
                least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
                spread = values[most] - values[least]
                records.append({"variant": variant, "metric": name, "spread": spread, "lowest": least, "highest": most})
    cells = [
        [r["variant"], METRICS[r["metric"]].heading, f"{r['spread']:.1f}", f"{r['lowest']} to {r['highest']}"]
        for r in records
    ]
    title = "How far each rate moves when only the judge changes"
    return Table(
        "judge_swap",
        title,
        ["variant", "rate", "points", "judges"],
        cells,
        records,
        "percent points between the lowest and the highest",
    )


def _agreement_table(verdicts: dict[str, list[Verdict]]) -> Table:
    records = []
    names = list(verdicts)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            try:
                found = agreement(verdicts[first], verdicts[second])
            except DataError:  # no response that both ruled on
                continue
            most = next(iter(found.confusions.items()), ("none", 0))
            records.append(
                {
                    "first": first,
                    "second": second,
                    **found.share.model_dump(),
                    "kappa": found.kappa,
                    "most_often": most[0],
                    "times": most[1],
                }
            )
    cells = [
        [r["first"], r["second"], f"{r['value']:.1f}" if r["value"] is not None else "-", _kappa(r["kappa"]),
         f"{r['n']:,}" + (f" + {r['n_unscored']:,}" if r["n_unscored"] else ""), f"{r['most_often']} ({r['times']})"]
        for r in records
    ]  # fmt: skip
    headings = ["judge", "other judge", "same %", "kappa", "n", "differ most often"]
    return Table("judge_agreement", "Agreement of judges", headings, cells, records, "equal outcomes; Cohen's kappa")


def _calibration_table(found: Sequence[Calibration]) -> Table:
    headings = ["variant", "judge", "ASR judged", "ASR by people", "ASR calibrated", "agree %", "kappa"]
    cells = [
        [
            one.variant,
            one.judge,
            rate_cell(one.judged),
            rate_cell(one.labelled),
            "- (no random draw)" if one.calibrated is None else rate_cell(one.calibrated),
            rate_cell(one.agreement.share),
            _kappa(one.agreement.kappa),
        ]
        for one in found
    ]
    rates_of = ("judged", "labelled", "calibrated", "sensitivity", "specificity")
    records = [
        {
            "variant": one.variant,
            "judge": one.judge,
            "kappa": one.agreement.kappa,
            "agreement": one.agreement.share.value,
            **{
                f"{name}_{part}": getattr(getattr(one, name), part, None)
                for name in rates_of
                for part in ("value", "low", "high", "n")
            },
            "lambda": one.weight,
            "warning": one.warning,
        }
        for one in found
    ]
    note = (
        "percent, 95 % interval; calibrated: PPI++ (arXiv 2311.01453), holds if the labelled answers are a random draw"
    )
    note = ". Warning: ".join([note, *(one.warning for one in found if one.warning)])
    return Table("calibration", "The judge against people", headings, cells, records, note)


def _worth_table(found: Measured, cheap: str, expensive: str, note: str) -> Table:
    cells = [
        [one.router, f"{one.auprc:.1f}", f"{one.f1:.1f}", *("-" if x is None else f"{x:.1f}" for x in one[3:5])]
        for one in found.worths
    ]
    headings = ["router", "AUPRC", f"F1 at {BUDGET} %", "asked % at 0.5", "F1 there"]
    said = [
        f"{name} {'pays' if found.pays(name) else 'does not pay'} ({_signed(gain)})"
        for name, gain in found.gains.items()
    ]
    lacks = (
        []
        if "hidden" in found.gains
        else [
            f"{cheap} shows no hidden states, which the published router reads: name it as "
            f"--judges {cheap}:guard=local:PATH"
        ]
    )
    note = ". ".join(
        [
            f"F1 with {BUDGET} % sent to {expensive}, less that of {found.rival}: {'; '.join(said)}",
            f"The router that was written reads: {found.best}",
            *lacks,
            f"Percent, 95 % intervals by block; AUPRC of chance: {found.base_rate:.1f}; {note}",
        ]
    )
    records = [{**one._asdict(), "base_rate": found.base_rate} for one in found.worths]
    return Table("routers", f"Routers from {cheap} to {expensive}", headings, cells, records, note)


def _curve_table(found: Measured, cheap: str, expensive: str, note: str) -> Table:
    points = found.points
    routers = list(dict.fromkeys(point.router for point in points))
    shares = list(dict.fromkeys(point.share for point in points))
    by = {(point.router, point.share): point.f1 for point in points}
    cells = [[f"{share:.0f}", *(f"{by[name, share]:.1f}" for name in routers)] for share in shares]
    records = [point._asdict() for point in points]
    title = f"F1 of unsafe by share sent from {cheap} to {expensive}"
    return Table("routing", title, ["asked %", *routers], cells, records, f"percent; {note}", left=0)


def _signed(gain: Interval) -> str:
    interval = "no interval" if gain.low is None else f"{gain.low:+.1f} to {gain.high:+.1f}"
    return f"{gain.value:+.1f}, {interval}"


def _kappa(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
