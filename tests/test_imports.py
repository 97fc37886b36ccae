"""Who may import whom, and what stays out of memory until it is needed."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

HEAVY = ("torch", "transformers", "peft", "pandas", "gradio")


def loaded_after(statement: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has in memory after one statement."""
    code = f"{statement}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_contracts_hold(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename="pyproject.toml", no_cache=True, is_debug_mode=False)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("module", ["cli", "settings", "files", "prompts", "schema"])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    assert loaded_after(f"import mis_lib.{module}") == set()


def test_the_app_is_built_without_the_training_stack() -> None:
    assert importlib.util.find_spec("workbench.app") is not None
    assert loaded_after("import workbench.app") & {"torch", "transformers", "peft"} == set()


def test_training_needs_no_module_that_windows_lacks() -> None:
    """Python's ``resource`` is of Unix: packages look first where they are, and so must we."""
    packages = "import sys, torch, peft, transformers.trainer"
    code = f"{packages}; sys.modules['resource'] = None; import mis_lib.train.run, benchmarks.variants"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shipped_variants_and_stored_runs_are_read_without_torch() -> None:
    assert loaded_after("import mis_lib.models.adapters, mis_lib.results.runs") & {"torch", "transformers"} == set()


def test_no_kernel_comes_from_the_hub_with_an_import() -> None:
    """bitsandbytes asks the package kernels for one, which looks into LOCAL_KERNELS first: REPOSITORY=PATH:..."""
    found = importlib.util.find_spec("bitsandbytes")
    if found is None or found.origin is None:
        pytest.skip("bitsandbytes is not installed")
    source = (Path(found.origin).parent / "backends" / "cpu" / "ops.py").read_text(encoding="utf-8")
    asked = re.findall(r'get_kernel\(\s*"([^"]+)"', source)
    run = subprocess.run(
        [sys.executable, "-c", "import mis_lib, os; print(os.environ['LOCAL_KERNELS'])"],
        env={**os.environ, "LOCAL_KERNELS": "mine/own=/here"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = dict(entry.split("=") for entry in run.stdout.strip().split(":"))
    assert paths.pop("mine/own") == "/here"
    assert {*paths} == {*asked} and not any(Path(path).exists() for path in paths.values())
