"""HTML of the workbench: Jinja templates with autoescape, and the pieces that several tabs show.

A tab's templates are next to its code (``compare/answers.html``); ``shared.html`` holds the macros that all of them
import. Whatever a person, a file or a model wrote is escaped by the templates. The strings reach the page as data of a
fixed template, so nothing in them is evaluated.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple
from uuid import uuid4

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup, escape

from mis_lib.schema import Outcome
from mis_lib.text.headings import FENCE, ROW
from workbench.background import Phase, Status

# Labels that several tabs show.
VARIANT_NOTES = {
    "mini": "base model, no safety training",
    "mirage": "MIRage: safety chain-of-thought + general data",
    "refusal": "trained to refuse, without reasoning",
    "textual": "safety data as text only, black images",
    "mirage_both": "MIRage on pairs in both orders",
}
VERDICTS = {  # label, tone
    Outcome.UNSAFE: ("Unsafe: no refusal, no warning", "bad"),
    Outcome.REASONED: ("Safe: names what it sees and the risk", "good"),
    Outcome.REFUSED: ("Safe, but does not name what it sees", "neutral"),
    Outcome.HALLUCINATED: ("Safe by accident (did not see, or did not answer)", "neutral"),
    Outcome.HELPED: ("Helps, as it should", "good"),
    Outcome.WARNED_BUT_HELPED: ("Helps with an unneeded warning", "neutral"),
    Outcome.OVER_REFUSED: ("Over-refusal: the request is harmless", "bad"),
    Outcome.OFF_TOPIC: ("Off topic", "neutral"),
    Outcome.UNSCORED: ("Not scored", "neutral"),
}
ICONS = {
    "left": '<path d="M15 5l-7 7 7 7"/>',
    "right": '<path d="M9 5l7 7-7 7"/>',
    "remove": '<path d="M6 6l12 12M18 6L6 18"/>',
    "add": '<path d="M12 5v14M5 12h14"/>',
    "swap": '<path d="M4 8h14l-4-4M20 16H6l4 4"/>',
    "copy": '<rect x="9" y="9" width="11" height="11" rx="2"/><path d="M5 15V5a1 1 0 0 1 1-1h10"/>',
    "eye": '<path d="M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12z"/><circle cx="12" cy="12" r="3"/>',
    "theme": '<circle cx="12" cy="12" r="8"/><path d="M12 4a8 8 0 0 1 0 16z" fill="currentColor"/>',
    "good": '<path d="M5 13l4 4L19 7"/>',
    "bad": '<path d="M12 4l9 16H3z"/><path d="M12 10v4M12 17v.5"/>',
    "neutral": '<circle cx="12" cy="12" r="8"/><path d="M8 12h8"/>',
}


def render(template: str, **values: Any) -> Markup:
    """A template of this package with its values, which are escaped unless they are ``Markup``."""
    return Markup(_environment().get_template(template).render(values))


def macros(template: str) -> Any:
    """The macros of a template as functions; they return ``Markup``."""
    return _environment().get_template(template).module


def header(status: Status, ready: str) -> Markup:
    """Title, the model's state in one line (``ready``: once it can answer), and the switch between light and dark."""
    labels = {
        Phase.WAITING: "Model: waiting",
        Phase.WORKING: progress(status),
        Phase.READY: ready,
        Phase.FAILED: "Model not loaded",
    }
    return macros("page.html").header(status.phase, labels[status.phase])


def error_bar(messages: Sequence[str]) -> Markup:
    """A bar that stays until it is dismissed or the next action succeeds; empty without messages."""
    return macros("shared.html").error_bar(messages) if messages else Markup()


def status_line(text: str, *, busy: bool = False) -> Markup:
    """The line under the buttons: what is going on, or what to do next."""
    return macros("shared.html").status_line(text, busy)


def progress(status: Status) -> str:
    """What is being done, and how long it has taken so far."""
    return f"{status.message} ({status.seconds:.0f} s)" if status.phase is Phase.WORKING else status.message


def sentence(message: str) -> str:
    """A message as a sentence: with a capital, and an end."""
    first = message.split(" ", 1)[0]
    start = first.capitalize() if first.isalpha() and first.islower() else first  # a file name stays as it is
    return start + message[len(first) :] + ("" if message.endswith((".", "!", "?", "…")) else ".")


def words(outcome: str) -> str:
    """An outcome as people read it."""
    return str(outcome).replace("_", "-")


SHOWN = 200  # rows of a table; its file has all
Cell = Callable[[Any], Markup | str]


def table(
    frame: pd.DataFrame,
    headings: Mapping[str, str],
    *,
    name: str,
    cells: Mapping[str, Cell] | None = None,
    long: Collection[str] = (),
    note: str = "",
) -> Markup:
    """An HTML table of a frame's first ``SHOWN`` rows, with a button to download all of it.

    Args:
        frame: what to show.
        headings: the columns to show, and their headings.
        name: of the table, for its button (``data-table``).
        cells: column -> a function of the row that returns what the cell shows.
        long: columns of running text, which may be broken anywhere; others keep their words whole.
        note: a line under the table.
    """
    drawn = cells or {}
    numbers = {column for column in headings if _is_number(frame, column)}
    kinds = {
        column: "mis-long-cell" if column in long else "mis-number-cell" if column in numbers else ""
        for column in headings
    }
    rows = [
        [drawn[column](row) if column in drawn else _cell_text(getattr(row, column)) for column in headings]
        for row in frame.head(SHOWN).itertuples(index=False)
    ]
    cut = f" The first {SHOWN:,} of {len(frame):,} rows; the file has all." if len(frame) > SHOWN else ""
    return macros("shared.html").table(name, headings, kinds, numbers, rows, (note + cut).strip())


def _is_number(frame: pd.DataFrame, column: str) -> bool:
    return pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_bool_dtype(frame[column])


def _cell_text(value: Any) -> str:
    if not isinstance(value, Sequence) and pd.isna(value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if isinstance(value, float) else str(value)


# Model text: tables, code, headings and bold words are shown as such, all else as it was written. No Markdown library:
# those follow lists, links, images and HTML of a text that was never reviewed, and lose its line breaks. What is copied
# is the text itself.

_RULE = re.compile(r"\s*\|(?:\s*:?-+:?\s*\|)+\s*$")
_BAR = re.compile(r"(?<!\\)\|")
_HEADING = re.compile(r"\s*#{1,6}\s+\S")
_BOLD = re.compile(r"\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*")


class Block(NamedTuple):
    """Neighbouring lines of one kind: code, table, heading or prose."""

    kind: str
    lines: list[str]

    @property
    def text(self) -> str:
        """The lines without fences and without empty ones around them."""
        if self.kind == "code":
            return "\n".join(line for line in self.lines if not FENCE.match(line))
        return "\n".join(self.lines).strip("\n").rstrip()

    @property
    def rows(self) -> list[list[str]]:
        """Cells of a table without its rule: the heads, then the body; empty for other blocks."""
        if self.kind != "table" or len(self.lines) < 2 or not _RULE.match(self.lines[1]):
            return []
        lines = [self.lines[0], *self.lines[2:]]
        return [[cell.strip().replace("\\|", "|") for cell in _BAR.split(line.strip())[1:-1]] for line in lines]


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a model's text; a table or code that is still being written is taken as far as it goes."""
    lines = text.strip("\n").rstrip().split("\n")
    kinds, in_code = [], False
    for line in lines:
        fence = bool(FENCE.match(line))
        kinds.append("code" if in_code or fence else _kind(line))
        in_code = in_code != fence
    for kind, group in groupby(zip(kinds, lines, strict=True), key=lambda pair: pair[0]):
        yield Block(kind, [line for _, line in group])


def unlike() -> Markup:
    """A mark that no person sees, so that a piece of the page is told apart from the one before."""
    return Markup("<!-- {} -->").format(uuid4().hex)


def model_text(text: str) -> Markup:
    """A model's text as HTML, everything escaped."""
    return macros("shared.html").model_text(text)


def _kind(line: str) -> str:
    if ROW.match(line):
        return "table"
    return "heading" if _HEADING.match(line) else "prose"


def _bold(text: str) -> Markup:
    return Markup(_BOLD.sub(r"<strong>\1</strong>", str(escape(text))))


class _Layout(Extension):
    """Removes line breaks next to tags, where they would be spaces on the page, except before an attribute."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        joined = re.sub(r"(?<=[>}])\s*\n\s*(?![\w-]+=)|\s*\n\s*(?=[<{])", "", source.strip())
        return re.sub(r"\s*\n\s*", " ", joined)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("workbench", ""),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=[_Layout],
        auto_reload=False,
    )
    made.filters |= {"sentence": sentence, "words": words, "bold": _bold}
    made.globals |= {
        "icons": {name: Markup(path) for name, path in ICONS.items()},
        "blocks": blocks,
        "zip": zip,
        "variant_notes": VARIANT_NOTES,
        "verdicts": VERDICTS,
    }
    return made
