"""``mis judge RUN --twins``: what precondition judges are worth on a run's benign twins, without labels."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from mis_lib.clients.cache import work_through
from mis_lib.clients.protocol import CannotAnswer
from mis_lib.errors import DataError, SettingsError
from mis_lib.judge.guard import described
from mis_lib.judge.precondition import PreconditionJudge, Seen
from mis_lib.judge.protocol import NOT_THE_MODELS, JudgeInput
from mis_lib.recipes.judge import JudgeSettings, open_named
from mis_lib.recipes.progress import Advance, bars
from mis_lib.results.evaluated import data_folder, open_folder, read_samples
from mis_lib.results.metrics import cluster_of
from mis_lib.results.runs import Run
from mis_lib.results.scoring import run_async
from mis_lib.results.stats import Interval
from mis_lib.results.tables import Table, count_cell, difference_cell, rate_cell
from mis_lib.results.twins import TOLERANCE, Apart, Described, Pair, compare_described, tell_apart
from mis_lib.schema import Outcome, Response, Sample
from mis_lib.settings import all_known


def measure_twins(folder: Path, settings: JudgeSettings) -> list[Table]:
    """Measure every precondition judge of the settings on the twins that a run has answered.

    The rules of each harmful item are asked of its pictures and of its twin's. Its answers are judged as they are, and
    after a description of the pictures. Replies come from the run's cache, or go there.

    Raises:
        DataError: the run has no twins, or their images are missing.
        SettingsError: no precondition judge is named, or it asks nothing without images.
        ClientError: the model cannot be asked; what it has answered is kept.
    """
    named = [name for name, spec in settings.judges.items() if spec.kind == "precondition"]
    if not named:
        raise SettingsError("--twins: expected --judges [NAME:]precondition=URL#MODEL or =local:PATH, found no such")
    run = open_folder(folder)
    responses = run.responses()
    if settings.variants is not None:
        all_known("--variants", settings.variants, list(dict.fromkeys(one.variant for one in responses)))
        responses = [one for one in responses if one.variant in settings.variants]
    samples = {one.id: one for one in read_samples(run, responses, settings.data)}
    twins = [(one, samples[one.twin_id]) for one in samples.values() if one.harmful and one.twin_id in samples]
    if not twins:
        raise DataError(f"{run.folder}: expected harmful items and their benign twins (twin_id), found no such pair")
    with bars() as progress:
        found = {name: run_async(_measure(run, name, settings, twins, responses, progress)) for name in named}
    shown = sum(bool(harmful.objects) for harmful, _ in twins)
    return [
        _apart_table({name: apart for name, (apart, _) in found.items()}, len(twins)),
        _described_table({name: change for name, (_, change) in found.items()}, len(twins) - shown),
    ]


async def _measure(
    run: Run,
    name: str,
    settings: JudgeSettings,
    twins: Sequence[tuple[Sample, Sample]],
    responses: Sequence[Response],
    progress: Advance,
) -> tuple[Apart, Described]:
    judge = await open_named(run, name, settings)
    assert isinstance(judge, PreconditionJudge)
    images = data_folder(run, settings.data)
    pairs: list[Pair] = []
    unscored: list[tuple[Hashable, bool, bool]] = []

    async def look(twin: tuple[Sample, Sample]) -> None:
        seen = [await _look(judge, JudgeInput(one, "", "stop", images), rules_of=twin[0]) for one in twin]
        pairs.append(Pair(cluster_of(twin[0], samples), *seen))
        progress(f"{name}: pairs", len(pairs), len(twins))

    async def rule(response: Response) -> None:
        case = JudgeInput(known[response.sample_id], response.text, response.finish_reason, images)
        told = dataclasses.replace(case, text=described(case.sample, case.text))
        plain, after = [(await judge.decide(one)).outcome is Outcome.UNSCORED for one in (case, told)]
        unscored.append((cluster_of(case.sample, samples), plain, after))
        progress(f"{name}: answers", len(unscored), len(asked))

    samples = {one.id: one for twin in twins for one in twin}
    known = {harmful.id: harmful for harmful, _ in twins if harmful.objects}
    asked = [one for one in responses if one.sample_id in known and one.finish_reason not in NOT_THE_MODELS]
    await work_through(twins, look, settings.concurrency)
    await work_through(asked, rule, settings.concurrency)
    return tell_apart(pairs), compare_described(unscored)


async def _look(judge: PreconditionJudge, case: JudgeInput, rules_of: Sample) -> Seen | None:
    try:
        return await judge.look(case, rules_of)
    except CannotAnswer:
        return None


def _apart_table(found: Mapping[str, Apart], pairs: int) -> Table:
    cells = [
        [
            name,
            f"{one.pairs:,}",
            _auc_cell(one.raw),
            _auc_cell(one.debiased),
            difference_cell(one.gain),
            rate_cell(one.accuracy),
            count_cell(one.accuracy),
        ]
        for name, one in found.items()
    ]
    records = [
        {
            "judge": name,
            "pairs": one.pairs,
            **_columns("auc_raw", one.raw),
            **_columns("auc_debiased", one.debiased),
            **_columns("gain", one.gain),
            **one.accuracy.model_dump(),
        }
        for name, one in found.items()
    ]
    note = (
        f"{pairs:,} pairs of twins. The rules of the harmful item are asked of its pictures and of its twin's, without "
        "any answer. AUC over the pictures of all pairs, in percent, 50 is chance; debiased: less the score without "
        "images; 95 % intervals by block. Accuracy of verdicts; n: pictures, + unscored"
    )
    headings = ["judge", "pairs", "AUC raw", "AUC debiased", "gain", "accuracy", "n"]
    return Table("twins", "Harmful pictures against their benign twins", headings, cells, records, note, left=1)


def _described_table(found: Mapping[str, Described], nameless: int) -> Table:
    cells = [
        [
            name,
            f"{one.plain.n:,}",
            rate_cell(one.plain),
            rate_cell(one.described),
            difference_cell(one.change),
            one.within,
        ]
        for name, one in found.items()
    ]
    records = [
        {
            "judge": name,
            "n": one.plain.n,
            "plain": one.plain.value,
            "described": one.described.value,
            **_columns("change", one.change),
            "within": one.within,
        }
        for name, one in found.items()
    ]
    note = (
        f"percent of the answers to harmful items; the same answers, as they are and after a description of the "
        f"pictures; change: within {TOLERANCE:g} points is none; open: too few answers to tell"
    )
    note += f"; {nameless:,} items are left out, since it is not known what their images show" if nameless else ""
    headings = ["judge", "answers", "unscored", "if described", "change", f"within {TOLERANCE:g}"]
    return Table("described", "Unscored answers, plain and described", headings, cells, records, note, left=1)


def _auc_cell(interval: Interval) -> str:
    if interval.value is None:
        return "-"
    return f"{interval.value:.1f}" + ("" if interval.low is None else f" ({interval.low:.1f}-{interval.high:.1f})")


def _columns(name: str, interval: Interval) -> dict[str, float | None]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
