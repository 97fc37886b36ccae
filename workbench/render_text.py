"""HTML of what a model wrote: tables, code, headings and bold words are drawn, all else stands as it was written.

No Markdown library: those take lists, links, images and HTML of a text that nobody has read for commands, and lose its line breaks. What is copied
is the text itself.
"""

import re
from collections.abc import Iterator
from html import escape
from itertools import groupby

from mis_lib.analysis.cot_layout import FENCE, ROW

_RULE = re.compile(r"\s*\|(?:\s*:?-+:?\s*\|)+\s*$")
_BAR = re.compile(r"(?<!\\)\|")
_HEADING = re.compile(r"\s*#{1,6}\s+\S")
_BOLD = re.compile(r"\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*")


def drawn(text: str) -> str:
    """Blocks of HTML, everything escaped; a table or code that is still being written is drawn as far as it goes."""
    return "".join(_block(kind, lines) for kind, lines in _blocks(text.strip("\n").rstrip().split("\n")))


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Neighbouring lines of one kind: code, table, heading or prose."""
    kinds, in_code = [], False
    for line in lines:
        fence = bool(FENCE.match(line))
        kinds.append("code" if in_code or fence else _kind(line))
        in_code = in_code != fence
    for kind, group in groupby(zip(kinds, lines, strict=True), key=lambda pair: pair[0]):
        yield kind, [line for _, line in group]


def _kind(line: str) -> str:
    if ROW.match(line):
        return "table"
    return "heading" if _HEADING.match(line) else "prose"


def _block(kind: str, lines: list[str]) -> str:
    if kind == "code":
        inside = "\n".join(line for line in lines if not FENCE.match(line))
        return f'<pre class="mis-code">{escape(inside)}</pre>'
    if kind == "heading":
        return "".join(f'<p class="mis-heading">{_inline(line.strip().lstrip("# "))}</p>' for line in lines)
    if kind == "table" and len(lines) > 1 and _RULE.match(lines[1]):
        rows = "".join(_row(line, "td") for line in lines[2:])
        return f'<div class="mis-grid"><table><thead>{_row(lines[0], "th")}</thead><tbody>{rows}</tbody></table></div>'
    prose = "\n".join(lines).strip("\n").rstrip()
    return f"<p>{_inline(prose)}</p>" if prose else ""


def _row(line: str, tag: str) -> str:
    cells = (_inline(cell.strip().replace("\\|", "|")) for cell in _BAR.split(line.strip())[1:-1])
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _inline(text: str) -> str:
    return _BOLD.sub(r"<strong>\1</strong>", escape(text))
