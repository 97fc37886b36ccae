"""``mis parity``: whether all forms of a tuned model read and answer the same."""

import typer

from mis_lib.cli.options import AsJson, adapter_folders, options_of, resolve
from mis_lib.cli.parsing import FAILED_ITEMS

verbs = typer.Typer()
FIELDS = (
    "variants forms checkpoint adapters merged served images question data limit max_new_tokens device dtype "
    "quantization out"
)
OPTIONS = options_of(
    "mis_lib.recipes.parity:ParitySettings", FIELDS, adapters=lambda values, given: adapter_folders(values)
)


@verbs.command(name="parity", cls=OPTIONS)
def check_parity(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Prove that an adapter in training, merged, reloaded, in the app and served reads and answers the same."""
    from mis_lib.cli import console
    from mis_lib.cli.show.parity import shown
    from mis_lib.recipes.parity import ParitySettings, parity

    report = parity(resolve(ctx, ParitySettings))
    if as_json:
        console.print_json({"same": report.same, **report.model_dump(mode="json")})
    else:
        console.out.print(shown(report), highlight=False)
    if not report.same:
        raise typer.Exit(FAILED_ITEMS)
