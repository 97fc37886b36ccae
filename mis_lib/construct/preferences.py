"""Preference pairs from labelled twins: chosen is the label, rejected is an unsafe answer or a refusal.

Harmful item: chosen is its safety chain of thought. Rejected is the model's own unsafe answer if there is one, else one
composed of what the images show and the help that the benign twin gets for the same question. Benign twin: chosen is
its help, rejected a flat refusal. Without the second half, preference training learns to refuse (paper section 6.7).
"""

from collections.abc import Iterable, Iterator, Mapping

from mis_lib.construct.labels import perception_of, refusal_label
from mis_lib.data.preferences import Preference
from mis_lib.errors import DataError
from mis_lib.schema import Sample
from mis_lib.text.refusals import opens_with_refusal

CONSTRUCTED, OWN = "constructed", "own"


def preferences(
    samples: Iterable[Sample], unsafe_answers: Mapping[str, str] | None = None, *, seed: int = 0
) -> list[Preference]:
    """Pairs for every sample with a label; a harmful item without a twin in ``samples`` needs an unsafe answer.

    Args:
        samples: training items, harmful ones with their benign twins.
        unsafe_answers: sample id -> what a model answered unsafely. If given, harmful items without one are left out: a
            pair whose rejected answer the model would never write teaches little.
        seed: draws the wording of refusals.

    Raises:
        DataError: no pair can be made.
    """
    listed = list(samples)
    known = {sample.id: sample for sample in listed}
    pairs = [pair for sample in listed for pair in _pair(sample, known, unsafe_answers, seed)]
    if not pairs:
        raise DataError(
            "expected harmful items with a safety chain of thought and their twins, found none among "
            f"{len(listed)} samples; construct labels first (mis construct)"
        )
    return pairs


def _pair(
    sample: Sample, known: Mapping[str, Sample], unsafe_answers: Mapping[str, str] | None, seed: int
) -> Iterator[Preference]:
    if not sample.answer:
        return
    if not sample.harmful:
        refused = refusal_label(f"{sample.id}|{seed}").text
        yield Preference(sample=sample, chosen=sample.answer, rejected=refused, provenance={"rejected": CONSTRUCTED})
        return
    if opens_with_refusal(sample.answer):
        raise DataError(
            f"{sample.id}: expected a safety chain of thought as the preferred answer, "
            f"found the refusal {sample.answer[:60]!r}"
        )
    if unsafe_answers is not None:
        if unsafe := unsafe_answers.get(sample.id):
            yield Preference(sample=sample, chosen=sample.answer, rejected=unsafe, provenance={"rejected": OWN})
    elif unsafe := _as_if_harmless(sample, known.get(sample.twin_id or "")):
        yield Preference(sample=sample, chosen=sample.answer, rejected=unsafe, provenance={"rejected": CONSTRUCTED})


def _as_if_harmless(sample: Sample, twin: Sample | None) -> str | None:
    """The twin's help for this item's images: the answer of a model that does not see what the two amount to."""
    if twin is None:
        return None
    seen, seen_by_twin = _perception(sample), _perception(twin)
    return f"{seen}{(twin.answer or '').removeprefix(seen_by_twin)}" if seen and seen_by_twin else None


def _perception(sample: Sample) -> str:
    return perception_of(sample.answer or "", sample.objects or [])
