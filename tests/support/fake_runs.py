"""Run folders as ``mis report`` leaves them, written without a model: samples, responses that follow from the item,
verdicts of two judges.
"""

from collections.abc import Sequence
from pathlib import Path

from mis_lib.files import read_records, write_records
from mis_lib.probe.ablation import State, make_probes
from mis_lib.results.runs import PROBES, Run, RunConfig, open_run
from mis_lib.schema import Outcome, Response, Sample, Verdict
from mis_lib.settings import GenerationSettings

VARIANTS = ("mini", "mirage", "refusal")
TEXTS = {
    "mini": "Hold the first over the second and pour slowly.",
    "mirage": (
        "The first image shows a drink and the second image shows a device. That would ruin it. I can't help with that."
    ),
    "refusal": "I'm sorry, but I can't assist with that request.",
}


def outcome_of(sample: Sample, variant: str, number: int) -> Outcome:
    """What a judge says: mini helps always, refusal never, mirage mostly gets it right."""
    if variant == "mini" or (variant == "mirage" and number % 7 == 0):
        return Outcome.UNSAFE if sample.harmful else Outcome.HELPED
    if variant == "refusal" or (variant == "mirage" and number % 5 == 0):
        return Outcome.REFUSED if sample.harmful else Outcome.OVER_REFUSED
    return Outcome.REASONED if sample.harmful else Outcome.HELPED


def fake_run(
    root: Path,
    data: Path,
    name: str = "report",
    *,
    variants: Sequence[str] = VARIANTS,
    repeat: int = 1,
    judges: Sequence[str] = ("rule", "words"),
) -> Run:
    """Write ``root/NAME/v1`` for the test splits of ``data``; with ``repeat`` each item stands in it so many times."""
    items = [sample for split in ("easy", "hard", "real") for sample in read_records(data / f"{split}.jsonl", Sample)]
    samples = [_again(sample, turn) for turn in range(repeat) for sample in items]
    config = RunConfig(
        tag="mini", checkpoint="mini", checkpoint_digest="c", data=str(data), data_digest=f"{name}-{repeat}",
        generation=GenerationSettings(max_new_tokens=64), variants=dict.fromkeys(variants, ""),
    )  # fmt: skip
    run = open_run(root, name, config)
    run.keep_samples(samples)
    answers = [
        Response(
            sample_id=sample.id, variant=variant, text=TEXTS[variant], tokens=12, seconds=0.5, finish_reason="stop"
        )
        for variant in variants
        for sample in samples
    ]
    write_records(run.folder / "responses.jsonl", answers)
    for shift, judge in enumerate(judges):
        verdicts = [
            Verdict(
                sample_id=sample.id, variant=variant, judge=judge, outcome=outcome_of(sample, variant, number + shift)
            )
            for variant in variants
            for number, sample in enumerate(samples)
        ]
        write_records(run.folder / "verdicts" / f"{judge}.jsonl", verdicts)
    return run


def fake_ablation(root: Path, data: Path) -> Run:
    """Write ``root/ablate/v1``: the first hard item with its images and without, answered by all variants."""
    sample = next(one for one in read_records(data / "hard.jsonl", Sample) if one.harmful)
    probes, _ = make_probes([sample], {}, data, (State.DROPPED,), swap=False)
    config = RunConfig(
        tag="mini", checkpoint="mini", checkpoint_digest="c", data=str(data), data_digest="ablated",
        generation=GenerationSettings(max_new_tokens=64), variants=dict.fromkeys(VARIANTS, ""),
    )  # fmt: skip
    run = open_run(root, "ablate", config)
    asked = [(probe, variant) for probe in probes for variant in VARIANTS]
    write_records(run.folder / PROBES, probes)
    answers = [
        Response(sample_id=probe.id, variant=variant, text=TEXTS[variant], tokens=12, seconds=0.5, finish_reason="stop")
        for probe, variant in asked
    ]
    write_records(run.folder / "responses.jsonl", answers)
    verdicts = [
        Verdict(sample_id=probe.id, variant=variant, judge="rule", outcome=outcome_of(probe.truth, variant, 1))
        for probe, variant in asked
    ]
    write_records(run.folder / "verdicts" / "rule.jsonl", verdicts)
    return run


def _again(sample: Sample, turn: int) -> Sample:
    if turn == 0:
        return sample
    return sample.model_copy(update={"id": f"{sample.id}~{turn}", "twin_id": f"{sample.twin_id}~{turn}"})
