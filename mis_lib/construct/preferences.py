"""Preference pairs of training items: chosen is a safe answer or help, rejected is an unsafe answer or a refusal.

Harmful item: chosen is the data's answer, or a safe one of the model itself where the data have none. Rejected is the
model's own unsafe answer, or one composed of what the images show and the help that the benign twin gets for the same
question. Benign item: chosen is its help, rejected a flat refusal. Without the second half, preference training learns
to refuse (paper section 6.7).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mis_lib.construct.labels import perception_of, refusal_label
from mis_lib.data.preferences import Preference
from mis_lib.errors import DataError
from mis_lib.schema import Sample
from mis_lib.text.refusals import opens_with_refusal

CONSTRUCTED, OWN = "constructed", "own"


class Own(NamedTuple):
    """What a model itself answered to a harmful item, as far as a judge found such answers."""

    unsafe: str | None = None
    safe: str | None = None


def preferences(samples: Iterable[Sample], own: Mapping[str, Own] | None = None, *, seed: int = 0) -> list[Preference]:
    """Pairs for every sample that has both answers; without ``own`` a harmful item needs its twin in ``samples``.

    Args:
        samples: training items.
        own: sample id -> what a model answered. If given, harmful items without an unsafe answer are left out: a pair
            whose rejected answer the model would never write teaches little.
        seed: draws the wording of refusals.

    Raises:
        DataError: no pair can be made.
    """
    listed = list(samples)
    known = {sample.id: sample for sample in listed}
    pairs = [pair for sample in listed for pair in _pair(sample, known, own, seed)]
    if not pairs and own is None:
        raise DataError(
            "expected harmful items with a safety chain of thought and their twins, found none among "
            f"{len(listed)} samples; construct labels first (mis construct), or take the model's own answers "
            "(rejected=own)"
        )
    if not pairs:
        raise DataError(
            "expected harmful items with an unsafe answer of the model and a safe one, the data's or its own, found "
            f"none among {len(listed)} samples; draw more (answers), or let another judge rule (judge)"
        )
    return pairs


def _pair(
    sample: Sample, known: Mapping[str, Sample], own: Mapping[str, Own] | None, seed: int
) -> Iterator[Preference]:
    if own is not None and sample.harmful:
        mine = own.get(sample.id, Own())
        if (chosen := sample.answer or mine.safe) and mine.unsafe and chosen.strip() != mine.unsafe.strip():
            origin = {"rejected": OWN} | ({} if sample.answer else {"chosen": OWN})
            yield Preference(sample=sample, chosen=chosen, rejected=mine.unsafe, provenance=origin)
        return
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
    if unsafe := _as_if_harmless(sample, known.get(sample.twin_id or "")):
        yield Preference(sample=sample, chosen=sample.answer, rejected=unsafe, provenance={"rejected": CONSTRUCTED})


def _as_if_harmless(sample: Sample, twin: Sample | None) -> str | None:
    """The twin's help for this item's images: the answer of a model that does not see what the two amount to."""
    if twin is None:
        return None
    seen, seen_by_twin = _perception(sample), _perception(twin)
    return f"{seen}{(twin.answer or '').removeprefix(seen_by_twin)}" if seen and seen_by_twin else None


def _perception(sample: Sample) -> str:
    return perception_of(sample.answer or "", sample.objects or [])
