"""Pictures of items as HTML for notebooks: those of harmful items lie behind a click, and stay there however the page is shown.

A hidden picture is the content of a closed ``<details>`` whose summary is a 6 x 6 pixel average of it, blown up. No style or script is needed to hide
it, so a viewer that strips both hides it all the same. Nothing is loaded from elsewhere: pictures are part of the page.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from IPython.display import HTML
from PIL import Image

from mis_lib.files import load_image
from mis_lib.schema import Response, Sample, Segment, SegmentKind, Verdict
from mis_lib.text.segments import segment

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
_STYLE = f"""<style>
.mis-cards {{ display: flex; flex-wrap: wrap; gap: 1.2em }} .mis-card {{ max-width: 330px }} .mis-pictures {{ display: flex; gap: .4em; flex-wrap: wrap }}
.{HIDDEN} summary {{ cursor: pointer; list-style: none; font-size: .75em; text-align: center }}
.{HIDDEN} img, .{HIDDEN} span {{ display: block }} .{HIDDEN}[open] summary img {{ display: none }} .mis-pictures img {{ border-radius: 6px }}
.mis-card p {{ margin: .3em 0; line-height: 1.35; white-space: pre-wrap; overflow-wrap: anywhere }} .mis-meta {{ opacity: .75; font-size: .88em }}
</style>"""


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
        columns: cards in a row; 2 puts twins beside one another.

    Raises:
        ImageError: a picture is missing or damaged.
    """
    cards = [_card(sample, folder, hide, (notes or {}).get(sample.id, ""), answers) for sample in samples]
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
        f'<span title="{part.kind.value}" style="background: {SEGMENT_COLOURS[part.kind]}">{html.escape(text[part.start : part.end])}</span>'
        for part in segments
    ]
    return "".join(spans) or html.escape(text)


def legend() -> HTML:
    """What the colours of ``marked`` mean."""
    parts = [f'<span style="background: {colour}">{kind.value}</span>' for kind, colour in SEGMENT_COLOURS.items()]
    return HTML(f"<p>{' &nbsp; '.join(parts)}</p>")


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


def segments_of(sample: Sample) -> list[Segment]:
    """The borders that construction wrote beside a target answer; none where a data set has no such field."""
    listed = (sample.model_extra or {}).get("segments") or []
    answer = sample.answer or ""
    return [Segment(text=answer[part["start"] : part["end"]], **part) for part in listed]


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


def answered(
    samples: Iterable[Sample],
    folder: Path,
    responses: Sequence[Response],
    *,
    verdicts: Sequence[Verdict] = (),
    hide: Hide = "harmful",
    columns: int = 2,
) -> HTML:
    """Responses under the pictures and question they answer, segments in colours; what judges say is behind a click, to be guessed first.

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
        body = f"<p><b>{html.escape(response.variant)}</b>: {marked(response.text, segment(response.text))}</p>{_ruling(said)}"
        cards.append(_card(asked[response.sample_id], folder, hide, "", False).removesuffix("</div>") + f"{body}</div>")
    return HTML(f'{_STYLE}<div class="mis-cards" style="max-width: {columns * CARD}px">{"".join(cards)}</div>')


def _ruling(verdicts: Iterable[Verdict]) -> str:
    lines = [
        f"<p>{html.escape(verdict.judge)}: <b>{verdict.outcome.value.replace('_', ' ')}</b> {html.escape(verdict.reason)}</p>"
        for verdict in verdicts
    ]
    return f"<details><summary>verdict</summary>{''.join(lines)}</details>" if lines else ""
