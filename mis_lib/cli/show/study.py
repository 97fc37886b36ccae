"""How ``mis study`` shows what came out."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from mis_lib.recipes.study import Study
from mis_lib.results.study import Agreement, cells, in_words
from mis_lib.results.tables import rich_table

COLOURS = {
    Agreement.AGREES: "green",
    Agreement.DISAGREES: "red",
    Agreement.REFUSES: "red",
    Agreement.UNDECIDED: "yellow",
}


def shown(result: Study) -> Iterator[Table | Text]:
    """The study for a terminal: a table a group, then every finding in its words."""
    for group in dict.fromkeys(entry.group for entry in result.entries):
        yield rich_table(*cells(result.entries, group), title=group)
    for finding in result.findings:
        yield Text(in_words(finding), style=COLOURS.get(finding.agreement, ""))
    for name, reason in result.failed.items():
        yield Text(f"not trained: {name}: {reason}", style="red")
    yield Text(f"study: {result.folder / 'study.md'}", style="dim")
