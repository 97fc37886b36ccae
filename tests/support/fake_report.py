"""A stand-in for ``mis report`` as a program: the same flags, files and steps, answers out of a table.

python fake_report.py report --variants mini mirage --splits hard --limit 2 --data DIR --name x --runs DIR
"""

import argparse
import os
import sys
import time
from pathlib import Path

from mis_lib.files import append_record, open_append, write_records
from mis_lib.recipes.progress import FILE_VARIABLE, Kept, Silent, bar, finish, report_to
from mis_lib.recipes.samples import read_splits
from mis_lib.results.runs import RESPONSES, RunConfig, open_run
from mis_lib.schema import Response, Verdict
from mis_lib.settings import GenerationSettings
from support.fake_runs import TEXTS, outcome_of

SECONDS = 0.1  # an answer
TESTS = str(Path(__file__).parents[1])  # which no PYTHONPATH has
PROGRAM = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {TESTS!r}); from support.fake_report import main; sys.exit(main())",
)
"""The command that starts it, in place of ``mis``."""


def main() -> int:
    """Answer and judge what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb")
    parser.add_argument("--variants", nargs="+")
    parser.add_argument("--splits", nargs="+")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--name")
    for flag in ("--data", "--runs"):
        parser.add_argument(flag, type=Path)
    asked, _ = parser.parse_known_args()
    report_to(Kept(Silent(), Path(os.environ[FILE_VARIABLE])))
    samples = read_splits(asked.data, asked.splits, asked.limit)
    config = RunConfig(
        tag="mini", checkpoint="mini", checkpoint_digest="c", data=str(asked.data), data_digest="d",
        generation=GenerationSettings(), variants=dict.fromkeys(asked.variants, ""),
    )  # fmt: skip
    run = open_run(asked.runs, asked.name, config)
    run.keep_samples(samples)
    there = {(one.sample_id, one.variant) for one in run.responses()}
    missing = [(one, variant) for variant in asked.variants for one in samples if (one.id, variant) not in there]
    with open_append(run.folder / RESPONSES) as stream, bar("generating") as advance:
        advance("", 0, len(missing))
        for number, (sample, variant) in enumerate(missing, 1):
            time.sleep(SECONDS)
            answer = Response(
                sample_id=sample.id, variant=variant, text=TEXTS[variant], tokens=9, seconds=SECONDS,
                finish_reason="stop",
            )  # fmt: skip
            append_record(stream, answer)
            advance(variant, number, len(missing))
    verdicts = [
        Verdict(sample_id=one.id, variant=variant, judge="rule", outcome=outcome_of(one, variant, 1))
        for variant in asked.variants
        for one in samples
    ]
    write_records(run.folder / "verdicts" / "rule.jsonl", verdicts)
    finish()
    return 0
