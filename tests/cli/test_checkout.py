"""Verbs of folders that are next to the package: found from any working folder, one message where missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mis_lib.cli import checkout
from mis_lib.cli.main import app

ROOT = Path(__file__).parent.parent.parent
VERBS = [
    ["build", "--train", "ship", "folder", "name"],
    ["bench", "variants"],
    ["bench", "generate"],
    ["bench", "judge"],
    ["bench", "train"],
    ["docs"],
]


@pytest.mark.parametrize("words", VERBS, ids=lambda words: " ".join(words[:2]))
def test_a_wheel_has_one_message_and_status_2(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "Run it from a checkout (git clone of the repository" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["build", "--train", "ship", "--train_help"], "usage: ship.py"),
        (["bench", "judge", "--items", "2", "--delay", "0", "--json"], '"most_at_once"'),
    ],
)
@pytest.mark.slow
def test_they_are_found_from_another_folder(words: list[str], found: str, tmp_path: Path) -> None:
    """As with an editable installation, which finds the package alone: the finder below knows no other folder."""
    for name in ("benchmarks", "research", "tools"):  # other folders of the same names
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('mis_lib', {str(ROOT / 'mis_lib' / '__init__.py')!r})\n"
        "module = sys.modules['mis_lib'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "from mis_lib.cli.main import app\n"
        "app()"
    )
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False, env=bare
    )
    assert found in run.stdout, run.stderr
