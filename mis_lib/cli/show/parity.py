"""How ``mis parity`` shows its report."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from mis_lib.probe.parity import Check, CheckResult, Status, first_difference
from mis_lib.recipes.parity import Form, ParityReport
from mis_lib.results.tables import rich_table

HEADINGS = {
    Check.TENSORS: "tensors", Check.GRIDS: "grids", Check.PIXELS: "pixels", Check.TOKENS: "tokens",
    Check.LOGITS: "logits", Check.TEXT: "text",
}  # fmt: skip
SHOWN_TENSORS = 20  # of those not applied, in the terminal; all of them are in --json and --out


def shown(report: ParityReport) -> Group:
    """The report for a terminal: a row for each form and variant, a column for each check, then the differences."""
    cells: dict[tuple[str, str], dict[Check, list[CheckResult]]] = {}
    for finding in report.findings:
        cells.setdefault((finding.variant, finding.form), {}).setdefault(finding.check, []).append(finding)
    rows: list[list[str | Text]] = []
    for (variant, form), checks in cells.items():
        row = [_cell(checks.get(check, [])) for check in HEADINGS]
        if form == Form.TRAINING:
            row[1:] = [Text("ref", style="dim")] * (len(row) - 1)
        rows.append([variant, form, *row])
    headings = ("variant", "form", *HEADINGS.values())
    table = rich_table(headings, rows, left=len(headings))
    note = Text(
        f"{report.dtype}, {len(report.questions)} questions; "
        f"logits may differ by {report.tolerance:g} of the largest one. "
        "Tensors: applied / all. ref: what the others are held to; not told: this form does not show it; "
        "tie: two tokens so close that rounding decides.",
        style="dim",
    )
    return Group(table, note, *_differences(report))


def _cell(findings: Sequence[CheckResult]) -> Text:
    """The worst status of a form's questions; the number of tensors where it is known."""
    if not findings:
        return Text("", style="dim")
    order = [Status.NOT_TOLD, Status.SAME, Status.TIE, Status.DIFFERS]
    worst = max((finding.status for finding in findings), key=order.index)
    styles = {Status.SAME: "green", Status.TIE: "yellow", Status.DIFFERS: "bold red", Status.NOT_TOLD: "dim"}
    return Text(findings[0].count or worst.value, style=styles[worst])


def _differences(report: ParityReport) -> list[Text]:
    lines = []
    for finding in (each for each in report.findings if each.status is Status.TIE):
        lines.append(Text(f"Tie: {_place(finding)}: {finding.detail}", style="yellow"))
    first = first_difference(report.findings)
    if first is not None:
        lines.append(Text(f"First point of difference: {_place(first)}: {first.detail}", style="bold red"))
    unused = [
        use | {"variant": name} for name, uses in report.tensors.items() for use in uses if use["use"] != "applied"
    ]
    for use in unused[:SHOWN_TENSORS]:
        lines.append(
            Text(f"  {use['variant']} {use['form']}: {use['tensor']} {use['use']}: {use['detail']}", style="red")
        )
    if len(unused) > SHOWN_TENSORS:
        lines.append(Text(f"  and {len(unused) - SHOWN_TENSORS} more (--json lists all)", style="red"))
    return lines


def _place(finding: CheckResult) -> str:
    return ", ".join(part for part in (finding.variant, finding.form, finding.question, finding.check.value) if part)
