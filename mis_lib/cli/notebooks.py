"""``mis notebooks``: notebooks, listed or executed into HTML pages; ``mis docs``: README's generated tables."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import yaml

from mis_lib.cli.checkout import outside
from mis_lib.cli.options import AsJson, ManyValues
from mis_lib.cli.parsing import FAILED_ITEMS
from mis_lib.errors import SettingsError

verbs = typer.Typer()


class Theme(StrEnum):
    """How pages look."""

    LIGHT = "light"
    DARK = "dark"


@verbs.command(name="notebooks", cls=ManyValues)
def walk(
    execute: Annotated[bool, typer.Option("--execute", help="Execute them in order; write copies and pages.")] = False,
    only: Annotated[list[int] | None, typer.Option("--only", help="Only these numbers, as --only 2 4.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the copies and pages.")] = Path("runs/notebooks/pages"),
    theme: Annotated[Theme, typer.Option("--theme", help="Theme of the pages.")] = Theme.LIGHT,
    show_benign: Annotated[
        bool, typer.Option("--show_benign", help="Show pictures of benign items (default: all pictures are hidden)")
    ] = False,
    sets: Annotated[list[str] | None, typer.Option("--set", help="key=value: a parameter of the notebooks.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the notebooks, or execute them into HTML pages with pictures hidden; status 1 if a cell failed."""
    from mis_lib.cli import console
    from mis_lib.notebook import execute as commands

    wanted = commands.chosen(commands.all_notebooks(), only or [])
    if not execute:
        if as_json:
            console.print_json([notebook.model_dump(mode="json") for notebook in wanted])
        else:
            console.out.print(commands.listing(wanted))
        return
    asked = dict(map(_parameter, sets or []))
    commands.check_parameters(wanted, asked)
    parameters = {"hide": "harmful" if show_benign else "all", **asked}
    done = []
    for found in commands.execute_all(wanted, out.resolve(), parameters, theme=theme.value, progress=console.say):
        done.append(found)
        console.say(f"{found.name}: {found.error or 'done'}, {found.seconds:.0f} s, {found.page}")
    if as_json:
        console.print_json([found.model_dump(mode="json") for found in done])
    if any(found.error for found in done):
        raise typer.Exit(FAILED_ITEMS)


def _parameter(text: str) -> tuple[str, object]:
    """``key=value`` with the value read as YAML, as for all settings."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise SettingsError(f"--set {text!r}: expected key=value, for example --set limit=4")
    return name, yaml.safe_load(value)


@verbs.command(name="docs")
def write_tables(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Option("--file", help="One Markdown file; without it README and all of docs/.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; status 1 if something would change.")] = False,
) -> None:
    """Update the generated tables of README and docs (results, verbs, tabs, data sets, judges, metrics)."""
    from mis_lib.cli import console

    documents, program = outside("tools.documents", "mis docs"), ctx.find_root().command
    changed = False
    for one in [file] if file else documents.documents():
        difference = documents.update(one, program, check=check)
        console.out.print(difference or f"{one}: up to date", markup=False, highlight=False, soft_wrap=True)
        changed |= bool(difference)
    if changed and check:
        raise typer.Exit(FAILED_ITEMS)
