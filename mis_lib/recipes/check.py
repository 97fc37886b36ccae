"""``mis check``: may training start on this data? A data set, a mixture, or the published sets to fetch.

mis check DATA [--model M] [--against TEST] [--remove]     every fault with file, row and fix
mis check hub:                                             published sets and how to fetch them
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment

from mis_lib.data.benchmarks import Instruction, fetch_instructions
from mis_lib.data.duplicates import TAKE_OUT, Rows, count, find, findings, rows_of, with_twins, write_without
from mis_lib.data.findings import Finding, count_by_kind
from mis_lib.data.mixing import Composition, Overlaps, compose, composition, overlaps, write
from mis_lib.data.mixtures import BESIDE, GENERAL, SAFETY, Recipe, SampleSet, configured
from mis_lib.data.preflight import PreflightReport, PreflightSettings, is_json, preflight, published_loader, read_all
from mis_lib.data.sources import TEST_SPLITS, Source, data_files, find_source, load, split_name
from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import write_atomic
from mis_lib.recipes.progress import say

GB = 1e9
HUB = "hub:"
EXPORT_FIRST = "export the set (mis export --format jsonl); --remove then takes it out of that file"


def check(
    path: Path,
    settings: PreflightSettings,
    *,
    against: Path | None = None,
    duplicates: bool = False,
    remove: bool = False,
    html: Path | None = None,
) -> PreflightReport:
    """Check a data set.

    Args:
        path: a data file, a folder of them, or a folder in a published layout.
        settings: what to check for.
        against: test data that no row may resemble.
        duplicates: look for near-duplicates within the set too.
        remove: write a copy of each file without the rows found by ``against`` or ``duplicates``.
        html: write the report as a page too.

    Raises:
        MisError: nothing to check was found, or the model is unknown.
    """
    if remove and against is None and not duplicates:
        raise SettingsError("--remove: expected --against TEST or --duplicates, which say what to take out")
    if remove and (found := _not_removable(path)):
        raise SettingsError(
            f"--remove: expected JSON or JSON Lines, which can be written without a row, found {found}; export it "
            f"(mis export --input {path} --format jsonl --output DIR) and check the file that this writes"
        )
    report = preflight(path, _resolved(settings), say)
    if against is not None or duplicates:
        report = _compared(report, path, settings, against, duplicates=duplicates, remove=remove)
    if html is not None:
        write_atomic(html, page(report).encode())
        say(f"report: {html}")
    return report


def page(report: PreflightReport, *, longest: int = 20) -> str:
    """The report as one HTML page: verdict, files, findings by kind and one by one, the longest rows, memory."""
    template = files("mis_lib.recipes").joinpath("check.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    memory = report.memory
    return environment.from_string(template).render(
        report=report,
        files=[(file.name, file.rows, ", ".join(file.forms)) for file in report.files],
        kinds=[(kind.value, kind.level.value, number) for kind, number in count_by_kind(report.findings).items()],
        findings=[
            (one.level, one.kind, one.file, one.row or "", one.id, one.field, one.message, one.rows, one.fix)
            for one in report.findings
        ],
        longest=[
            (row.file, row.row, row.id, row.images, row.image_tokens, row.text_tokens, row.total)
            for row in (report.tokens.worst(longest) if report.tokens is not None else ())
        ],
        memory=memory
        and [
            [
                f"{part / GB:.1f}"
                for part in (memory.weights + memory.gathered, memory.state, memory.activations, memory.total)
            ]
        ],
    )


def hub(name: str = "") -> list[Instruction]:
    """How to fetch the published sets, or the one of that name; nothing is downloaded.

    Raises:
        DataError: the set is unknown.
    """
    known = fetch_instructions()
    wanted = [instruction for instruction in known if name in ("", instruction.name)]
    if not wanted:
        raise DataError(f"{HUB}{name}: unknown set; known: {', '.join(instruction.name for instruction in known)}")
    return wanted


def _resolved(settings: PreflightSettings) -> PreflightSettings:
    """``--model mini`` means the assembled checkpoint, if it exists: its memory is counted exactly then."""
    if settings.model != "mini":
        return settings
    from mis_lib.models.mini.assemble import mini_folder

    try:
        folder = mini_folder()
    except ModelError:  # its weights are missing: the published figures are used
        return settings
    return settings.model_copy(update={"model": str(folder)}) if (folder / "config.json").is_file() else settings


def _compared(
    report: PreflightReport,
    path: Path,
    settings: PreflightSettings,
    against: Path | None,
    *,
    duplicates: bool,
    remove: bool,
) -> PreflightReport:
    """The report with near-duplicates; what is to be removed is left out of copies."""
    checked = read_all(path, settings.images)
    rows = rows_of(checked, say)
    found: list[Finding] = []
    fix = EXPORT_FIRST if _not_removable(path) else TAKE_OUT
    if against is not None:
        found += _matched("a test row", rows, rows_of(read_all(against), say), fix)
    if duplicates:
        found += _matched("an earlier row", rows, None, fix)
    if remove:
        taken = with_twins(rows, {(finding.file, finding.row) for finding in found})
        for file in checked:
            if numbers := taken.get(file.path.name):
                target = write_without(file, numbers)
                say(f"{target}: {len(file.parsed) - len(numbers):,} of {len(file.parsed):,} rows")
    return report.model_copy(update={"findings": [*report.findings, *found]})


def _not_removable(path: Path) -> str:
    """The file or set that cannot be rewritten without some rows; empty if all can."""
    loader = published_loader(path)
    if loader is not None:
        return f"{loader.title} as it is published"
    return next((file.name for file in data_files(path) if not is_json(file)), "")


def _matched(what: str, rows: Rows, others: Rows | None, fix: str) -> list[Finding]:
    matches = list(find(rows, others))
    counts = ", ".join(f"{overlap} {number:,}" for overlap, number in count(matches).items())
    say(f"Rows that resemble {what}: {counts}")
    return list(findings(matches, against_test=others is not None, fix=fix))


class Mixed(NamedTuple):
    """A mixture, the composition of its arms, and its overlap with the test splits."""

    recipe: Recipe
    composition: list[Composition]
    overlaps: list[Overlaps]

    @property
    def leaks(self) -> bool:
        """Whether it contains a test row."""
        return any(overlap.leaks for overlap in self.overlaps)

    def record(self) -> dict[str, Any]:
        """All of it for JSON."""
        lists = {"composition": self.composition, "overlaps": self.overlaps}
        records = {name: [one.model_dump(mode="json") for one in found] for name, found in lists.items()}
        return {"recipe": self.recipe.model_dump(mode="json"), **records}


def mixture(
    path: Path,
    name: str,
    options: Sequence[str],
    *,
    general: Path | None = None,
    against: Path | None = None,
    output: Path | None = None,
) -> Mixed:
    """Compose a mixture; find its composition and its overlap with the test splits.

    Args:
        path: the safety data; of a folder with several splits, ``train``.
        name: the recipe.
        options: ``key=value`` for the recipe.
        general: the general data [default: ``general`` in the same folder].
        against: test data [default: the test splits in the same folder].
        output: folder to write the mixture to.

    Raises:
        MisError: the recipe is unknown or the data does not suffice for it.
    """
    recipe = configured(name, options)
    arms = compose(recipe, _sources(recipe, path, general))
    made = composition(arms)
    tests = _tests(path if against is None else against, every=against is not None)
    shared = list(overlaps(arms, tests, say))
    if output is not None:
        write(recipe, arms, output)
        say(f"mixture: {output}")
    return Mixed(recipe, made, shared)


def _sources(recipe: Recipe, path: Path, general: Path | None) -> dict[str, SampleSet]:
    """The sets that a recipe needs."""
    needed = {part.source for arm in recipe.arms for part in arm.parts}
    folder = path.parent if path.is_file() else path
    places: dict[str, tuple[Path, str | None]] = {role: (folder, split) for role, split in BESIDE.items()}
    places[SAFETY] = path, "train"
    if general is not None:
        places[GENERAL] = general, None
    sources = {}
    for role in sorted(needed):
        place, split = places[role]
        say(f"Reading {role} data")
        sources[role] = _read(find_source(place, split=split if place.is_dir() else None))
    return sources


def _tests(path: Path, *, every: bool) -> dict[str, SampleSet]:
    """The test splits at a path or next to it; ``every``: all splits but train, as the path was named as test data."""
    if every and path.is_file():
        return {path.name: _read(find_source(path))}
    folder = path if path.is_dir() else path.parent
    try:
        whole = find_source(folder)
    except DataError:
        if every:
            raise
        return {}  # training data without test splits
    there = whole.splits if whole.loader is not None else tuple(dict.fromkeys(map(split_name, whole.files)))
    splits = [split for split in there if split in TEST_SPLITS or (every and split != "train")]
    return {split: _read(find_source(folder, split=split)) for split in splits}


def _read(source: Source) -> SampleSet:
    return SampleSet(load(source), source.folder)
