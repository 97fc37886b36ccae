"""``mis parity``: the adapter in training, merged, re-loaded, in the app's engine and served say the same, or the first point of difference.

The forms are in ``parity_proof``. Everything that was compared is kept (``--out``); the exit status tells whether anything differs.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mis_lib import console
from mis_lib.commands.parity_proof import LOCAL as LOCAL
from mis_lib.commands.parity_proof import Form, ParitySettings, Proof
from mis_lib.errors import SettingsError
from mis_lib.files import check_writable, load_image, write_atomic
from mis_lib.probe.parity import TOLERANCE, Check, Finding, Status, first_difference
from mis_lib.schema import Record, Sample

if TYPE_CHECKING:
    from mis_lib.analysis.parity_forms import Question

HEADINGS = {
    Check.TENSORS: "tensors", Check.GRIDS: "grids", Check.PIXELS: "pixels", Check.TOKENS: "tokens", Check.LOGITS: "logits",
    Check.TEXT: "text",
}  # fmt: skip
SHOWN_TENSORS = 20  # of those not applied, in the terminal; all of them are in --json and --out


class Report(Record):
    """Everything that was compared; ``same`` if nothing differs."""

    dtype: str
    tolerance: float
    """Allowed difference of logits, as a share of the largest."""
    questions: list[str]
    findings: list[Finding]
    tensors: dict[str, list[dict[str, Any]]]
    """Every tensor of each variant's adapter in each form that can be looked into."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return first_difference(self.findings) is None


def parity(settings: ParitySettings) -> Report:
    """Compare all forms of all variants.

    Raises:
        MisError: a setting, file, model or server cannot be used; the message says which and why.
        OSError: ``out`` cannot be written.
    """
    known = _variants(settings)
    if settings.out is not None:
        check_writable(settings.out)
    questions = _questions(settings)
    from mis_lib.models.mini.assemble import ensure_mini

    checkpoint = settings.checkpoint or ensure_mini(console.say)
    findings: list[Finding] = []
    tensors: dict[str, list[dict[str, Any]]] = {}
    for variant in settings.variants or tuple(known):
        for part in Proof(settings, checkpoint, known, variant, questions).run():
            findings += part[0]
            tensors.setdefault(variant, []).extend(use.model_dump(mode="json") for use in part[1])
    report = Report(
        dtype=settings.dtype,
        tolerance=TOLERANCE[settings.dtype],
        questions=[question.name for question in questions],
        findings=findings,
        tensors=tensors,
    )
    if settings.out is not None:
        write_atomic(settings.out, (report.model_dump_json(indent=1) + "\n").encode())
    return report


def show(report: Report) -> Group:
    """The report for a terminal: one row a form and variant, one column a check; then what differs, first cause first."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for heading in ("variant", "form", *HEADINGS.values()):
        table.add_column(heading, no_wrap=True)
    cells: dict[tuple[str, str], dict[Check, list[Finding]]] = {}
    for finding in report.findings:
        cells.setdefault((finding.variant, finding.form), {}).setdefault(finding.check, []).append(finding)
    for (variant, form), checks in cells.items():
        row = [_cell(checks.get(check, [])) for check in HEADINGS]
        if form == Form.TRAINING:
            row[1:] = [Text("ref", style="dim")] * (len(row) - 1)
        table.add_row(variant, form, *row)
    note = Text(
        f"{report.dtype}, {len(report.questions)} questions; logits may differ by {report.tolerance:g} of the largest one. "
        "Tensors: applied / all. ref: what the others are held to; not told: this form does not show it; "
        "tie: two tokens so close that rounding decides.",
        style="dim",
    )
    return Group(table, note, *_differences(report))


def _cell(findings: Sequence[Finding]) -> Text:
    """The worst status of a form's questions; the number of tensors where it is known."""
    if not findings:
        return Text("", style="dim")
    order = [Status.NOT_TOLD, Status.SAME, Status.TIE, Status.DIFFERS]
    worst = max((finding.status for finding in findings), key=order.index)
    styles = {Status.SAME: "green", Status.TIE: "yellow", Status.DIFFERS: "bold red", Status.NOT_TOLD: "dim"}
    return Text(findings[0].count or worst.value, style=styles[worst])


def _differences(report: Report) -> list[Text]:
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


def _place(finding: Finding) -> str:
    return ", ".join(part for part in (finding.variant, finding.form, finding.question, finding.check.value) if part)


def _variants(settings: ParitySettings) -> dict[str, Path]:
    """Adapters by name; what was asked for is checked before anything is loaded."""
    from mis_lib.models.shipped import choose_variants

    chosen = choose_variants(settings.checkpoint, settings.adapters)
    known = {name: folder for name, folder in chosen.items() if folder is not None}
    if not known:
        raise SettingsError("expected at least one adapter, found none; name one with --adapters NAME=FOLDER")
    for name in settings.variants or ():
        if name not in known:
            raise SettingsError(f"--variants: unknown adapter {name!r}; known here: {', '.join(known)}")
    if settings.dtype not in TOLERANCE:
        raise SettingsError(f"--dtype: expected one of {', '.join(TOLERANCE)}, found {settings.dtype!r}")
    if settings.merged is not None and len(settings.variants or known) > 1:
        raise SettingsError("--merged: expected one variant beside it, found several; name it with --variants")
    if (settings.question is None) != (not settings.images):
        raise SettingsError("expected --images and --question together, found only one of them")
    return known


def _questions(settings: ParitySettings) -> list["Question"]:
    from mis_lib.analysis.parity_forms import Question
    from mis_lib.train.encode import Place

    if settings.question is not None:
        paths = [path.resolve() for path in settings.images]
        folder = Path(os.path.commonpath([path.parent for path in paths]))
        samples = [
            Sample(id="question", question=settings.question, images=[str(path.relative_to(folder)) for path in paths])
        ]
    else:
        from mis_lib.recipes.generate import mini_data, read_place

        samples, folder = read_place(settings.data or mini_data(), (settings.split,))
        samples = samples[: settings.limit]
    return [
        Question(
            sample.id, [load_image(folder / name) for name in sample.images], sample.question, Place(sample, folder)
        )
        for sample in samples
    ]
