"""What a notebook says between its cells: versions, findings, parts left out, closing numbers. Its cells call these and define nothing.

``begin()`` also sets how figures look in this kernel: one template, no cloud button, drawn by JupyterLab itself from data (no script is loaded from
anywhere). A finding is a sentence with numbers put in by the cell that computed them, so that no text can disagree with its data.
"""

import html
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.io as pio
from IPython.display import HTML, Markdown, display
from pandas.io.formats.style import Styler

from mis_lib import __version__
from mis_lib.results.figures.style import CONFIG, INK_RULE, TEMPLATE

RENDERER = "plotly_mimetype"
LOOK = "mis"
SKIPPED = "mis-skipped"
"""Class of the box that says what was left out: tests and readers look for it."""


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
    told = f"{', '.join(f'{name} {number}' for name, number in versions.items())}; {os.cpu_count()} cores"
    display(HTML(f"<style>{INK_RULE}</style><p>{html.escape(told)}</p>"))


def finding(text: str) -> None:
    """Show what has been found, in Markdown; the numbers in it come from the cell's data."""
    display(Markdown(f"**Finding.** {text}"))


def known(*lines: str) -> None:
    """Show the closing list, "What we now know"."""
    display(Markdown("\n".join(f"- {line}" for line in lines)))


def skipped(what: str, *, why: str, then: str) -> None:
    """Say in a box that something was not done, why, and what to do to have it done: a part is never left out silently."""
    parts = (f"<b>Not run: {html.escape(what)}.</b>", html.escape(why), html.escape(then))
    display(
        HTML(
            f'<div class="{SKIPPED}" style="border: 2px dashed #e69f00; border-radius: 6px; padding: .6em 1em">{"<br>".join(parts)}</div>'
        )
    )


def told(rate: Any) -> str:
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
    """A paired difference as sentences say it: "-16.7 points (-50.0 to +0.0)"; without an interval where nothing varied.

    Args:
        difference: row of ``frames.differences`` with difference, low, high.
    """
    said = f"{difference.difference:+.1f} points"
    return said if pd.isna(difference.low) else f"{said} ({difference.low:+.1f} to {difference.high:+.1f})"


def counted(n: int, noun: str) -> str:
    """A number with its noun: "1 training row", "1,040 training rows"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def facts(values: Mapping[str, object]) -> Styler:
    """A few named facts as a table of one column: long texts in full, each number in its own form (one form for all makes 559 images 5.6e+02)."""
    return left(pd.DataFrame({"": [_said(value) for value in values.values()]}, index=pd.Index(list(values))))


def left(frame: pd.DataFrame) -> Styler:
    """A table whose texts begin at the left, to be read as prose; numbers stay at the right. Nothing in it is markup."""
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


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(_said, value)) or "none"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def texts(rows: Iterable[tuple[str, str]]) -> HTML:
    """Named texts under one another, line breaks kept and nothing cut: prompts, questions and answers as they are."""
    cells = "".join(
        f'<dt style="font-weight: 600; margin-top: .6em; float: none; width: auto; text-align: left">{html.escape(name)}</dt>'
        f'<dd style="margin-left: 1em; float: none; width: auto; white-space: pre-wrap; max-width: 70em">{html.escape(text)}</dd>'
        for name, text in rows
    )
    return HTML(f"<dl>{cells}</dl>")
