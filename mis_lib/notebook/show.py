"""What a notebook shows between its cells: versions, findings, pictures of items, tokens, curves, closing numbers.

Cells of notebooks call these and define nothing. ``begin()`` also sets how figures look in this kernel: one template,
no cloud button, drawn by JupyterLab itself from data (no script is loaded from anywhere). A finding is a sentence with
numbers put in by the cell that computed them, so that no text can disagree with its data.

Pictures of harmful items are hidden until a click, however the page is shown. A hidden picture is the content of a
closed ``<details>`` whose summary is a 6 x 6 pixel average of it, enlarged. No style or script is needed to hide it, so
a viewer that strips both hides it all the same. Nothing is loaded from elsewhere: pictures are part of the page.

    curves = Curves("Loss")
    train(settings, on_line=curves)         # in a notebook the figure is drawn once and then updated
"""

import base64
import html
import importlib.metadata
import io
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from IPython.display import HTML, DisplayHandle, Markdown, display
from pandas.io.formats.style import Styler
from PIL import Image

from mis_lib import __version__
from mis_lib.files import load_image
from mis_lib.results.figures.rates import constraint_curves, training_curves
from mis_lib.results.figures.style import CONFIG, INK_RULE, TEMPLATE
from mis_lib.results.train_runs import constraint, evaluations, losses
from mis_lib.schema import Response, Sample, Segment, SegmentKind, Verdict
from mis_lib.text.segments import segment
from mis_lib.text.thoughts import written
from mis_lib.train.batches import Batch
from mis_lib.train.encode import IGNORED, SEGMENTS, EncodedRow

RENDERER = "plotly_mimetype"
LOOK = "mis"
SKIPPED = "mis-skipped"
"""Class of the box that says what was left out: tests and readers look for it."""
Hide = Literal["harmful", "all"]
SIDE = 150
CARD = 350  # with the gap, in pixels
VEIL = 6  # pixels a side that are left of a hidden picture
HIDDEN, PICTURE = "mis-hidden", "mis-picture"
SEGMENT_COLOURS = {
    SegmentKind.PERCEPTION: "rgba(0, 114, 178, .22)",
    SegmentKind.REASONING: "rgba(230, 159, 0, .25)",
    SegmentKind.ANSWER: "rgba(0, 158, 115, .22)",
}
IMAGE_COLOUR = "rgba(140, 107, 177, .35)"
TRAINED = "border-bottom: 2px solid #d55e00"
EVERY = 2.0  # seconds between updates of the figure
_STYLE = f"""<style>
.mis-cards {{ display: flex; flex-wrap: wrap; gap: 1.2em }} .mis-card {{ max-width: 330px }}
.mis-pictures {{ display: flex; gap: .4em; flex-wrap: wrap }} .mis-pictures img {{ border-radius: 6px }}
.{HIDDEN} summary {{ cursor: pointer; list-style: none; font-size: .75em; text-align: center }}
.{HIDDEN} img, .{HIDDEN} span {{ display: block }} .{HIDDEN}[open] summary img {{ display: none }}
.mis-card p {{ margin: .3em 0; line-height: 1.35; white-space: pre-wrap; overflow-wrap: anywhere }}
.mis-meta {{ opacity: .75; font-size: .88em }}
</style>"""


def begin(*packages: str) -> None:
    """Set up figures and tables of this kernel, and show what the notebook runs on; the ink of figures comes with it.

    Args:
        packages: distributions whose versions matter for what follows.
    """
    renderer = pio.renderers[RENDERER]
    renderer.config = dict(CONFIG)
    pio.renderers.default = RENDERER
    pio.templates[LOOK] = TEMPLATE
    pio.templates.default = LOOK
    pd.set_option("display.max_colwidth", None, "display.precision", 1)
    versions = {"mis": __version__, "Python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in packages}
    text = f"{', '.join(f'{name} {number}' for name, number in versions.items())}; {os.cpu_count()} cores"
    display(HTML(f"<style>{INK_RULE}</style><p>{html.escape(text)}</p>"))


def finding(text: str) -> None:
    """Show what has been found, in Markdown; the numbers and names in it come from the cell's data."""
    display(prose(f"**Finding.** {text}"))


def conclusions(*lines: str) -> None:
    """Show the closing list, "What we now know"."""
    display(prose("\n".join(f"- {line}" for line in lines)))


def prose(text: str) -> Markdown:
    """Markdown in which HTML is shown as text: it may come from a data set."""
    return Markdown(text.replace("<", "&lt;"))


def skipped(what: str, *, why: str, then: str) -> None:
    """Say in a box that something was not done, why, and how to do it: no part is left out silently."""
    parts = (f"<b>Not run: {html.escape(what)}.</b>", html.escape(why), html.escape(then))
    style = "border: 2px dashed #e69f00; border-radius: 6px; padding: .6em 1em"
    display(HTML(f'<div class="{SKIPPED}" style="{style}">{"<br>".join(parts)}</div>'))


def rate_text(rate: Any) -> str:
    """A rate as sentences say it: "8.3 % (2.9-21.8, n = 36)", with what could not be scored.

    Args:
        rate: of ``stats``, or a row of a frame with value, low, high, n and, where it is counted, n_unscored.
    """
    missing = getattr(rate, "n_unscored", 0) or 0
    if rate.n == 0:
        return f"unknown (n = 0, {missing:.0f} unscored)"
    unscored = f", {missing:.0f} unscored" if missing else ""
    return f"{rate.value:.1f} % ({rate.low:.1f}-{rate.high:.1f}, n = {rate.n:.0f}{unscored})"


def points(difference: Any) -> str:
    """A paired difference as sentences say it: "-16.7 points (-50.0 to +0.0)"; no interval where nothing varied.

    Args:
        difference: row of ``frames.differences`` with difference, low, high.
    """
    said = f"{difference.difference:+.1f} points"
    return said if pd.isna(difference.low) else f"{said} ({difference.low:+.1f} to {difference.high:+.1f})"


def counted(n: int, noun: str) -> str:
    """A number with its noun: "1 training row", "1,040 training rows"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def facts(values: Mapping[str, object]) -> Styler:
    """A few named facts as a table of one column: long texts in full, each number in its own form."""
    # one number format for all makes 559 images 5.6e+02
    return left(pd.DataFrame({"": [_said(value) for value in values.values()]}, index=pd.Index(list(values))))


def left(frame: pd.DataFrame) -> Styler:
    """A table whose texts begin at the left, to be read as prose; numbers stay at the right.

    Nothing in it is markup.
    """
    words = frame.select_dtypes(exclude="number").columns
    shown = frame.style.format(escape="html", precision=pd.get_option("display.precision"))
    shown = shown.format_index(escape="html").format_index(escape="html", axis=1)
    shown = shown.set_table_styles({name: [{"selector": "", "props": "text-align: left"}] for name in words})
    return shown.set_table_styles(
        [{"selector": "th.row_heading, th.index_name", "props": "text-align: left"}], overwrite=False
    )


def lowered(text: str) -> Markdown:
    """A document in Markdown as a part of the notebook: its headings two levels below their own."""
    return Markdown(re.sub(r"^(?=#+ )", "##", text, flags=re.MULTILINE))


def texts(rows: Iterable[tuple[str, str]]) -> HTML:
    """Named texts under one another, line breaks kept and nothing cut: prompts, questions and answers as they are."""
    name_style = "font-weight: 600; margin-top: .6em; float: none; width: auto; text-align: left"
    text_style = "margin-left: 1em; float: none; width: auto; white-space: pre-wrap; max-width: 70em"
    cells = "".join(
        f'<dt style="{name_style}">{html.escape(name)}</dt><dd style="{text_style}">{html.escape(text)}</dd>'
        for name, text in rows
    )
    return HTML(f"<dl>{cells}</dl>")


def gallery(
    samples: Iterable[Sample],
    folder: Path,
    *,
    hide: Hide = "harmful",
    notes: Mapping[str, str] | None = None,
    answers: bool = False,
    columns: int = 3,
) -> HTML:
    """Samples as cards: their pictures in order, the question, category and split.

    Args:
        samples: what is shown.
        folder: to which their image paths are relative.
        hide: whose pictures wait for a click.
        notes: a line more for a sample, by its id.
        answers: show the target answer too, its segments in colours.
        columns: cards in a row; 2 puts twins next to each other.

    Raises:
        ImageError: a picture is missing or damaged.
    """
    cards = [_card(sample, folder, hide, (notes or {}).get(sample.id, ""), answers) for sample in samples]
    return HTML(f'{_STYLE}<div class="mis-cards" style="max-width: {columns * CARD}px">{"".join(cards)}</div>')


def answered(
    samples: Iterable[Sample],
    folder: Path,
    responses: Sequence[Response],
    *,
    verdicts: Sequence[Verdict] = (),
    hide: Hide = "harmful",
    columns: int = 2,
) -> HTML:
    """Responses under the pictures and question they answer, segments in colours; verdicts are hidden until a click.

    Args:
        samples: what was asked, in any order.
        folder: to which their image paths are relative.
        responses: what is shown, in this order.
        verdicts: of any judges on any of them.
        hide: whose pictures wait for a click.
        columns: cards in a row.

    Raises:
        ImageError: a picture is missing or damaged.
    """
    asked = {sample.id: sample for sample in samples}
    cards = []
    for response in responses:
        said = [v for v in verdicts if (v.sample_id, v.variant) == (response.sample_id, response.variant)]
        words = written(response.thought, response.text, response.finish_reason)
        text = f"<p><b>{html.escape(response.variant)}</b>: {marked(words, segment(words))}</p>"
        card = _card(asked[response.sample_id], folder, hide, "", False).removesuffix("</div>")
        cards.append(f"{card}{text}{_ruling(said)}</div>")
    return HTML(f'{_STYLE}<div class="mis-cards" style="max-width: {columns * CARD}px">{"".join(cards)}</div>')


def pictures(
    images: Sequence[Image.Image | Path], captions: Sequence[str], *, hidden: bool = False, side: int = SIDE
) -> HTML:
    """Pictures in a row with a line under each.

    Raises:
        ImageError: a file is missing or damaged.
    """
    figures = [
        f'<figure style="margin: 0">{_picture(image, caption, hidden=hidden, side=side)}'
        f'<figcaption class="mis-meta" style="max-width: {side}px">{html.escape(caption)}</figcaption></figure>'
        for image, caption in zip(images, captions, strict=True)
    ]
    return HTML(f'{_STYLE}<div class="mis-pictures">{"".join(figures)}</div>')


def marked(text: str, segments: Iterable[Segment]) -> str:
    """A response as HTML with its perception, reasoning and answer in colours."""
    spans = [
        f'<span title="{part.kind.value}" style="background: {SEGMENT_COLOURS[part.kind]}">'
        f"{html.escape(text[part.start : part.end])}</span>"
        for part in segments
    ]
    return "".join(spans) or html.escape(text)


def legend() -> HTML:
    """What the colours of ``marked`` mean."""
    parts = [f'<span style="background: {colour}">{kind.value}</span>' for kind, colour in SEGMENT_COLOURS.items()]
    return HTML(f"<p>{' &nbsp; '.join(parts)}</p>")


def segments_of(sample: Sample) -> list[Segment]:
    """The segments that construction wrote with a target answer; none where a data set has no such field."""
    listed = (sample.model_extra or {}).get("segments") or []
    answer = sample.answer or ""
    return [Segment(text=answer[part["start"] : part["end"]], **part) for part in listed]


def row_tokens(row: EncodedRow, tokenizer: Any, image_token: str) -> pd.DataFrame:
    """A training row token by token: what the model reads, where images are, and at which tokens the loss is taken.

    One line a stretch of tokens: text, kind (prompt, image, perception, reasoning, answer), trained, tokens.

    Args:
        row: encoded sample, T tokens.
        tokenizer: of the model.
        image_token: the placeholder of one feature of an image.
    """
    image = tokenizer.convert_tokens_to_ids(image_token)
    stretches: list[dict[str, Any]] = []
    for token, label, part in zip(row.ids.tolist(), row.labels.tolist(), row.segments.tolist(), strict=True):
        kind = "image" if token == image else SEGMENTS[part].value if part < len(SEGMENTS) else "prompt"
        key = (kind, label != IGNORED)
        if not stretches or (stretches[-1]["kind"], stretches[-1]["trained"]) != key:
            stretches.append({"kind": kind, "trained": label != IGNORED, "ids": []})
        stretches[-1]["ids"].append(token)
    return pd.DataFrame(
        {
            "kind": part["kind"],
            "trained": part["trained"],
            "tokens": len(part["ids"]),
            "text": image_token if part["kind"] == "image" else tokenizer.decode(part["ids"]),
        }
        for part in stretches
    )


def token_html(stretches: pd.DataFrame) -> HTML:
    """The stretches of ``row_tokens`` in colours; what is underlined is what the loss is taken at."""
    colours = {kind.value: colour for kind, colour in SEGMENT_COLOURS.items()} | {"image": IMAGE_COLOUR}
    spans = []
    for part in stretches.itertuples():
        style = (
            f"background: {colours.get(str(part.kind), 'rgba(128, 128, 128, .12)')}; {TRAINED if part.trained else ''}"
        )
        text = f"{part.text} x {part.tokens}" if part.kind == "image" else str(part.text)
        spans.append(f'<span title="{part.kind}, {part.tokens} tokens" style="{style}">{html.escape(text)}</span>')
    return HTML(f'<div style="white-space: pre-wrap; line-height: 1.7; max-width: 75em">{"".join(spans)}</div>')


def batch_facts(batch: Batch) -> pd.DataFrame:
    """What one pass of a run reads, in numbers."""
    facts = {
        "rows": len(batch.rows),
        "layout": "packed, one after the other" if batch.packed else "padded to the longest",
        "tokens of the rows": batch.tokens,
        "tokens computed": batch.padded_tokens,
        "of them padding": batch.padded_tokens - batch.tokens,
        "tokens that the loss is taken at": batch.answer_tokens,
        "share of them (%)": round(100 * batch.answer_tokens / batch.padded_tokens, 1),
    }
    return pd.DataFrame({"": facts.values()}, index=pd.Index(list(facts)))


class Curves:
    """Listens to a run and keeps a figure of it up to date."""

    def __init__(self, title: str) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self.title, self._handle, self._drawn = title, DisplayHandle(), 0.0

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Take one line of the log."""
        self.lines.append(line)
        if time.monotonic() - self._drawn >= EVERY:
            self.draw()

    def draw(self) -> None:
        """Draw the figure, or replace the one drawn before."""
        # as data: a figure object shows itself, and would be added below instead of drawn in its place
        bundle = pio.renderers[RENDERER].to_mimebundle(self.figure.to_dict())
        (self._handle.update if self._drawn else self._handle.display)(bundle, raw=True)
        self._drawn = time.monotonic()

    @property
    def figure(self) -> go.Figure:
        """The curves so far."""
        measures = constraint(self.lines)
        figure = (
            training_curves(losses(self.lines), evaluations(self.lines))
            if measures.empty
            else constraint_curves(measures)
        )
        return figure.update_layout(title=self.title, margin_t=76)


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(_said, value)) or "none"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _card(sample: Sample, folder: Path, hide: Hide, note: str, answers: bool) -> str:
    hidden = sample.harmful or hide == "all"
    names = sample.objects or [f"image {place}" for place in range(1, len(sample.images) + 1)]
    shown = "".join(
        _picture(folder / path, name, hidden=hidden) for path, name in zip(sample.images, names, strict=True)
    )
    kind = "harmful" if sample.harmful else "benign"
    meta = " · ".join(part for part in (kind, sample.split, sample.category or "", sample.sub_category or "") if part)
    lines = [f'<p class="mis-meta">{html.escape(meta)}</p>', f"<p>{html.escape(sample.question)}</p>"]
    if answers and sample.answer:
        lines.append(f"<p>{marked(sample.answer, segments_of(sample))}</p>")
    if note:
        lines.append(f"<p><b>{html.escape(note)}</b></p>")
    return f'<div class="mis-card"><div class="mis-pictures">{shown}</div>{"".join(lines)}</div>'


def _ruling(verdicts: Iterable[Verdict]) -> str:
    lines = [
        f"<p>{html.escape(verdict.judge)}: <b>{verdict.outcome.value.replace('_', ' ')}</b> "
        f"{html.escape(verdict.reason)}</p>"
        for verdict in verdicts
    ]
    return f"<details><summary>verdict</summary>{''.join(lines)}</details>" if lines else ""


def _picture(source: Image.Image | Path, name: str, *, hidden: bool, side: int = SIDE) -> str:
    image = source if isinstance(source, Image.Image) else load_image(source)
    image = image.convert("RGB").resize((side, side))
    said = html.escape(name, quote=True)
    full = f'<img class="{PICTURE}" src="{_data(image)}" width="{side}" height="{side}" alt="{said}" title="{said}">'
    if not hidden:
        return full
    veil = image.resize((VEIL, VEIL), Image.Resampling.BOX)
    cover = f'<img src="{_data(veil)}" width="{side}" height="{side}" alt="hidden picture">'
    return f'<details class="{HIDDEN}"><summary>{cover}<span>click to show or hide</span></summary>{full}</details>'


def _data(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
