"""How the command line shows things: answers in the colours of their segments, findings as a table, everything as JSON.

The three colours are those of the app's legend. What a program may want to read goes to standard output, everything said meanwhile to
standard error, so that ``--json`` can be piped.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mis_lib.analysis.cot import segment
from mis_lib.doctor import Diagnosis, State
from mis_lib.schema import SegmentKind

if TYPE_CHECKING:
    from mis_lib.construct.pipeline import Summary
    from mis_lib.generate.variants import Column

COLOURS = {SegmentKind.PERCEPTION: "blue", SegmentKind.REASONING: "yellow", SegmentKind.ANSWER: "green"}
STATE_COLOURS = {State.OK: "green", State.MISSING: "yellow", State.DAMAGED: "red"}

out = Console()
log = Console(stderr=True)


def say(message: str) -> None:
    """Tell what is being done, on standard error."""
    log.print(message, style="dim", markup=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def answer_record(column: "Column") -> dict[str, Any]:
    """One variant's answer as a JSON object; ``segments`` cover the whole text in order."""
    return {
        "variant": column.variant,
        "text": column.text,
        "segments": [part.model_dump(mode="json") for part in segment(column.text)],
        "tokens": column.tokens,
        "seconds": round(column.seconds, 3),
        "tokens_per_second": round(column.tokens / column.seconds, 2) if column.seconds else None,
        "finish_reason": column.finish_reason,
    }


def answers(columns: Sequence["Column"]) -> Group:
    """The answers as panels, under the legend of their colours."""
    legend = Text("  ").join(Text(f"■ {kind.value}", style=colour) for kind, colour in COLOURS.items())
    return Group(legend, *(answer(column) for column in columns))


def answer(column: "Column") -> Panel:
    """One variant's answer with its cost below."""
    text = Text()
    for part in segment(column.text):
        text.append(part.text, style=COLOURS[part.kind])
    speed = f", {column.tokens / column.seconds:.1f} tokens/s" if column.seconds else ""
    cost = f"{column.tokens} tokens, {column.seconds:.1f} s{speed}, {column.finish_reason or '...'}"
    return Panel(
        text, title=Text(column.variant, style="bold"), subtitle=cost, title_align="left", subtitle_align="right"
    )


def streaming(columns: Sequence["Column"]) -> Columns:
    """The answers side by side while they grow."""
    return Columns([answer(column) for column in columns], equal=True, expand=True)


def diagnosis(found: Diagnosis) -> Group:
    """Findings as a table, and below it what to do."""
    table = Table(title=f"MIS workbench {found.version}", title_justify="left")
    for heading in ("", "found", "needed for", "to put it right"):
        table.add_column(heading, overflow="fold")
    for finding in found.findings:
        name = Text(finding.name, style=STATE_COLOURS[finding.state])
        detail = finding.detail if finding.state is State.OK else f"{finding.state}: {finding.detail}"
        table.add_row(name, Text(detail), Text(finding.needed_for), Text(finding.fix))
    verdict = "Ready." if found.ready else "Not ready: put right what 'everything' needs and what is damaged."
    return Group(table, Text(verdict, style="green" if found.ready else "red"))


def summary(made: "Summary", out_folder: Path) -> Group:
    """How much of what a constructed data set holds."""
    table = Table(title=f"{out_folder} (seed {made.seed})", title_justify="left")
    for heading in ("split", "items", "harmful", "benign", "questions"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in made.splits.items():
        table.add_row(name, *(f"{count:,}" for count in (split.items, split.harmful, split.benign, split.questions)))
    styles = Text("Drawings: " + "; ".join(made.styles.values()), style="dim")
    return Group(table, Text(f"{made.pictures:,} pictures; {len(made.dropped)} of {made.rows} rows left out"), styles)
