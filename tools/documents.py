"""``mis docs``: the tables of documents that follow from the code, written between their marks.

So they cannot say something else than the code does.

    <!-- table: verbs -->
    ...                      made anew by ``mis docs``; ``mis docs --check`` only tells whether it would change
    <!-- /table: verbs -->

Marks with other names are left alone: tables of measured times are made by the command that measures. The results on
MIS-Mini are made of the counts that ``tools.outcomes`` keeps.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mis_lib.data.benchmarks import fetch_instructions
from mis_lib.errors import DataError
from mis_lib.files import write_atomic
from mis_lib.notebook.execute import all_notebooks
from mis_lib.recipes.judge import KINDS
from mis_lib.results.metrics import METRICS
from mis_lib.results.published import select
from mis_lib.results.tables import rate_cell
from tools.outcomes import rate_table, stored

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- /table: (?P=name) -->)", re.DOTALL)
TABS: Mapping[str, str] = {
    "compare": "several variants answer one question about one to six images, side by side; reasoning in colours, "
    "benign twin, blur until clicked",
    "annotate": "decide on responses with the keyboard, worst first; causes, corrections, preferences, undo, "
    "agreement, training data from failures",
    "results": "leaderboard with intervals, safety against over-refusal, change by category, flips, "
    "judges side by side",
    "data": "data sets with images and twins, their preflight, one item made live through the construction stages",
    "train": "a form and the command it comes to; runs watched by their logs",
}
"""What each tab is for, by its name in addresses (``workbench.links.Tab``; a test holds the two together)."""
JUDGES: Mapping[str, tuple[str, str]] = {
    "rule": ("knows the truth of MIS-Mini items: names, risks, refusals, help", "nothing"),
    "words": ("an answer that opens like a refusal is safe; the naive baseline, never alone", "nothing"),
    "rubric": (
        "a model sees images, question and answer and grades by MIS's rubric",
        "a server, or a local checkpoint",
    ),
    "guard": (
        "Llama Guard and its kin, on question and answer; some see the images",
        "a server, or a local checkpoint",
    ),
    "official": (
        "a model sees the response alone and gives the class of MSSBench's, MM-SafetyBench's or MOSSBench's authors",
        "a server, or a local checkpoint",
    ),
    "precondition": (
        "chains of yes-no questions of a constitution, each asked without images, too",
        "a model that gives probabilities",
    ),
    "people": ("the labels of annotators; what nobody labelled is unscored", "labels on the answers of the run"),
    "panel": ("several judges as one: the majority of their outcomes, or the mean of their scores", "the other judges"),
    "routed": ("a cheap judge first, an expensive one where a router says so", "two judges and mis judge --route"),
}
"""What each kind of judge does and needs (``recipes.judge.KINDS``)."""


def documents(root: Path = ROOT) -> list[Path]:
    """README and every page of ``docs``."""
    return [root / "README.md", *sorted(root.glob("docs/**/*.md"))]


def fill(text: str, program: object) -> str:
    """A document with the tables that are known here made anew.

    Args:
        text: the document.
        program: the command ``mis`` with its verbs, as Typer makes it.

    Raises:
        DataError: a mark is opened and not closed.
    """
    opened = re.findall(r"<!-- table: ([\w-]+) -->", text)
    closed = re.findall(r"<!-- /table: ([\w-]+) -->", text)
    if opened != closed:
        raise DataError(f"expected every '<!-- table: NAME -->' to be closed in turn, found {opened} and {closed}")
    return MARKED.sub(lambda found: _filled(found, program), text)


def update(path: Path, program: object, *, check: bool) -> str:
    """Write the tables of a document anew and return what changed, as a diff; with ``check`` nothing is written.

    Raises:
        DataError: there is no such file, or its marks do not fit.
    """
    try:
        before = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: expected a Markdown file ({error.strerror})") from error
    after = fill(before, program)
    if after != before and not check:
        write_atomic(path, after.encode())
    return "".join(
        difflib.unified_diff(before.splitlines(True), after.splitlines(True), "as it is", "as the code has it")
    )


def notebooks(program: object) -> str:
    """The notebooks in order, with links from ``docs/tutorials``."""
    rows = [
        (f"[{one.title}](../../notebooks/{one.path.name})", one.about, one.cost.partition(" on two cores")[0])
        for one in all_notebooks()
    ]
    return markdown(("notebook", "what you will see", "two cores"), rows)


def verbs(program: object) -> str:
    """Every verb of ``mis`` with what its help says first."""
    rows = [
        (f"`mis {name} {part}`" if part else f"`mis {name}`", text)
        for name, command in getattr(program, "commands", {}).items()
        for part, text in _parts(command)
    ]
    return markdown(("command", "does"), rows)


def tabs(program: object) -> str:
    """The tabs of the app in their order."""
    return markdown(("tab", "is for"), [(name.capitalize(), text) for name, text in TABS.items()])


def sets(program: object) -> str:
    """The published sets that are read, with their splits and licences."""
    rows = [
        (
            one.title,
            ", ".join(f"{split} {n:,}" if n else split for split, n in one.splits.items()),
            one.licence,
            f"`mis check hub:{one.name}`",
        )
        for one in fetch_instructions()
    ]
    return markdown(("data set", "splits", "licence", "how to fetch it"), rows)


def judges(program: object) -> str:
    """The kinds of judges."""
    return markdown(("judge", "rules by", "needs"), [(f"`{kind}`", *JUDGES[kind]) for kind in KINDS])


def metrics(program: object) -> str:
    """The rates of every table and which end of the scale is good."""
    return markdown(("rate", "says", "good"), [(one.label, one.description, one.best) for one in METRICS.values()])


def reference(program: object) -> str:
    """The paper's own rates of the two models that it tunes most, as its leaderboard prints them."""
    found = [
        row
        for row in select(benchmark="MIS")
        if row.table == "leaderboard" and row.model in REFERENCE_MODELS and row.method in REFERENCE_METHODS
    ]
    columns = [(split, metric) for split in ("easy", "hard", "real") for metric in ("asr", "rsr", "rr")]
    lines: dict[str, dict[tuple[str, str], str]] = {}
    for row in found:
        cell = f"{row.value:.{row.decimals}f}" + (" (!)" if row.flag else "")
        lines.setdefault(row.label, {})[row.split, row.metric] = cell
    headings = ("published", *(f"{split} {metric.upper()}" for split, metric in columns))
    return markdown(
        headings, [(label, *(cells.get(column, "-") for column in columns)) for label, cells in lines.items()]
    )


REFERENCE_MODELS = ("InternVL2.5-8B", "Qwen2-VL-7B-Instruct")
REFERENCE_METHODS = ("base", "MIRage")
IN_README = ("hard", "unseen"), ("asr", "rsr", "sound", "over_refusal", "helped", "pair")
ALL_COLUMNS = ("asr", "rsr", "sound", "rr", "over_refusal", "helped", "pair", "named")


def results(program: object) -> str:
    """README's part of the shipped variants' rates: the splits of seen and of unseen kinds."""
    return _rates(*IN_README)


def all_results(program: object) -> str:
    """The rates of the shipped variants on every split of MIS-Mini."""
    return _rates(None, ALL_COLUMNS)


def _rates(splits: Collection[str] | None, columns: Sequence[str]) -> str:
    """Rates from the counts in the repository."""
    cells = [
        [
            row.group,
            row.variant,
            *(rate_cell(row.rates[name]) if name in row.rates else "-" for name in columns),
            f"{row.rates['asr'].n if 'asr' in row.rates else 0} + {row.rates['over_refusal'].n}",
        ]
        for row in rate_table(stored())
        if splits is None or row.group in splits
    ]
    return markdown(("split", "variant", *(METRICS[name].heading for name in columns), "n, harmful + benign"), cells)


TABLES: Mapping[str, Callable[[object], str]] = {
    "notebooks": notebooks,
    "verbs": verbs,
    "tabs": tabs,
    "data-sets": sets,
    "judges": judges,
    "metrics": metrics,
    "published": reference,
    "mis-mini": results,
    "mis-mini-all": all_results,
}


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; pipes in texts are escaped, line breaks become spaces."""
    cells = [headings, ["---"] * len(headings), *rows]
    lines = ["| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join(lines) + "\n"


def _filled(found: re.Match[str], program: object) -> str:
    table = TABLES.get(found["name"])
    return found[0] if table is None else f"{found[1]}{table(program)}{found[4]}"


def _parts(command: object) -> list[tuple[str, str]]:
    """A verb with its own help, or each verb of a group with its."""
    inner = getattr(command, "commands", None)
    if inner:
        return [(name, _first_sentence(one.help or "")) for name, one in inner.items()]
    return [("", _first_sentence(getattr(command, "help", "") or ""))]


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")
