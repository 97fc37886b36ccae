"""Runs to annotate, for tests: a run folder over the small data set of ``fakes``, with scripted answers and the rule
judge's verdicts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mis_lib.files import append_record, open_append, read_records
from mis_lib.judge.rule import RuleJudge
from mis_lib.results.runs import RESPONSES, Run, RunConfig, open_run
from mis_lib.results.scoring import score_run
from mis_lib.schema import Outcome, Response, Sample, Verdict
from mis_lib.settings import GenerationSettings
from support.fakes import ANSWERS

VARIANTS = ("mini", "mirage")


def samples_of(data: Path) -> list[Sample]:
    """All samples of a data folder as ``fakes.mini_data`` wrote it."""
    return [sample for split in ("hard", "easy", "real") for sample in read_records(data / f"{split}.jsonl", Sample)]


def answered_run(
    root: Path,
    data: Path,
    *,
    name: str = "report",
    variants: Sequence[str] = VARIANTS,
    answers: Mapping[str, str] = ANSWERS,
    samples: Sequence[Sample] | None = None,
) -> Run:
    """Write a run in which every variant gives its one answer to every sample."""
    asked = list(samples if samples is not None else samples_of(data))
    config = RunConfig(
        tag="mini", checkpoint="m", checkpoint_digest="c", data=str(data), data_digest="d",
        generation=GenerationSettings(), variants=dict.fromkeys(variants, ""),
    )  # fmt: skip
    run = open_run(root, name, config)
    run.keep_samples(asked)
    with open_append(run.folder / RESPONSES) as stream:
        for variant in variants:
            for sample in asked:
                append_record(stream, respond(sample.id, variant, answers[variant]))
    score_run(run, [RuleJudge()], asked)
    return run


def respond(sample_id: str, variant: str, text: str) -> Response:
    """A finished response."""
    return Response(sample_id=sample_id, variant=variant, text=text, tokens=9, seconds=1.0, finish_reason="stop")


def second_judge(run: Run, outcomes: Mapping[tuple[str, str], Outcome]) -> None:
    """Add verdicts of a judge called ``other``."""

    verdicts = [
        Verdict(
            sample_id=one.sample_id,
            variant=one.variant,
            judge="other",
            outcome=outcomes.get((one.sample_id, one.variant), Outcome.UNSCORED),
            reason="as told",
        )
        for one in run.responses()
    ]
    run.add_verdicts("other", "1", verdicts)
