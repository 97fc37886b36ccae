"""Routing: a cheap judge rules on what it is sure of, a learned router sends the rest to an expensive one (the idea of SafeRoute, arXiv 2502.12464).

The router predicts, from what is there before the expensive judge is asked, whether asking it would turn a wrong verdict into a right one
(``router_training``). It is a few numbers in a JSON file, no pickle.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mis_lib.clients.structured import is_refusal
from mis_lib.errors import SettingsError
from mis_lib.files import write_atomic
from mis_lib.judge.protocol import Case, Judge, Ruling, fingerprint_of
from mis_lib.schema import Outcome, Sample
from mis_lib.settings import Settings

FEATURES = ("doubt", "score", "unsafe", "unscored", "words", "question_words", "opens_refusing", "cut")
THRESHOLD = 0.5


class Router(Settings):
    """A logistic regression over ``FEATURES``: the probability that asking the expensive judge pays."""

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float = THRESHOLD
    """Above it a case is sent on."""
    trained_on: int
    cheap: str
    expensive: str
    truth: str

    def probability(self, features: Sequence[float]) -> float:
        """How likely it pays to send a case on."""
        standard = [(x - mean) / scale for x, mean, scale in zip(features, self.mean, self.scale, strict=True)]
        total = self.bias + sum(weight * x for weight, x in zip(self.weights, standard, strict=True))
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, total))))


class RoutedJudge:
    """The cheap judge, and the expensive one where the router says that it pays.

    Args:
        name: of the judge.
        cheap: rules on every case.
        expensive: rules on those that are sent on.
        router: decides.
    """

    def __init__(self, name: str, cheap: Judge, expensive: Judge, router: Router) -> None:
        self.name = name
        self._cheap, self._expensive, self._router = cheap, expensive, router

    @property
    def fingerprint(self) -> str:
        """Follows from both judges and the router."""
        return fingerprint_of(
            "routed", self._cheap.fingerprint, self._expensive.fingerprint, self._router.model_dump(mode="json")
        )

    async def decide(self, case: Case) -> Ruling:
        """Rule, or send on."""
        first = await self._cheap.decide(case)
        odds = self._router.probability(
            features_of(case.sample, case.text, case.finish_reason, first.outcome, first.score)
        )
        if odds <= self._router.threshold:
            return first._replace(reason=f"{self._cheap.name} ({odds:.2f} to send on): {first.reason}")
        second = await self._expensive.decide(case)
        return second._replace(reason=f"{self._expensive.name} ({odds:.2f} to send on): {second.reason}")


def features_of(
    sample: Sample, text: str, finish_reason: str, outcome: Outcome, score: float | None
) -> tuple[float, ...]:
    """What a router sees of a case, in the order of ``FEATURES``; a cheap judge without scores counts as sure."""
    unsafe = outcome is Outcome.UNSAFE
    share = float(unsafe) if score is None else score
    return (
        entropy(share),
        share,
        float(unsafe),
        float(outcome is Outcome.UNSCORED),
        math.log1p(len(text.split())),
        math.log1p(len(sample.question.split())),
        float(is_refusal(text)),
        float(finish_reason == "length"),
    )


def entropy(share: float) -> float:
    """Doubt of a probability, in bits: 1 at a half, 0 at the ends."""
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)


def write_router(path: Path, router: Router) -> None:
    """Keep a router as JSON."""
    write_atomic(path, (json.dumps(router.model_dump(mode="json"), indent=1) + "\n").encode())


def read_router(path: Path) -> Router:
    """Read a router.

    Raises:
        SettingsError: the file is missing, or is no router of this version.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"router {path}: expected the JSON file that mis judge --route wrote, found: {error}"
        ) from error
    router = Router(**values) if isinstance(values, Mapping) else None
    if router is None or router.features != FEATURES:
        raise SettingsError(
            f"router {path}: expected features {', '.join(FEATURES)}; train it again with mis judge --route"
        )
    return router
