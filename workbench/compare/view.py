"""HTML of the Compare tab: image strip, example list, and the answers side by side.

A part of an answer is marked in three ways at once: its name in letters, the style of its bar (solid, dashed, double),
and its colour from the Okabe-Ito palette. So it can be read in grey, by colour-blind people and on a dark ground.
"""

from itertools import groupby

from markupsafe import Markup

from mis_lib.files import MAX_IMAGES
from mis_lib.judge.rule import RULES
from mis_lib.schema import Sample, Segment, SegmentKind
from mis_lib.text.thoughts import answer_in
from workbench.background import Phase, Status
from workbench.compare.comparison import Answer, Comparison
from workbench.examples import Page
from workbench.html import VARIANT_NOTES, macros, progress, render
from workbench.prompt import Prompt

PARTS = {
    SegmentKind.PERCEPTION: "what the images show",
    SegmentKind.REASONING: "why the combination is or is not a risk",
    SegmentKind.ANSWER: "what the person is told",
}
FINISH = {
    None: "running",
    "stop": "finished",
    "length": "cut at the token limit",
    "cancelled": "stopped by you",
    "failed": "failed",
    "content_filter": "turned down by the server's filter",
    "unguarded": "withheld: the guard could not rule",
    "unknown": "ended, why is not told",
}
MORE = 24  # examples that "Show more" adds


def strip(prompt: Prompt, sample: Sample | None = None, twin: Sample | None = None) -> Markup:
    """The numbered image strip with its buttons, under a line that says where the images come from."""
    return render("compare/strip.html", prompt=prompt, sample=sample, twin=twin, most=MAX_IMAGES)


def examples(page: Page, status: Status, *, chosen: str | None = None) -> Markup:
    """The list of examples, or why there is none yet."""
    failed, ready = status.phase is Phase.FAILED, status.phase is Phase.READY
    text = status.message if failed else progress(status)
    return render("compare/examples.html", page=page, failed=failed, ready=ready, text=text, chosen=chosen, step=MORE)


def legend() -> Markup:
    """What the three kinds of parts are, drawn as they are drawn in the answers."""
    return macros("compare/parts.html").legend(PARTS)


def results(comparison: Comparison | None) -> Markup:
    """The question as it was put, and one column for each answer; without a comparison, what to do first."""
    return render("compare/answers.html", comparison=comparison, cost=_cost, note=_note, parts=_parts, rules=RULES)


def pictures(comparison: Comparison) -> Markup:
    """The images of the question. They are apart from the answers, which are sent again with every few tokens."""
    return macros("compare/parts.html").pictures(comparison.prompt.images)


def _note(answer: Answer) -> str:
    """What a variant is; of a served one, where images and question went, and the model's name there if it differs."""
    if answer.served is None:
        return VARIANT_NOTES.get(answer.variant, "")
    alias = "" if answer.served.model == answer.variant else f" as {answer.served.model}"
    return f"sent to {answer.served.host}{alias}"


def _cost(answer: Answer) -> list[str]:
    """Length, time, speed and end of an answer."""
    seconds = f"{answer.seconds:.1f} s"
    if answer.failed and not answer.text:
        return [seconds, FINISH["failed"]]
    unit = answer.unit.removesuffix("s") if answer.tokens == 1 else answer.unit
    speed = f"{answer.tokens_per_second:.1f}" if answer.tokens else "-"
    finish = FINISH.get(answer.finish_reason, str(answer.finish_reason))
    if answer.finish_reason == "length" and answer_in(answer.text) is None:
        finish = "cut within its thought, at the token limit"
    return [f"{answer.tokens} {unit}", seconds, f"{speed} {answer.unit}/s", finish]


def _parts(segments: tuple[Segment, ...]) -> list[tuple[SegmentKind, str]]:
    """Neighbouring segments of one kind as one text."""
    return [
        (kind, "".join(part.text for part in parts)) for kind, parts in groupby(segments, key=lambda part: part.kind)
    ]
