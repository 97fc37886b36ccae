"""``mis annotations VERB``: people's decisions, exported, imported, compared, and made into training data."""

from pathlib import Path
from typing import Annotated

import typer

from mis_lib.annotate.decisions import Cause
from mis_lib.annotate.exchange import Form
from mis_lib.cli.options import AsJson, ManyValues
from mis_lib.cli.parsing import Verbs
from mis_lib.errors import SettingsError

verbs = typer.Typer()
annotations = typer.Typer(
    cls=Verbs, help="People's decisions on responses, and training data made of them.", no_args_is_help=True
)
verbs.add_typer(annotations, name="annotations")

Runs = Annotated[
    Path,
    typer.Option("--runs", help="Folder of all runs, and of the annotations unless MIS_DATABASE_URL names a database."),
]


@annotations.command(name="export")
def export_annotations(
    output: Annotated[Path, typer.Option("--output", help="File to write.")],
    form: Annotated[Form, typer.Option("--format", help="File format.")] = Form.JSONL,
    redacted: Annotated[bool, typer.Option("--redacted", help="Leave out images; hash texts and names.")] = False,
    salt: Annotated[
        str | None, typer.Option("--salt", help="Key of the hashes, to compare exports (default: random)")
    ] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write every decision, with its history."""
    from mis_lib.recipes.annotations import export

    _print_counts(export(runs, output, form, redacted=redacted, salt=salt), as_json=as_json)


@annotations.command(name="import")
def import_annotations(
    path: Annotated[
        Path, typer.Option("--input", help="File that export wrote (.jsonl or .csv); with --run, a file of labels.")
    ],
    run: Annotated[
        str | None, typer.Option("--run", help="The run (NAME/vN) that labels of another tool are about.")
    ] = None,
    author: Annotated[str | None, typer.Option("--author", help="Who gave the labels, if the rows do not say.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Import the decisions of an export, or labels of another tool; decisions that are known already do not change.

    The latest decision of a person on a response counts, whatever the order of import.
    """
    from mis_lib.recipes.annotations import import_file

    _print_counts(import_file(runs, path, run=run, author=author), as_json=as_json)


@annotations.command(name="agreement")
def print_agreement(runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Show how far people agree (Cohen's kappa, Krippendorff's alpha), and count what they dispute."""
    from mis_lib.cli import console
    from mis_lib.cli.show.annotations import show_agreement
    from mis_lib.recipes.annotations import agreement

    found = agreement(runs)
    if as_json:
        console.print_json(found.model_dump(mode="json"))
    else:
        show_agreement(found)


@annotations.command(name="delta", cls=ManyValues)
def make_delta(
    output: Annotated[Path | None, typer.Option("--output", help="Folder of all deltas (default: RUNS/deltas)")] = None,
    name: Annotated[
        str, typer.Option("--name", help="Name of this delta; each call makes its next version.")
    ] = "delta",
    run: Annotated[str | None, typer.Option("--run", help="Only decisions on this run (NAME/vN).")] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option("--judge", help="With --run: this judge decides where people have not, as for mis judge."),
    ] = None,
    authors: Annotated[list[str] | None, typer.Option("--authors", help="Only decisions of these people.")] = None,
    causes: Annotated[
        list[Cause] | None,
        typer.Option("--causes", help="Only responses with a decision that names one of these causes of failure."),
    ] = None,
    corrected_only: Annotated[
        bool, typer.Option("--corrected_only", help="Learn from corrected answers only, not from reference answers.")
    ] = False,
    replay: Annotated[
        int, typer.Option("--replay", min=0, help="Add so many rows of the training split, against forgetting.")
    ] = 0,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the images (default: as recorded by the run)")
    ] = None,
    train: Annotated[
        Path | None, typer.Option("--train", help="Then train on the delta with this settings file (configs/*.yaml).")
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="With --train: key=value, as in mis train.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Make training data of labelled failures: corrected answers, preference pairs, a regression set."""
    from mis_lib.annotate.store import AnnotationStore
    from mis_lib.cli import console
    from mis_lib.cli.show.annotations import show_delta
    from mis_lib.recipes import annotations as recipe
    from mis_lib.recipes.train import read_train_settings

    if sets and train is None:
        raise SettingsError("--set goes with --train FILE, found no --train")
    method = "sft" if train is None else read_train_settings(train, sets or ()).method
    made = recipe.make_delta(
        AnnotationStore(root=runs),
        runs,
        output,
        name,
        run=run,
        authors=authors or (),
        causes=causes or (),
        reference=not corrected_only,
        replay=replay,
        targets=method != "kto",
        data=data,
        judge=judge or (),
    )
    if as_json:
        console.print_json(made.model_dump(mode="json"))
    else:
        show_delta(made)
    if train is not None and (status := recipe.train_on(made, train, runs, sets or ())):
        raise typer.Exit(status)


def _print_counts(values: dict[str, object], *, as_json: bool) -> None:
    from rich.text import Text

    from mis_lib.cli import console

    if as_json:
        console.print_json(values)
    else:
        console.out.print(Text(", ".join(f"{name} {value}" for name, value in values.items())), soft_wrap=True)
