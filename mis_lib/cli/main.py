"""``mis VERB``: every job of the workbench from a shell; each verb has a module in this package.

Exit status: 0 done, 1 done with failed items, 2 for invalid arguments, or a file that cannot be read or written.
"""

import io
import os
import sys
from typing import Annotated, Any

import typer

from mis_lib import __version__
from mis_lib.cli import (
    ablate,
    analyse,
    annotations,
    check,
    construct,
    evaluate,
    export,
    importing,
    measure,
    model,
    notebooks,
    parity,
    study,
    train,
)
from mis_lib.cli.parsing import Verbs

app = typer.Typer(
    cls=Verbs,
    help="MIS workbench: multi-image safety of vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
for part in (
    model,
    construct,
    export,
    check,
    evaluate,
    importing,
    measure,
    ablate,
    parity,
    analyse,
    annotations,
    notebooks,
    study,
    train,
):
    app.add_typer(part.verbs)


def show_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        sys.stdout.write(f"mis {__version__}\n")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the verb."""
    from mis_lib.cli import console

    # The verbs report progress; bars and advice of the libraries would be printed between.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    console.show_progress()
    for stream in (sys.stdout, sys.stderr):
        _write_any_text(stream)


def _write_any_text(stream: Any) -> None:
    """Write UTF-8 to files and pipes on any system (Windows); print ? where a terminal lacks a character."""
    if not isinstance(stream, io.TextIOWrapper):
        return
    if stream.isatty():
        stream.reconfigure(errors="replace")
    else:
        stream.reconfigure(encoding="utf-8")


if __name__ == "__main__":
    app()
