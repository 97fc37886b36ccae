"""``mis check``: may training start on this data? A data set, a mixture, or what there is to fetch.

mis check DATA [--model M] [--against TEST] [--remove]     every fault with file, row and fix
mis check hub:                                             published sets and how to fetch them
"""

from pathlib import Path

from rich.text import Text

from mis_lib import console
from mis_lib.commands.check_page import page
from mis_lib.commands.check_tables import report_tables
from mis_lib.data.benchmarks import fetch_instructions
from mis_lib.data.checked import is_json, published_loader, read_all
from mis_lib.data.duplicates import TAKE_OUT, Rows, count, find, findings, rows_of, with_twins, write_without
from mis_lib.data.findings import Finding
from mis_lib.data.folders import data_files
from mis_lib.data.preflight import PreflightSettings, preflight
from mis_lib.data.report import Report
from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import write_atomic

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
    as_json: bool = False,
    shown: int = 20,
) -> bool:
    """Check a data set and print the report; returns whether training may start.

    Args:
        path: a data file, a folder of them, or a folder in a published layout.
        settings: what to check for.
        against: test data that no row may resemble.
        duplicates: look for near-duplicates within the set too.
        remove: write a copy of each file without the rows found by ``against`` or ``duplicates``.
        html: write the report as a page too.
        as_json: print JSON for programs.
        shown: how many findings and longest rows the table lists.

    Raises:
        MisError: there is nothing to check, or the model is unknown.
    """
    if remove and against is None and not duplicates:
        raise SettingsError("--remove: expected --against TEST or --duplicates, which say what to take out")
    if remove and (found := _not_removable(path)):
        raise SettingsError(
            f"--remove: expected JSON or JSON Lines, which can be written without a row, found {found}; export it "
            f"(mis export --input {path} --format jsonl --output DIR) and check the file that this writes"
        )
    report = preflight(path, _resolved(settings), console.say)
    if against is not None or duplicates:
        report = _compared(report, path, settings, against, duplicates=duplicates, remove=remove)
    if settings.images is not None and report.ready:
        console.say(
            f"The images lie in {settings.images}, and mis train and mis generate look for them beside the rows. To bring both together:"
        )
        console.offer(f"mis export --input {path} --image_folder {settings.images} --format jsonl --output DIR")
    if html is not None:
        write_atomic(html, page(report).encode())
        console.say(f"report: {html}")
    if as_json:
        console.print_json({"ready": report.ready, **report.model_dump(mode="json")})
    else:
        console.out.print(report_tables(report, shown))
    return report.ready


def hub(name: str = "", *, as_json: bool = False) -> None:
    """Tell how to fetch the published sets, or the one of that name; nothing is downloaded.

    Raises:
        DataError: there is no set of that name.
    """
    known = fetch_instructions()
    wanted = [instruction for instruction in known if name in ("", instruction.name)]
    if not wanted:
        raise DataError(f"{HUB}{name}: unknown set; known: {', '.join(instruction.name for instruction in known)}")
    if as_json:
        console.print_json([instruction.model_dump(mode="json") for instruction in wanted])
        return
    for instruction in wanted:
        splits = ", ".join(f"{split} {rows:,}" if rows else split for split, rows in instruction.splits.items())
        head = Text.assemble((instruction.title, "bold"), f"  ({instruction.name}; {splits}; {instruction.licence})")
        console.out.print(
            head, Text(f"  from {instruction.source}"), Text(f"  {instruction.fetch}\n"), sep="\n", soft_wrap=True
        )


def _resolved(settings: PreflightSettings) -> PreflightSettings:
    """``--model mini`` means the assembled checkpoint, if it is there: it is counted exactly then."""
    if settings.model != "mini":
        return settings
    from mis_lib.models.mini.assemble import mini_folder

    try:
        folder = mini_folder()
    except ModelError:  # its weights are not there: what is published of it will do
        return settings
    return settings.model_copy(update={"model": str(folder)}) if (folder / "config.json").is_file() else settings


def _compared(
    report: Report, path: Path, settings: PreflightSettings, against: Path | None, *, duplicates: bool, remove: bool
) -> Report:
    """The report with near-duplicates; what is to be removed is left out of copies."""
    checked = read_all(path, settings.images)
    rows = rows_of(checked, console.say)
    found: list[Finding] = []
    fix = EXPORT_FIRST if _not_removable(path) else TAKE_OUT
    if against is not None:
        found += _matched("a test row", rows, rows_of(read_all(against), console.say), fix)
    if duplicates:
        found += _matched("an earlier row", rows, None, fix)
    if remove:
        taken = with_twins(rows, {(finding.file, finding.row) for finding in found})
        for file in checked:
            if numbers := taken.get(file.raw.path.name):
                target = write_without(file.raw, numbers)
                console.say(f"{target}: {len(file.raw.rows) - len(numbers):,} of {len(file.raw.rows):,} rows")
    return report.model_copy(update={"findings": [*report.findings, *found]})


def _not_removable(path: Path) -> str:
    """What it is that cannot be written again without some of its rows; empty where all files can."""
    loader = published_loader(path)
    if loader is not None:
        return f"{loader.title} as it is published"
    return next((file.name for file in data_files(path) if not is_json(file)), "")


def _matched(what: str, rows: Rows, others: Rows | None, fix: str) -> list[Finding]:
    matches = list(find(rows, others))
    told = ", ".join(f"{overlap} {number:,}" for overlap, number in count(matches).items())
    console.say(f"Rows that resemble {what}: {told}")
    return list(findings(matches, against_test=others is not None, fix=fix))
