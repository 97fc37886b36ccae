"""HTML of the answers side by side: parts of the chain-of-thought, cost, verdict.

A part is told apart three ways at once: its name in letters, the style of its bar (solid, dashed, double), and its colour, which comes
from the Okabe-Ito palette. So it can be read in grey, by colour-blind people and on a dark ground.
"""

from html import escape
from itertools import groupby

from mis_lib.judge.rule import RULES
from mis_lib.schema import Outcome, SegmentKind
from workbench.compare.state import Answer, Comparison
from workbench.html import drawn, icon, picture, sentence, truth_chip

PARTS = {
    SegmentKind.PERCEPTION: "what the images show",
    SegmentKind.REASONING: "why the combination is or is not a risk",
    SegmentKind.ANSWER: "what the person is told",
}
VARIANT_NOTES = {
    "mini": "base model, no safety training",
    "mirage": "MIRage: safety chain-of-thought + general data",
    "refusal": "trained to refuse, without reasoning",
    "textual": "safety data as text only, black images",
    "mirage_both": "MIRage on pairs in both orders",
}
FINISH = {
    None: "running",
    "stop": "finished",
    "length": "cut at the token limit",
    "cancelled": "stopped by you",
    "failed": "failed",
    "content_filter": "turned down by the server's filter",
    "unknown": "ended, why is not told",
}
VERDICTS = {  # label, tone
    Outcome.UNSAFE: ("Unsafe: helps with the harm", "bad"),
    Outcome.REASONED: ("Safe: names what it sees and the risk", "good"),
    Outcome.REFUSED: ("Safe, but does not name what it sees", "neutral"),
    Outcome.HALLUCINATED: ("Safe only by failing to see or to answer", "neutral"),
    Outcome.HELPED: ("Helps, as it should", "good"),
    Outcome.WARNED_BUT_HELPED: ("Helps with an unneeded warning", "neutral"),
    Outcome.OVER_REFUSED: ("Over-refusal: the request is harmless", "bad"),
    Outcome.OFF_TOPIC: ("Off topic", "neutral"),
    Outcome.UNSCORED: ("Not scored", "neutral"),
}


def legend() -> str:
    """What the three kinds of parts are, drawn as they are drawn in the answers."""
    items = "".join(
        f'<li class="mis-part mis-{kind}"><b>{kind}</b><span>{meaning}</span></li>' for kind, meaning in PARTS.items()
    )
    return f'<ul class="mis-legend" aria-label="Colours of the answers">{items}</ul>'


def empty_results() -> str:
    """What to do while there is nothing to see."""
    return (
        '<div class="mis-empty mis-empty-results"><b>No answers yet</b><ol>'
        "<li>Pick an example, or add your own images and a question.</li>"
        "<li>Choose two to four variants of the model.</li>"
        "<li>Press <em>Compare</em>: the answers appear here side by side, each coloured by its parts.</li></ol></div>"
    )


def results(comparison: Comparison) -> str:
    """The question as it was put, and one column an answer; its images are ``pictures``."""
    columns = "".join(_column(answer) for answer in comparison.answers)
    busy = "false" if comparison.finished else "true"
    return f'{_recap(comparison)}<div class="mis-columns mis-columns-{len(comparison.answers)}" aria-busy="{busy}">{columns}</div>'


def pictures(comparison: Comparison) -> str:
    """The images of the question. Apart from the answers, since these are sent again with every few tokens, and images are heavy."""
    images = "".join(
        picture(image.thumbnail, f"Image {number}: {image.name}", image.flagged)
        for number, image in enumerate(comparison.prompt.images, 1)
    )
    return f'<div class="mis-recap-images">{images}</div>'


def sent_to(answer: Answer) -> str:
    """Where images and question went for a served column, and as what its model is known there if not by the column's name."""
    if answer.served is None:
        return ""
    alias = "" if answer.served.model == answer.variant else f" as {answer.served.model}"
    return f"sent to {answer.served.host}{alias}"


def _recap(comparison: Comparison) -> str:
    settings, sample = comparison.settings, comparison.sample
    decoding = "greedy" if settings.temperature == 0 else f"temperature {settings.temperature:g}, seed {settings.seed}"
    chip = f"{truth_chip(sample)} " if sample else ""
    return (
        f'<div class="mis-recap"><p class="mis-recap-question">{escape(comparison.question)}</p>'
        f"<small>{chip}{decoding} · at most {settings.max_new_tokens} tokens</small></div>"
    )


def _column(answer: Answer) -> str:
    name, note = escape(answer.variant), VARIANT_NOTES.get(answer.variant, "")
    if answer.served:
        note = escape(sent_to(answer))
    running = " mis-running" if answer.finish_reason is None else ""
    copy = (
        f'<button type="button" class="mis-copy" data-copy="{escape(answer.text)}" aria-label="Copy the answer of {name}" '
        f'title="Copy this answer"{"" if answer.text else " disabled"}>{icon("copy")}<span>Copy</span></button>'
    )
    return (
        f'<article class="mis-column{running}" data-variant="{name}"><header><div><h3>{name}</h3><small>{note}</small></div>{copy}</header>'
        f'{_cost(answer)}{_badge(answer)}<div class="mis-answer">{_parts(answer)}</div></article>'
    )


def _cost(answer: Answer) -> str:
    if answer.failed and not answer.text:
        return f'<p class="mis-cost"><span>{answer.seconds:.1f} s</span><span>{FINISH["failed"]}</span></p>'
    speed = f"{answer.tokens_per_second:.1f} {answer.unit}/s" if answer.tokens else f"- {answer.unit}/s"
    unit = answer.unit.removesuffix("s") if answer.tokens == 1 else answer.unit
    return (
        f'<p class="mis-cost"><span>{answer.tokens} {unit}</span><span>{answer.seconds:.1f} s</span><span>{speed}</span>'
        f"<span>{FINISH.get(answer.finish_reason, escape(str(answer.finish_reason)))}</span></p>"
    )


def _badge(answer: Answer) -> str:
    if answer.finish_reason is None:
        return ""
    if answer.failed:
        label = "Broken off" if answer.text else "No answer"
        return f'<div class="mis-verdict mis-bad" role="alert">{icon("bad")}<b>{label}</b><small>{escape(sentence(answer.told))}</small></div>'
    told = f'<p class="mis-no-verdict">{escape(sentence(answer.told))}</p>' if answer.told else ""
    return told + _verdict(answer)


def _verdict(answer: Answer) -> str:
    if answer.verdict is None:
        return f'<p class="mis-no-verdict">No verdict: {escape(answer.no_verdict)}.</p>'
    label, tone = VERDICTS[answer.verdict.outcome]
    reason = f"<small>{escape(answer.verdict.reason)}</small>" if answer.verdict.reason else ""
    rule = escape(RULES.get(answer.verdict.outcome, ""))
    return (
        f'<div class="mis-verdict mis-{tone}" data-outcome="{answer.verdict.outcome}" title="{rule}">{icon(tone)}'
        f"<b>{label}</b>{reason}</div>"
    )


def _parts(answer: Answer) -> str:
    if answer.failed and not answer.text:
        return ""
    if not answer.text.strip():
        waiting = answer.finish_reason is None
        begun = f"Waiting for {escape(answer.served.host)} …" if answer.served else "Reading the images …"
        return f'<p class="mis-waiting">{begun if waiting else "(no text)"}</p>'
    if not answer.segments:
        return f'<p class="mis-plain">{escape(answer.text)}</p>'
    blocks = [
        (kind, "".join(part.text for part in parts))
        for kind, parts in groupby(answer.segments, key=lambda part: part.kind)
    ]
    return "".join(
        f'<section class="mis-part mis-{kind}"><b>{kind}</b>{drawn(text)}</section>' for kind, text in blocks
    )
