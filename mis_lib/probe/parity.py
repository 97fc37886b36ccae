"""Parity: do all forms of a tuned model read and say the same? Views of one question are compared step by step, in the order of the pipeline.

The first form is the reference: the adapter as it was trained, unmerged. Checks run from cause to effect (the adapter's tensors, image grids,
pixels, rendered token ids, first-token logits, greedy text), so that the first one that differs names the cause. What a form cannot
tell (a server shows no pixels) is "not told", which is neither the same nor a difference.

Logits are compared within a tolerance for each number type, as a share of the reference's largest logit; merging rounds every weight once, which
float32 hardly shows and bfloat16 does. Where a text parts at a step whose two tokens lie within that tolerance in the reference, it is a tie
that rounding decides, and is said to be one.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from mis_lib.errors import SettingsError
from mis_lib.schema import Record

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference of two logits that rounding explains, as a share of the largest logit, by number type."""
TOP = 20  # first tokens whose log-probabilities a server is asked for, the most the API allows
SERVED_TOLERANCE = 10.0  # times the tolerance: log-probabilities are differences of two logits, and servers round them


class Check(StrEnum):
    """What is compared, from cause to effect."""

    TENSORS = "adapter tensors"
    GRIDS = "image grids"
    PIXELS = "pixel hashes"
    TOKENS = "prompt tokens"
    LOGITS = "first-token logits"
    TEXT = "greedy text"


class Status(StrEnum):
    """Outcome of one check."""

    SAME = "same"
    TIE = "tie"
    DIFFERS = "differs"
    NOT_TOLD = "not told"


class Finding(Record):
    """One check of one form on one question (empty for the adapter's tensors, which no question is needed for)."""

    variant: str
    form: str
    question: str
    check: Check
    status: Status
    detail: str = ""
    count: str = ""
    """Tensors applied / all of them."""


class View(NamedTuple):
    """What one form was given for a question and what it answered; ``None``: it does not tell."""

    form: str
    text: str | None = None
    answer: list[int] | None = None
    """Generated token ids, the end token included."""
    tokens: list[int] | None = None
    """The rendered prompt, image tokens spelled out."""
    prompt_length: int | None = None
    """Number of prompt tokens, for a form that tells only that."""
    grids: Mapping[str, Any] | None = None
    """Shapes of the image tensors, and the values of small integer ones (Qwen-VL's ``image_grid_thw``), by name."""
    pixels: Mapping[str, str] | None = None
    """SHA-256 of every image tensor as the processor made it, by name."""
    logits: np.ndarray | None = None
    """(steps, vocabulary): of every generated token."""
    failure: str = ""
    """What it raised instead of answering."""
    top: Mapping[str, float] | None = None
    """Log-probabilities of the likeliest first tokens by their text, from a server."""


class Reading(NamedTuple):
    """How token ids are shown: as pieces of text."""

    tokenizer: Any

    def piece(self, token: int) -> str:
        """One token as text."""
        return repr(self.tokenizer.decode([token]))

    def around(self, tokens: Sequence[int], at: int) -> str:
        """The tokens about a place, as text."""
        return repr(self.tokenizer.decode(list(tokens[max(0, at - 4) : at + 8])))


def compare(
    reference: View, other: View, *, variant: str, question: str, dtype: str, reading: Reading
) -> list[Finding]:
    """All checks of ``other`` against ``reference`` on one question, in order.

    Raises:
        SettingsError: no tolerance is known for ``dtype``.
    """
    if dtype not in TOLERANCE:
        raise SettingsError(f"--dtype: no tolerance is known for {dtype!r}; known: {', '.join(TOLERANCE)}")
    found = {
        Check.GRIDS: _mapping(reference.grids, other.grids),
        Check.PIXELS: _mapping(reference.pixels, other.pixels),
        Check.TOKENS: _tokens(reference, other, reading),
        Check.LOGITS: _logits(reference, other, dtype, reading),
        Check.TEXT: _text(reference, other, dtype, reading),
    }
    return [
        Finding(variant=variant, form=other.form, question=question, check=check, status=status, detail=detail)
        for check, (status, detail) in found.items()
    ]


def first_difference(findings: Iterable[Finding]) -> Finding | None:
    """The difference nearest to its cause: the earliest check that fails, in the order the forms were looked at."""
    differing = [finding for finding in findings if finding.status is Status.DIFFERS]
    return min(differing, key=lambda finding: list(Check).index(finding.check), default=None)


def _mapping(expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> tuple[Status, str]:
    if expected is None or found is None:
        return Status.NOT_TOLD, "this form does not show its images"
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            return Status.DIFFERS, f"{name}: expected {_brief(expected.get(name))}, found {_brief(found.get(name))}"
    return Status.SAME, ", ".join(f"{name} {_brief(value)}" for name, value in expected.items())


def _brief(value: Any) -> str:
    if value is None:
        return "none"
    return value[:12] if isinstance(value, str) else str(value)


def _tokens(reference: View, other: View, reading: Reading) -> tuple[Status, str]:
    expected, found = reference.tokens, other.tokens
    if expected is None or (found is None and other.prompt_length is None):
        return Status.NOT_TOLD, "this form does not tell its prompt"
    if found is None:
        if other.prompt_length == len(expected):
            return Status.SAME, f"{len(expected)} tokens (their number; the ids are not told)"
        return Status.DIFFERS, f"expected a prompt of {len(expected)} tokens, found one of {other.prompt_length}"
    at = _parting(expected, found)
    if at is None:
        return Status.SAME, f"{len(expected)} tokens"
    return Status.DIFFERS, (
        f"at token {at} of {len(expected)}: expected {reading.around(expected, at)}, found {reading.around(found, at)}"
        f" ({len(found)} tokens)"
    )


def _logits(reference: View, other: View, dtype: str, reading: Reading) -> tuple[Status, str]:
    if reference.logits is None or (other.logits is None and other.top is None):
        return Status.NOT_TOLD, "this form shows no logits"
    expected = reference.logits[0]
    allowed = TOLERANCE[dtype] * float(np.abs(expected).max())
    if other.logits is None:
        return _served_logits(expected, other.top or {}, SERVED_TOLERANCE * allowed, reading)
    found = other.logits[0]
    if found.shape != expected.shape:
        return Status.DIFFERS, f"expected {expected.shape[0]} logits, found {found.shape[0]}"
    gap = float(np.abs(found - expected).max())
    worst = int(np.abs(found - expected).argmax())
    text = f"largest difference {gap:.2g}, allowed {allowed:.2g} ({dtype})"
    if not gap <= allowed:  # also where it is NaN
        text += f", at {reading.piece(worst)}: expected {expected[worst]:.4f}, found {found[worst]:.4f}"
        return Status.DIFFERS, text
    return Status.SAME, text


def _served_logits(
    expected: np.ndarray, top: Mapping[str, float], allowed: float, reading: Reading
) -> tuple[Status, str]:
    """A server's likeliest tokens against the reference's log-probabilities of the same texts."""
    logs = expected - np.logaddexp.reduce(expected)
    best = np.argsort(logs)[::-1][: 5 * TOP]
    ours = {reading.tokenizer.decode([int(token)]): float(logs[token]) for token in best[::-1]}
    shared = {text: abs(ours[text] - value) for text, value in top.items() if text in ours}
    if not shared:
        return (
            Status.DIFFERS,
            f"none of the server's likeliest tokens ({', '.join(map(repr, list(top)[:3]))}) is likely here",
        )
    worst = max(shared, key=lambda text: shared[text])
    text = f"log-probabilities of {len(shared)} tokens: largest difference {shared[worst]:.2g}, allowed {allowed:.2g}"
    if not shared[worst] <= allowed:
        return Status.DIFFERS, f"{text}, at {worst!r}: expected {ours[worst]:.4f}, found {top[worst]:.4f}"
    return Status.SAME, text


def _text(reference: View, other: View, dtype: str, reading: Reading) -> tuple[Status, str]:
    if other.failure:
        return Status.DIFFERS, f"expected an answer, found {other.failure}"
    if reference.text is None or other.text is None:
        return Status.NOT_TOLD, "this form does not answer"
    if reference.text == other.text:
        return Status.SAME, f"{len(reference.text)} characters"
    expected = reference.answer or []
    found = other.answer if other.answer is not None else _as_tokens(other.text, reading)
    at = _parting(expected, found)
    if at is None or reference.logits is None or max(at, 0) >= min(len(expected), len(found), len(reference.logits)):
        place = _parting(reference.text, other.text) or 0
        return Status.DIFFERS, (
            f"at character {place}: expected {reference.text[place : place + 40]!r}, found {other.text[place : place + 40]!r}"
        )
    step = reference.logits[at]
    margin = float(step[expected[at]] - step[found[at]])
    allowed = 2 * TOLERANCE[dtype] * float(np.abs(step).max())  # both logits may be off
    words = (
        f"at generated token {at}: expected {reading.around(expected, at)}, found {reading.around(found, at)}; "
        f"the two tokens lie {margin:.3g} apart, rounding explains {allowed:.2g}"
    )
    return (Status.TIE if margin <= allowed else Status.DIFFERS), words


def _as_tokens(text: str, reading: Reading) -> list[int]:
    return list(reading.tokenizer(text, add_special_tokens=False)["input_ids"])


def _parting(expected: Sequence[Any], found: Sequence[Any]) -> int | None:
    """Where two sequences part: the first place that differs, or the end of the shorter one."""
    for at, (one, two) in enumerate(zip(expected, found, strict=False)):
        if one != two:
            return at
    return None if len(expected) == len(found) else min(len(expected), len(found))
