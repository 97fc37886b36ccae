"""What README says about the code is made from the code.

Commands that documents show are held to the verbs and flags that exist.

pytest tests/test_documents.py
"""

import importlib.resources
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from support.annotated import answered_run
from support.fakes import mini_data

from mis_lib.cli.main import app
from mis_lib.cli.model import MODULES, Stage
from mis_lib.construct.mis_mini import plan
from mis_lib.errors import DataError
from mis_lib.models.adapters import WEIGHTS
from mis_lib.models.mini.assemble import ADAPTERS, mini_folder
from mis_lib.recipes.judge import KINDS
from tools import documents, outcomes, prose
from workbench.links import Tab

ROOT = Path(__file__).parent.parent
MIS = typer.main.get_command(app)
PAGES = {**prose.pages(), "mis --help": prose.help_text(MIS)}


@pytest.mark.parametrize("path", documents.documents(), ids=lambda path: path.name)
def test_the_tables_in_documents_are_those_of_the_code(path: Path) -> None:
    assert documents.update(path, MIS, check=True) == "", "run mis docs"


def test_every_tab_and_every_judge_has_its_line() -> None:
    assert list(documents.TABS) == [tab.value for tab in Tab]
    assert set(documents.JUDGES) == set(KINDS)


def test_every_verb_has_its_line_and_says_something() -> None:
    lines = documents.verbs(MIS).splitlines()[2:]
    assert {"`mis doctor`", "`mis notebooks`", "`mis bench variants`"} <= {line.split("|")[1].strip() for line in lines}
    assert all(len(line.split("|")[2].split()) >= 3 for line in lines)


def test_only_known_marks_are_filled() -> None:
    text = "a\n<!-- table: judges -->\nold\n<!-- /table: judges -->\n"
    text += "b\n<!-- table: speed -->\n| 1 |\n<!-- /table: speed -->\n"
    filled = documents.fill(text, MIS)
    assert documents.judges(MIS) in filled and "old" not in filled
    assert "<!-- table: speed -->\n| 1 |\n<!-- /table: speed -->" in filled
    assert documents.fill(filled, MIS) == filled


@pytest.mark.parametrize(
    "text", ["<!-- table: judges -->\n", "<!-- /table: judges -->", "<!-- table: a -->\n<!-- /table: b -->"]
)
def test_marks_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="closed in turn"):
        documents.fill(text, MIS)


def test_a_check_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("<!-- table: tabs -->\nold\n<!-- /table: tabs -->\n")
    assert "-old" in documents.update(path, MIS, check=True)
    assert "old" in path.read_text()
    documents.update(path, MIS, check=False)
    assert documents.update(path, MIS, check=True) == ""


def test_cells_keep_to_one_line() -> None:
    assert documents.markdown(("a",), [("x | y\nz",)]).splitlines()[-1] == "| x \\| y z |"


SHOWN = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("notebooks/*.ipynb")),
    *sorted(ROOT.glob("configs/**/*.yaml")),
]


def shown_commands(path: Path) -> Iterator[list[str]]:
    """The words of each ``mis ...`` that a document shows as code, comments cut off."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    lines = text.splitlines() if path.suffix == ".yaml" else re.findall(r"`([^`\n]+)`", text)
    lines += [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    for line in lines:
        found = re.search(r"(?:^|-m |# |`)(?:mis_lib\.cli|mis) ([a-z].*)", line.strip())
        if found:
            yield re.split(r"\s+#\s|\s{3,}|;", found[1])[0].split()


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_commands_that_are_shown_exist(path: Path) -> None:
    for words in shown_commands(path):
        command, rest = MIS, list(words)
        while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"{path.name}: mis {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
        if words[0] == "build" and "--train" in rest:  # what follows the stage goes to it
            module = MODULES[Stage(rest[rest.index("--train") + 1])]
            source = Path(str(importlib.resources.files("research.mini"))) / f"{module}.py"
            known |= set(re.findall(r'add_argument\(\s*"(--\w+)"', source.read_text(encoding="utf-8")))
        wanted = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert wanted <= known or "app" in words, f"{path.name}: mis {' '.join(words)}: {wanted - known}"
        taken = [option.nargs for option in command.params if option.param_type_name == "argument"]
        given = list(itertools.takewhile(lambda word: not word.startswith(("-", "...")), rest))
        assert -1 in taken or len(given) <= sum(taken), f"{path.name}: mis {' '.join(words)}: {given} has no place"


def test_shown_commands_are_found() -> None:
    found = [words for path in SHOWN for words in shown_commands(path)]
    assert len(found) > 80
    assert ["train", "--config", "configs/mini-mirage.yaml"] in found


ROOMS = "mis_lib|workbench|research|benchmarks|tools|examples"
FOLDERS = ("mis_lib", "docs", "notebooks", "configs", "research", "tests/contracts")
NAMED = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(
        path
        for folder in FOLDERS
        for ending in ("md", "ipynb", "yaml")
        for path in (ROOT / folder).rglob(f"*.{ending}")
    ),
]
OLD_NAMES = "## Old and new names"  # the heading in CONTRIBUTING whose table names modules that are gone


def named_places(text: str) -> Iterator[str]:
    """The paths ``mis_lib/a/b`` and the names ``mis_lib.a.b`` in a text, without the address of a page around them."""
    start, path, dotted = (
        rf"(?:(?<=\.\./)|(?<![\w./-]))(?:{ROOMS})",
        r"(?:/[\w-]+(?:\.[\w-]+)*)+",
        r"(?:\.[A-Za-z]\w*)+",
    )
    yield from re.findall(f"{start}(?:{path}|{dotted})", text)


def is_there(place: str) -> bool:
    """Whether a path exists; of a dotted name, whether its module does and the module has a line with what follows."""
    if "/" in place:
        return (ROOT / place).exists()
    at, names = ROOT, place.split(".")
    for number, name in enumerate(names):
        module = at / f"{name}.py"
        if module.is_file():
            source, rest = module, names[number + 1 :]
            break
        if not (at / name).is_dir():
            source, rest = at / "__init__.py", names[number:]
            break
        at = at / name
    else:
        return (at / "__init__.py").is_file()
    return not rest or (source.is_file() and re.search(rf"\b{rest[0]}\b", source.read_text("utf-8")) is not None)


@pytest.mark.parametrize("path", NAMED, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_paths_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8").partition(OLD_NAMES)[0]
    gone = sorted({place for place in named_places(text) if not is_there(place)})
    assert not gone, f"{path.relative_to(ROOT)} names what does not exist: {', '.join(gone)}"


def test_a_place_that_is_gone_is_noticed() -> None:
    text = "`mis_lib/construct/elements.py`, `mis_lib.construct.elements.load_elements`, mis_lib.results."
    assert all(map(is_there, named_places(text)))
    text = "`mis_lib/construct/kinds.py`, `mis_lib.analysis.cot`, `mis_lib.construct.elements.nothing_such`"
    assert [place for place in named_places(text) if not is_there(place)] == text.replace("`", "").split(", ")


def test_the_results_are_those_of_the_shipped_weights_and_data() -> None:
    """Counts name what they were counted on, so other weights or data make them wrong here."""
    kept = outcomes.stored()
    shipped = outcomes.of_shipped(list(kept.weights))
    assert {name: getattr(kept, name) for name in shipped} == shipped, "mis report, then python -m tools.outcomes"
    assert {row.split for row in kept.rows} >= {"easy", "hard", "unseen", "real", "everyday"}
    assert set(kept.weights) == {"mini", *(path.name for path in ADAPTERS.iterdir() if (path / WEIGHTS).is_file())}


def test_runs_of_other_weights_or_data_are_not_counted(tmp_path: Path) -> None:
    run = answered_run(tmp_path / "runs", mini_data(tmp_path / "data"))
    with pytest.raises(DataError, match="expected the shipped weights, found others of mirage; ask again"):
        outcomes.count([run.folder])
    alone = answered_run(tmp_path / "alone", mini_data(tmp_path / "data"), variants=("mini",))
    config = (alone.folder / "config.yaml").read_text().replace("checkpoint: m\n", f"checkpoint: {mini_folder()}\n")
    (alone.folder / "config.yaml").write_text(config)
    with pytest.raises(DataError, match="expected MIS-Mini as it is now"):
        outcomes.count([alone.folder])


def test_every_rate_has_its_over_refusal_and_nothing_is_lost() -> None:
    sizes = {name: len(samples) for name, samples in plan(general_items=0).files.items()}
    for row in outcomes.stored().rows:
        harmful, benign = (
            sum(row.counts[name][0] for name in names if name in row.counts)
            for names in (("asr", "rsr", "rr", "hr"), ("over_refusal", "warned", "helped", "off_topic"))
        )
        unscored = sum(row.counts[name][2] for name in ("asr", "over_refusal") if name in row.counts)
        assert harmful + benign + unscored == sizes[row.split], row
        assert "asr" not in row.counts or "over_refusal" in row.counts


# --- sentences and words ---


@pytest.mark.parametrize(("name", "text"), PAGES.items(), ids=PAGES.keys())
def test_long_sentences_and_private_words_do_not_grow(name: str, text: str) -> None:
    """A document that the file does not name has none. Where one has fewer by now, lower its count."""
    allowed = json.loads((ROOT / "tests/data/prose.json").read_text())
    found = prose.read(text)
    counted = [len(found.long), len(found.private)]
    limits = allowed.get(name, [0, 0])
    assert counted[0] <= limits[0], found.long
    assert counted[1] <= limits[1], sorted(found.private)


def test_long_sentences_and_private_words_are_found() -> None:
    long = " ".join(["Words"] * 31)
    text = f"# No sentence here\nShort. {long}. It stands here, `told`.\n\n```\n{long}\n```\n| {long} |\n"
    found = prose.read(text)
    assert (found.sentences, found.long, found.private) == (2, [f"{long}."], ["stands"])
