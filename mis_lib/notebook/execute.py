"""``mis notebooks``: what the notebooks are, and executing them in order into pages that can be passed on.

    OUT/NAME.ipynb    the executed copy, also of one that stopped at an error
        NAME.html     the same as one page: no network, pictures hidden until clicked

The notebooks in the checkout are never written to. Parameters are put in as papermill does it: in a new cell
after the one tagged ``parameters``, so that a copy says with which values it was made.
"""

import ast
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from rich.table import Table

import mis_lib
from mis_lib.errors import MisError, SettingsError
from mis_lib.files import check_writable, write_atomic
from mis_lib.notebook.pages import OfflineHTMLExporter
from mis_lib.results.tables import rich_table
from mis_lib.schema import Record

PARAMETERS, INJECTED = "parameters", "injected-parameters"
CELL_TIMEOUT = 1800  # seconds
SILENCED = (  # beginnings of what libraries say to programmers, which no reader of a page can do anything about
    "IProgress not found",
    "`is_gradient_checkpointing` is deprecated",
    "`gradient_checkpointing` is deprecated",
    "invalid value encountered in scalar divide",  # statsmodels, of the z value of a kappa reported as undefined
)
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "PYTHONWARNINGS": ",".join(f"ignore:{beginning}" for beginning in SILENCED),
    "TERM": "dumb",  # progress bars as plain lines: a page has no cursor to move
}
Progress = Callable[[str], None]


class Notebook(Record):
    """One notebook of the walk."""

    path: Path
    number: int
    title: str
    about: str
    """What one will learn, in a sentence: the first paragraph under the title."""
    cost: str
    """Time and memory on two cores, as its head says."""

    @property
    def name(self) -> str:
        """Such as ``01_construct_dataset``."""
        return self.path.stem


class Executed(Record):
    """What came of one notebook."""

    name: str
    notebook: Path
    page: Path
    seconds: float
    error: str = ""
    """The cell and what it raised; empty if it ran to its end."""


def notebook_folder() -> Path:
    """The folder ``notebooks`` of the checkout.

    Raises:
        MisError: the package was installed without it.
    """
    folder = Path(mis_lib.__file__).parent.parent / "notebooks"
    if not folder.is_dir():
        raise MisError(
            f"expected the notebooks at {folder}, found none; they are in a checkout, not in the installed package"
        )
    return folder


def all_notebooks(folder: Path | None = None) -> list[Notebook]:
    """The notebooks in their order."""
    found = sorted((folder or notebook_folder()).glob("[0-9][0-9]_*.ipynb"))
    return [_described(path) for path in found]


def chosen(notebooks: Sequence[Notebook], only: Sequence[int]) -> list[Notebook]:
    """Those of the numbers asked for; all where none is.

    Raises:
        SettingsError: there is no notebook of a number.
    """
    known = {notebook.number: notebook for notebook in notebooks}
    unknown = [str(number) for number in only if number not in known]
    if unknown:
        raise SettingsError(f"--only: expected one of {', '.join(map(str, known))}, found {', '.join(unknown)}")
    return [known[number] for number in known if not only or number in only]


def listing(notebooks: Sequence[Notebook]) -> Table:
    """The notebooks as a table for the terminal."""
    rows = [(notebook.name, notebook.about, notebook.cost) for notebook in notebooks]
    return rich_table(("notebook", "what you will see", "two cores"), rows, title=str(notebook_folder()), left=3)


def check_parameters(notebooks: Sequence[Notebook], parameters: Mapping[str, Any]) -> None:
    """Refuse a parameter that none of the notebooks has.

    Raises:
        SettingsError: there is one; those that are known are named.
    """
    known = {name for notebook in notebooks for name in parameters_of(nbformat.read(notebook.path, as_version=4))}
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise SettingsError(f"--set: unknown parameter {unknown[0]!r}; known: {', '.join(sorted(known))}")


def parameters_of(content: NotebookNode) -> dict[str, Any]:
    """Names and default values of a notebook's parameters cell."""
    cell = _parameters_cell(content)
    if cell is None:
        return {}
    assigned = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in assigned}


def execute_all(
    notebooks: Sequence[Notebook],
    out: Path,
    parameters: Mapping[str, Any],
    *,
    theme: str = "light",
    progress: Progress = lambda message: None,
) -> Iterator[Executed]:
    """Execute notebooks in order and write a copy and a page of each; one that fails does not stop the others.

    A parameter that a notebook does not have is passed over there (``check_parameters``).

    Args:
        notebooks: in the order wanted.
        out: folder of the copies and pages.
        parameters: values that win over those in the parameters cells.
        theme: of the pages, light or dark.
        progress: called with the current cell.
    """
    for notebook in notebooks:
        yield execute(notebook, out, parameters, theme=theme, progress=progress)


def execute(
    notebook: Notebook, out: Path, parameters: Mapping[str, Any], *, theme: str = "light", progress: Progress = print
) -> Executed:
    """Execute one notebook in a new kernel, whose working folder is the notebook's."""
    copy, page = out / f"{notebook.name}.ipynb", out / f"{notebook.name}.html"
    check_writable(copy)
    content = _with_parameters(nbformat.read(notebook.path, as_version=4), parameters)
    begun, error = time.perf_counter(), ""
    count = len(content.cells)
    client = NotebookClient(
        content,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(notebook.path.parent)}},
        on_cell_start=lambda cell, cell_index: progress(f"{notebook.name}: cell {cell_index + 1} of {count}"),
    )
    try:
        client.execute(env=os.environ | QUIET)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as stop:
        error = _told(content, stop)
    write_atomic(copy, nbformat.writes(content).encode())
    write_atomic(page, as_page(content, notebook.title, theme=theme).encode())
    return Executed(name=notebook.name, notebook=copy, page=page, seconds=time.perf_counter() - begun, error=error)


def as_page(content: NotebookNode, title: str, *, theme: str = "light") -> str:
    """An executed notebook as one page."""
    content.metadata["title"] = title
    page, _ = OfflineHTMLExporter(theme=theme).from_notebook_node(content)
    return page


def _with_parameters(content: NotebookNode, parameters: Mapping[str, Any]) -> NotebookNode:
    """The notebook with those of the parameters that it has, in a cell after its own."""
    mine = {name: value for name, value in parameters.items() if name in parameters_of(content)}
    cell = _parameters_cell(content)
    if not mine or cell is None:
        return content
    lines = ["# Parameters of this run", *(f"{name} = {value!r}" for name, value in mine.items())]
    injected = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": [INJECTED]})
    content.cells.insert(content.cells.index(cell) + 1, injected)
    return content


def _parameters_cell(content: NotebookNode) -> NotebookNode | None:
    return next((cell for cell in content.cells if PARAMETERS in cell.metadata.get("tags", [])), None)


def _described(path: Path) -> Notebook:
    head = nbformat.read(path, as_version=4).cells[0].source
    title = re.search(r"^# (.+)$", head, re.MULTILINE)
    paragraphs = [part for part in head.split("\n\n") if not part.startswith("#")]
    cost = re.search(r"\*\*Cost\.\*\* (.+)", head)
    if title is None or not paragraphs or cost is None:
        raise MisError(
            f"{path}: expected a first cell with '# TITLE', a paragraph and a line '**Cost.** ...', found {head[:80]!r}"
        )
    about = paragraphs[0].replace("**What you will see.** ", "").replace("\n", " ")
    return Notebook(path=path, number=int(path.name[:2]), title=title[1], about=about, cost=cost[1])


def _told(content: NotebookNode, stop: Exception) -> str:
    """Which cell it was and what it said, in two lines."""
    for number, cell in enumerate(content.cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {number}: {output.ename}: {output.evalue}"
    return f"{type(stop).__name__}: {str(stop).strip().splitlines()[-1]}"
