"""Options that are generated from a settings class: what is read, what wins, and what the help says."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner, Result

from mis_lib.cli.options import given, named_values, options_of, resolve
from mis_lib.cli.parsing import Verbs
from mis_lib.errors import SettingsError
from mis_lib.settings import Settings


class Inner(Settings):
    rank: int = 16
    """Rank of the adapter."""


class Shared(Settings):
    splits: tuple[str, ...] = ("hard",)
    """Which splits."""
    limit: int | None = Field(default=None, ge=1)


class Asked(Shared):
    splits: tuple[str, ...] = ("easy", "hard")
    images: tuple[Path, ...] = ()
    swap: bool = False
    adapters: dict[str, str] | None = None
    inner: Inner = Inner()
    hidden: int = 3


FIELDS = "splits limit images swap adapters inner.rank"


def _adapters(values: list[str], _: Any) -> dict[str, str]:
    return named_values("--adapters", values)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setitem(sys.modules, "asked_settings", sys.modules[__name__])
    made = typer.Typer(cls=Verbs, add_completion=False)

    @made.command(name="ask", cls=options_of("asked_settings:Asked", FIELDS, adapters=_adapters))
    def ask(ctx: typer.Context, name: str = typer.Option("x")) -> None:
        """Ask."""
        told = {"given": sorted(given(ctx)), "name": name, **resolve(ctx, Asked).model_dump(mode="json")}
        sys.stdout.write(json.dumps(told))

    @made.callback()
    def main() -> None: ...

    return made


def ask(app: typer.Typer, *words: str) -> Result:
    return CliRunner().invoke(app, ["ask", *words], env={"COLUMNS": "200"})


def test_what_is_not_given_is_left_to_the_settings(app: typer.Typer) -> None:
    told = json.loads(ask(app).stdout)
    assert told.pop("given") == [] and told.pop("name") == "x"
    assert told == Asked().model_dump(mode="json")


def test_every_type_is_read(app: typer.Typer) -> None:
    several = ["--splits", "a", "b", "--images", "x.png", "y.png", "--adapters", "one=p", "two=q"]
    told = json.loads(ask(app, *several, "--limit", "4", "--swap", "--rank", "0", "--name", "z").stdout)
    assert told["given"] == ["adapters", "images", "limit", "rank", "splits", "swap"]
    assert told["splits"] == ["a", "b"] and told["images"] == ["x.png", "y.png"] and told["swap"] is True
    assert told["adapters"] == {"one": "p", "two": "q"}
    assert told["inner"] == {"rank": 0}, "zero is a value that was given"


def test_a_file_is_under_options_and_set_over_both(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "asked.yaml").write_text("limit: 1\nhidden: 7\nsplits: [file]\n")
    words = [
        "--config",
        str(tmp_path / "asked.yaml"),
        "--limit",
        "2",
        "--splits",
        "flag",
        "--set",
        "limit=3",
        "inner.rank=5",
    ]
    told = json.loads(ask(app, *words).stdout)
    assert (told["limit"], told["hidden"], told["splits"], told["inner"]) == (3, 7, ["flag"], {"rank": 5})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "0"], "setting 'limit': Input should be greater than or equal to 1"),
        (["--limit", "x"], "--limit"),
        (["--adapters", "one"], "--adapters: expected NAME=VALUE, found 'one'"),
        (["--set", "hiden=3"], "unknown setting 'hiden' (did you mean 'hidden'?)"),
        (["--hidden", "3"], "No such option"),
    ],
)
def test_a_mistake_ends_with_status_2(app: typer.Typer, words: list[str], message: str) -> None:
    found = ask(app, *words)
    assert found.exit_code == 2
    assert message in found.stderr


def test_the_help_is_the_docstring_and_the_default(app: typer.Typer) -> None:
    told = " ".join(ask(app, "--help").stdout.split())
    assert "Which splits. (default: easy hard)" in told, "the docstring of the class above, the default of this one"
    assert "Rank of the adapter. (default: 16)" in told
    assert "--hidden" not in told


def test_a_class_is_imported_when_its_verb_is_asked_for() -> None:
    made = typer.Typer(add_completion=False)

    @made.command(name="later", cls=options_of("no_such_module:Asked", "splits"))
    def later() -> None:
        """Later."""

    @made.callback()
    def main() -> None: ...

    assert "Later." in CliRunner().invoke(made, ["--help"]).stdout


def test_names_are_given_once() -> None:
    with pytest.raises(SettingsError, match="taken already"):
        named_values("--adapters", ["a=1", "a=2"])
    with pytest.raises(SettingsError, match="taken already"):
        named_values("--adapters", ["base=1"], taken=["base"])
