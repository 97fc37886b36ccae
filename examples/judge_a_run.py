"""Judge a run and print its rates: safety never without over-refusal.

    python examples/judge_a_run.py runs/report/v1

A run folder holds ``responses.jsonl``. Two judges rule on every response: the rule judge, which knows the truth of
MIS-Mini's items, and the keyword baseline ``words``. Their difference shows how far a number moves when only the judge
changes. ``mis judge`` does the same with model judges.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mis_lib.judge.rule import RuleJudge, WordsJudge
from mis_lib.results.evaluated import data_folder, open_folder, read_samples
from mis_lib.results.metrics import METRICS, rates
from mis_lib.results.scoring import score_run
from mis_lib.results.stats import Rate

SHOWN = ("asr", "over_refusal", "pair")


def judge(folder: Path, data: Path | None = None) -> dict[tuple[str, str], dict[str, Rate]]:
    """Judge all responses of a run; returns all rates by variant and judge.

    Args:
        folder: of the run.
        data: folder of its data; None for the one that the run names.
    """
    # 1. The run: what was asked, and what each variant (base or adapter) answered.
    run = open_folder(folder)
    responses = run.responses()
    samples = read_samples(run, responses, data)
    print(f"{run.folder}: {len(responses)} responses to {len(samples)} samples")

    # 2. Judges. Verdicts are stored in verdicts/JUDGE.jsonl; what is judged already is not judged again.
    verdicts = score_run(run, [RuleJudge(), WordsJudge()], samples, data_folder(run, data))

    # 3. Rates. Each has its number of items and a Wilson 95 % interval; unscored items are counted apart.
    found: dict[tuple[str, str], dict[str, Rate]] = {}
    for name, ruled in verdicts.items():
        for variant in sorted({verdict.variant for verdict in ruled}):
            measured = rates([verdict for verdict in ruled if verdict.variant == variant], samples)
            found[variant, name] = measured
            words = (f"{METRICS[key].label} {measured[key]} % of {measured[key].n}" for key in SHOWN)
            print(f"{variant}, judge {name}: {'; '.join(words)}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and judge."""
    parser = argparse.ArgumentParser(description="Judge a run by two judges and print its rates.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args(arguments)
    judge(given.run, given.data)


if __name__ == "__main__":
    main()
