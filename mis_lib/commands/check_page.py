"""The preflight report as one HTML page that needs nothing else: no script, no web address, everything from the data escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from mis_lib.data.findings import count_by_kind
from mis_lib.data.report import Report

GB = 1e9
STYLE = """
:root { color-scheme: light dark } body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; width: 100% } th, td { border-bottom: 1px solid #8885; padding: .3rem .6rem; text-align: left;
vertical-align: top; overflow-wrap: anywhere } td.number { text-align: right; font-variant-numeric: tabular-nums }
.error { color: light-dark(#b00020, #ff8a8a); font-weight: 600 } .warning { color: light-dark(#7a5200, #ffc66d); font-weight: 600 }
.ready { color: light-dark(#146c2e, #7fdc9b); font-weight: 600 }
"""


def page(report: Report, *, longest: int = 20) -> str:
    """The whole page: verdict, files, findings by kind and one by one, the longest rows, the memory estimate."""
    parts = [
        _verdict(report),
        _table(
            "Files", ("file", "rows", "forms"), ((file.name, file.rows, ", ".join(file.forms)) for file in report.files)
        ),
        _kinds(report),
        _findings(report),
        *_budget(report, longest),
    ]
    title = f"Preflight of {escape(report.path)}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><h1>{title}</h1>{"".join(parts)}</body></html>\n'


def _verdict(report: Report) -> str:
    words = ("ready", "Training may start.") if report.ready else ("error", "Training must not start.")
    return f'<p class="{words[0]}">{words[1]}</p><p>{report.rows:,} rows, {report.images:,} images, {report.seconds:.1f} s</p>'


def _kinds(report: Report) -> str:
    rows = ((kind.value, kind.level.value, number) for kind, number in count_by_kind(report.findings).items())
    return _table("Findings by kind", ("kind", "level", "number"), rows)


def _findings(report: Report) -> str:
    rows = (
        (
            found.level.value,
            found.kind.value,
            found.file,
            found.row or "",
            found.id,
            found.field,
            found.message,
            found.rows,
            found.fix,
        )
        for found in report.findings
    )
    return _table(
        "Findings", ("level", "kind", "file", "row", "id", "field", "what", "rows", "how to put it right"), rows
    )


def _budget(report: Report, longest: int) -> Iterable[str]:
    if report.tokens is None:
        return
    rows = (
        (row.file, row.row, row.id, row.images, row.image_tokens, row.text_tokens, row.total)
        for row in report.tokens.worst(longest)
    )
    title = f"Tokens for {report.tokens.model} ({'counted' if report.tokens.exact else 'texts estimated'}), the longest rows"
    yield _table(title, ("file", "row", "id", "images", "image tokens", "text tokens", "total"), rows)
    if report.memory is not None:
        memory = report.memory
        terms = (memory.weights, memory.state, memory.activations, memory.total)
        yield _table(
            "Memory, GB",
            ("weights", "training state", "activations", "in all"),
            [[f"{term / GB:.1f}" for term in terms]],
        )
        yield f"<p>{escape(report.memory_formula)}</p>"


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    if not body:
        return f"<h2>{escape(title)}</h2><p>none</p>"
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return f"<h2>{escape(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    kind = f' class="{value}"' if value in ("error", "warning") else ""
    return f"<td{kind}>{escape(str(value))}</td>"
