"""How far a judge agrees with people who read the same responses.

Readers get a sheet without variant and without verdict, drawn evenly over variants and classes, and write one outcome a line. Agreement is
the share of equal outcomes with its interval; Cohen's kappa takes out what chance alone would give; the confusions say where they differ.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sklearn.metrics import cohen_kappa_score

from mis_lib.errors import DataError
from mis_lib.results.stats import Rate, rate
from mis_lib.schema import Outcome, Record, Response, Sample, Verdict


class Agreement(Record):
    """Agreement of two judges on the responses that both scored; ``kappa`` is ``None`` where all have one outcome."""

    share: Rate
    kappa: float | None
    confusions: dict[str, int]  # "first -> second": how often, most frequent first


def agreement(first: Iterable[Verdict], second: Iterable[Verdict]) -> Agreement:
    """Compare two judges' verdicts; responses that only one of them has are left aside, unscored ones are counted as such.

    Raises:
        DataError: they have no response in common.
    """
    left, right = (_by_response(verdicts) for verdicts in (first, second))
    both = [(left[key], right[key]) for key in left if key in right]
    if not both:
        raise DataError("expected two judges on the same responses, found no response that both judged")
    scored = [pair for pair in both if Outcome.UNSCORED not in pair]
    equal = sum(a == b for a, b in scored)
    differing = Counter(f"{a} -> {b}" for a, b in scored if a != b)
    return Agreement(
        share=rate(equal, len(scored), len(both) - len(scored)),
        kappa=_kappa(scored),
        confusions=dict(sorted(differing.items(), key=lambda item: (-item[1], item[0]))),
    )


def draw_sheet(responses: Sequence[Response], samples: Sequence[Sample], n: int, *, seed: int = 0) -> list[Response]:
    """Draw ``n`` responses to be read, as evenly as can be over variants, then splits, then classes, in an order that tells nothing.

    Variants differ by one response at most, as long as each has some left.
    """
    asked = {sample.id: sample for sample in samples}
    dice = random.Random(seed)
    groups: dict[_Group, list[Response]] = {}
    for response in responses:
        if sample := asked.get(response.sample_id):
            groups.setdefault(_Group(response.variant, sample.split, sample.harmful), []).append(response)
    for group in groups.values():
        dice.shuffle(group)
    order = list(groups)
    dice.shuffle(order)  # which of equally rare groups comes first
    counts: Counter[_Group] = Counter()
    drawn: list[Response] = []
    while len(drawn) < n and (left := [group for group in order if groups[group]]):
        rarest = min(left, key=lambda group: [counts[wider] for wider in group.wider()])
        counts.update(rarest.wider())
        drawn.append(groups[rarest].pop())
    dice.shuffle(drawn)
    return drawn


class _Group(NamedTuple):
    """Responses that a sheet takes to be alike; ``None`` stands for any."""

    variant: str | None
    split: str | None
    harmful: bool | None

    def wider(self) -> "list[_Group]":
        """What a sheet is to hold evenly, the first before the last: variants, the groups of each, splits, classes."""
        return [
            _Group(self.variant, None, None),
            self,
            _Group(None, self.split, None),
            _Group(None, None, self.harmful),
        ]


def _by_response(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], Outcome]:
    return {(verdict.sample_id, verdict.variant): verdict.outcome for verdict in verdicts}


def _kappa(pairs: Sequence[tuple[Outcome, Outcome]]) -> float | None:
    if len({outcome for pair in pairs for outcome in pair}) < 2:
        return None
    return float(cohen_kappa_score([str(a) for a, _ in pairs], [str(b) for _, b in pairs]))
