"""The measurement of columns: what it measures is what it says, on a toy model."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from support.tiny import tiny_adapter, tiny_checkpoint
from typer.testing import CliRunner

from benchmarks import variants as bench_module
from benchmarks.variants import Round, bench, show, to_markdown
from mis_lib.cli.main import app
from mis_lib.errors import SettingsError

pytestmark = pytest.mark.research


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("bench") / "model")


@pytest.fixture(scope="module")
def adapters(checkpoint: Path) -> dict[str, Path]:
    folder = checkpoint.parent
    return {name: tiny_adapter(checkpoint, folder / name, seed) for seed, name in enumerate(["one", "two"], 1)}


def test_ratios_are_taken_within_a_round(
    checkpoint: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # seconds of each arrangement in each round; the first one is the warm-up
    seconds = {
        ("base",): [9.0, 1.0, 4.0, 1.0],
        ("one",): [9.0, 2.0, 4.0, 1.0],
        ("base", "one"): [9.0, 1.5, 6.0, 1.2],
        ("base", "one", "two"): [9.0, 2.0, 8.0, 2.0],
    }
    left = {variants: iter(values) for variants, values in seconds.items()}
    monkeypatch.setattr(
        bench_module,
        "_round",
        lambda engine, pictures, variants, settings: Round(0.5, next(left[tuple(variants)])),
    )
    found = bench(checkpoint, adapters, images=2, tokens=10, rounds=3, device="cpu")
    two = found.timings[2]
    assert two.variants == ("base", "one")
    assert (two.best, two.median, two.rate_best, two.first_token) == (1.2, 1.5, pytest.approx(10 / 1.2), 0.5)
    assert two.ratios == {"base": 1.5, "one": 1.2}


def test_every_column_writes_the_same_number_of_tokens(checkpoint: Path, adapters: dict[str, Path]) -> None:
    result = CliRunner().invoke(
        app,
        ["bench", "variants", "--checkpoint", str(checkpoint), "--json", "--tokens", "6", "--rounds", "1", "--adapters"]
        + [f"{name}={folder}" for name, folder in adapters.items()],
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["variants"] for row in found["timings"]] == [["base"], ["one"], ["base", "one"], ["base", "one", "two"]]
    for row in found["timings"]:
        assert 0 < row["first_token"] < row["best"] == row["median"]
        assert row["rate_best"] == pytest.approx(6 / row["best"])
    assert found["dtype"] == "float32"
    assert found["peak_memory_mb"] is None or found["peak_memory_mb"] > 100


def test_the_table_names_what_was_measured(checkpoint: Path, adapters: dict[str, Path]) -> None:
    screen = Console(width=160, record=True)
    for part in show(bench(checkpoint, adapters, images=1, tokens=3, rounds=1, device="cpu")):
        screen.print(part)
    text = screen.export_text()
    assert "2: base, one" in text and "x base" in text and "peak memory" in text


def test_the_markdown_table_is_one(checkpoint: Path, adapters: dict[str, Path]) -> None:
    found = bench(checkpoint, adapters, images=1, tokens=3, rounds=1, device="cpu", dtype="bfloat16")
    assert found.dtype == "bfloat16"
    *table, empty, caption = to_markdown(found).split("\n")
    assert len(table) == 6  # heading, rule, four arrangements
    assert {line.count("|") for line in table} == {9}
    assert not empty and caption.startswith("1 images, 3 tokens in each column")


def test_one_column_alone_is_no_comparison(checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match="at least one adapter"):
        bench(checkpoint, {}, images=1, tokens=3, rounds=1, device="cpu")


def test_adapters_are_given_by_name(checkpoint: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "variants", "--checkpoint", str(checkpoint), "--adapters", "one"])
    assert result.exit_code == 2
    assert "expected NAME=PATH, found 'one'" in result.output


@pytest.mark.parametrize("verb", ["variants", "generate"])
def test_an_unknown_number_type_is_refused_before_anything_is_loaded(verb: str, checkpoint: Path) -> None:
    result = CliRunner().invoke(app, ["bench", verb, "--checkpoint", str(checkpoint), "--dtype", "float99"])
    assert result.exit_code == 2
    assert "--dtype: unknown 'float99'; known here: float32, bfloat16, float16" in result.output
