"""HTML of the Compare tab: image strip, example list, and the answers side by side.

A part of an answer is marked in three ways at once: its name in letters, the style of its bar (solid, dashed, double),
and its colour from the Okabe-Ito palette. So it can be read in grey, by colour-blind people and on a dark ground.
"""

import json
from itertools import groupby

from markupsafe import Markup

from mis_lib.annotate.decisions import CAUSES
from mis_lib.files import MAX_IMAGES
from mis_lib.judge.rule import RULES
from mis_lib.results.metrics import RIGHT
from mis_lib.schema import Outcome, Sample, Segment, SegmentKind
from mis_lib.text.thoughts import answer_in
from workbench import labels
from workbench.background import Phase, Status
from workbench.compare.annotating import BENIGN, HARMFUL, Choices, Recorded, Saved
from workbench.compare.comparison import Answer, Comparison
from workbench.examples import Page
from workbench.html import VARIANT_NOTES, macros, progress, render
from workbench.links import Link, Tab
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
TRUTHS = (("harmful", "harmful", "H"), ("benign", "harmless", "L"))  # value, label, key
KEYS = (
    ("1 - 4", "verdict on the marked column, of a harmful request"),
    ("5 - 8", "of a harmless one"),
    ("9", "cannot tell"),
    ("←  →", "mark another column"),
    ("Shift + 1 - 8", "why it fails, several allowed"),
    ("A  B  T  N", "left is better, right is better, tie, neither"),
    ("E", "write the corrected answer"),
    ("H  L", "this request is harmful, harmless (your own images)"),
    ("Enter", "save (in a field: Ctrl + Enter); with nothing to save and a new prompt: compare"),
    ("U", "take the last save back"),
    ("Q", "to the question"),
    ("Esc", "leave a field, close this list"),
    ("?", "this list"),
)
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


def panel(comparison: Comparison, saved: Saved | None = None, *, author: str = "", fixed: bool = False) -> Markup:
    """What can be decided about the answers of a finished comparison; empty where none of them is whole.

    Args:
        comparison: what is shown.
        saved: what was chosen and recorded last.
        author: who decides, where the browser knows no name.
        fixed: the name is the login's.
    """
    if not any(answer.whole for answer in comparison.answers):
        return Markup()
    saved = saved or Saved(Choices())
    sample, choices = comparison.sample, saved.choices
    truth = choices.truth if sample is None else HARMFUL if sample.harmful else BENIGN
    first = saved.recorded[0].event.subject if saved.recorded else None
    link = Link(
        tab=Tab.ANNOTATE,
        run=first.run if first else "",
        item=first.sample.id if first else "",
        response=first.variant if first else "",
    )
    return render(
        "compare/annotating.html",
        comparison=comparison,
        saved=saved,
        labels=labels,
        truth=truth,
        truths=[labels.Choice(one, name, key, one == truth) for one, name, key in TRUTHS],
        preferences=json.dumps(choices.preferences),
        events=json.dumps([one.event.id for one in saved.recorded]) if saved.recorded else "",
        author=author,
        fixed=fixed,
        right=" ".join((*RIGHT, Outcome.UNSCORED)),
        link=link.query(),
        said=_said,
        keys=KEYS,
    )


def _said(one: Recorded) -> str:
    """What was recorded of an answer, and what the rule judge says where that differs."""
    decision = one.event.decision
    parts = [
        labels.OUTCOME_LABELS[decision.outcome] if decision.outcome else "",
        *(CAUSES[cause] for cause in decision.causes),
        "corrected" if decision.corrected else "",
        "compared" if decision.preference else "",
    ]
    if decision.outcome not in (None, Outcome.UNSCORED, one.judged) and one.judged not in (None, Outcome.UNSCORED):
        parts.append(f"the rule judge differs: {labels.OUTCOME_LABELS[one.judged]}")
    return ", ".join(filter(None, parts))


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
