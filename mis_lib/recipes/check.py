"""``mis check``: may training start on this data? A data set, a mixture, or what there is to fetch.

mis check DATA [--model M] [--against TEST] [--remove]     every fault with file, row and fix
mis check hub:                                             published sets and how to fetch them
"""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mis_lib import console
from mis_lib.data.benchmarks import fetch_instructions
from mis_lib.data.duplicates import TAKE_OUT, Overlap, Rows, count, find, findings, rows_of, with_twins, write_without
from mis_lib.data.findings import Finding, Level, count_by_kind
from mis_lib.data.mixing import Composition, Overlaps, compose, composition, overlaps, write
from mis_lib.data.mixtures import BESIDE, GENERAL, SAFETY, Recipe, SampleSet, configured
from mis_lib.data.preflight import PreflightSettings, Report, is_json, preflight, published_loader, read_all
from mis_lib.data.sources import TEST_SPLITS, Source, data_files, find_source, load, split_name
from mis_lib.data.tokens import Training
from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import write_atomic

# ---------- How ``mis check`` shows reports and mixtures in a terminal. What data files hold is shown as it stands, never read as markup.

GB = 1e9
COLOURS = {Level.ERROR: "red", Level.WARNING: "yellow"}
TO_THE_LEFT = ("arm", "test", "file", "id", "kind", "level", "labels")
LONGEST = 5


def report_tables(report: Report, shown: int) -> Group:
    """The report as tables: kinds of findings, the findings themselves, the longest rows, the verdict."""
    return Group(*_head(report), *_findings(report, shown), *_tokens(report), _verdict(report))


def mixture_tables(recipe: Recipe, made: Sequence[Composition], shared: Sequence[Overlaps]) -> Group:
    """A mixture as tables: composition by arm, overlap by test split."""
    parts = _table(
        f"{recipe.name}: {recipe.about}",
        "arm",
        "rows",
        "harmful",
        "benign",
        "general",
        "share",
        "no end token",
        "labels",
    )
    for arm in made:
        numbers = (arm.rows, arm.harmful, arm.benign, arm.general)
        labels = ", ".join(f"{number:,} {label}" for label, number in arm.labels.items())
        parts.add_row(
            arm.arm, *(f"{number:,}" for number in numbers), f"{arm.general_share:.1%}", f"{arm.masked:,}", labels
        )
    common = _table(
        "Rows that resemble a test row", "arm", "test", "test rows", *(overlap.value for overlap in Overlap)
    )
    for overlap in shared:
        numbers = (overlap.test_rows, *overlap.counts.values())
        common.add_row(overlap.arm, Text(overlap.test), *(f"{number:,}" for number in numbers))
    categories = [
        Text(f"{arm.arm}: " + ", ".join(f"{name} {n:,}" for name, n in arm.categories.items())) for arm in made
    ]
    note = Text(
        "item: question and all images; images: all images; question: the question alone; image: one image", style="dim"
    )
    return Group(
        parts,
        *categories,
        *([common, note] if shared else [Text("No test splits to compare with: name them with --against.")]),
    )


def _head(report: Report) -> list[Text]:
    lines = [
        Text(
            f"{file.name}: {file.rows:,} rows ({', '.join(file.forms) or 'no known form'}{'; chains of thought' if file.cot else ''})"
        )
        for file in report.files
    ]
    return [*lines, Text(f"{report.images:,} images looked at; {report.seconds:.1f} s\n")]


def _findings(report: Report, shown: int) -> list[Table | Text]:
    if not report.findings:
        return []
    kinds = _table("Findings", "kind", "level", "number")
    for kind, number in count_by_kind(report.findings).items():
        kinds.add_row(Text(kind.value, style=COLOURS[kind.level]), kind.level.value, f"{number:,}")
    lines: list[Table | Text] = [kinds]
    for finding in report.findings[:shown]:
        row = f", row {finding.row}" if finding.row else ""
        named = f" ({finding.id})" if finding.id else ""
        field = f", {finding.field}" if finding.field else ""
        more = f" [{finding.rows:,} rows]" if finding.rows > 1 else ""
        head = (f"{finding.kind.value}: ", COLOURS[finding.level])
        lines.append(
            Text.assemble(head, f"{finding.file}{row}{named}{field}: {finding.message}{more}\n  {finding.fix}")
        )
    hidden = len(report.findings) - shown
    return [*lines, *([Text(f"... and {hidden:,} more; --json or --html FILE has them all")] if hidden > 0 else [])]


def _tokens(report: Report) -> list[Table | Text]:
    tokens = report.tokens
    if tokens is None or not tokens.rows:
        return []
    how = "its own tokenizer and template" if tokens.exact else "estimated: four characters a token"
    limit = f"cut after {tokens.limit:,}" if tokens.limit else "no limit known, see --max_length"
    total = sum(row.total for row in tokens.rows)
    table = _table(
        f"\nTokens for {tokens.model} ({how}; {limit}), the longest rows",
        "file",
        "row",
        "id",
        "images",
        "image",
        "text",
        "total",
    )
    for row in tokens.worst(LONGEST):
        numbers = (row.images, row.image_tokens, row.text_tokens, row.total)
        table.add_row(Text(row.file), str(row.row), Text(row.id), *(f"{number:,}" for number in numbers))
    lines: list[Table | Text] = [table, Text(f"all rows: {total:,} tokens, {total / len(tokens.rows):,.0f} a row")]
    if report.memory is not None:
        memory = report.memory
        terms = f"{memory.weights / GB:.1f} weights, {memory.state / GB:.1f} training state, {memory.activations / GB:.1f} activations"
        lines.append(Text(f"memory: {memory.total / GB:.1f} GB ({terms}) for {_how(memory.training)}", style="bold"))
        lines.append(Text(f"  = {report.memory_formula}", style="dim"))
    return lines


def _how(training: Training) -> str:
    weights = f"LoRA rank {training.lora_rank}" if training.lora_rank else "all weights"
    return f"batch {training.batch_size}, {weights}{', checkpointing' if training.checkpointing else ''}"


def _verdict(report: Report) -> Text:
    errors = sum(finding.level is Level.ERROR for finding in report.findings)
    if report.ready:
        return Text("\nTraining may start.", style="green")
    return Text(f"\nTraining must not start: {errors:,} errors.", style="red")


def _table(title: str, *headings: str) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in TO_THE_LEFT else "right", overflow="fold")
    return table


# ---------- The preflight report as one HTML page that needs nothing else: no script, no web address, everything from the data escaped.

CHECK_PAGE_GB = 1e9
STYLE = """
:root { color-scheme: light dark } body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; width: 100% } th, td { border-bottom: 1px solid #8885; padding: .3rem .6rem; text-align: left;
vertical-align: top; overflow-wrap: anywhere } td.number { text-align: right; font-variant-numeric: tabular-nums }
.error { color: light-dark(#b00020, #ff8a8a); font-weight: 600 } .warning { color: light-dark(#7a5200, #ffc66d); font-weight: 600 }
.ready { color: light-dark(#146c2e, #7fdc9b); font-weight: 600 }
"""


def page(report: Report, *, longest: int = 20) -> str:
    """The whole page: verdict, files, findings by kind and one by one, the longest rows, the memory estimate."""
    parts = [
        _check_page_verdict(report),
        _check_page_table(
            "Files", ("file", "rows", "forms"), ((file.name, file.rows, ", ".join(file.forms)) for file in report.files)
        ),
        _kinds(report),
        _check_page_findings(report),
        *_budget(report, longest),
    ]
    title = f"Preflight of {escape(report.path)}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><h1>{title}</h1>{"".join(parts)}</body></html>\n'


def _check_page_verdict(report: Report) -> str:
    words = ("ready", "Training may start.") if report.ready else ("error", "Training must not start.")
    return f'<p class="{words[0]}">{words[1]}</p><p>{report.rows:,} rows, {report.images:,} images, {report.seconds:.1f} s</p>'


def _kinds(report: Report) -> str:
    rows = ((kind.value, kind.level.value, number) for kind, number in count_by_kind(report.findings).items())
    return _check_page_table("Findings by kind", ("kind", "level", "number"), rows)


def _check_page_findings(report: Report) -> str:
    rows = (
        (
            found.level.value,
            found.kind.value,
            found.file,
            found.row or "",
            found.id,
            found.field,
            found.message,
            found.rows,
            found.fix,
        )
        for found in report.findings
    )
    return _check_page_table(
        "Findings", ("level", "kind", "file", "row", "id", "field", "what", "rows", "how to put it right"), rows
    )


def _budget(report: Report, longest: int) -> Iterable[str]:
    if report.tokens is None:
        return
    rows = (
        (row.file, row.row, row.id, row.images, row.image_tokens, row.text_tokens, row.total)
        for row in report.tokens.worst(longest)
    )
    title = f"Tokens for {report.tokens.model} ({'counted' if report.tokens.exact else 'texts estimated'}), the longest rows"
    yield _check_page_table(title, ("file", "row", "id", "images", "image tokens", "text tokens", "total"), rows)
    if report.memory is not None:
        memory = report.memory
        terms = (memory.weights, memory.state, memory.activations, memory.total)
        yield _check_page_table(
            "Memory, GB",
            ("weights", "training state", "activations", "in all"),
            [[f"{term / CHECK_PAGE_GB:.1f}" for term in terms]],
        )
        yield f"<p>{escape(report.memory_formula)}</p>"


def _check_page_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    if not body:
        return f"<h2>{escape(title)}</h2><p>none</p>"
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return f"<h2>{escape(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    kind = f' class="{value}"' if value in ("error", "warning") else ""
    return f"<td{kind}>{escape(str(value))}</td>"


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


# ---------- ``mis check DATA --mixture NAME``: what a mixture is made of and what it shares with the test splits; and writing it.


def mixture(
    path: Path,
    name: str,
    options: Sequence[str],
    *,
    general: Path | None = None,
    against: Path | None = None,
    output: Path | None = None,
    as_json: bool = False,
) -> bool:
    """Compose a mixture, print what it is made of and what it shares with the test splits; returns whether it leaks nothing.

    Args:
        path: the safety data; of a folder with several splits, ``train``.
        name: the recipe.
        options: ``key=value`` for the recipe.
        general: the general data [default: ``general`` in the same folder].
        against: test data [default: the test splits in the same folder].
        output: folder to write the mixture to.
        as_json: print JSON for programs.

    Raises:
        MisError: the recipe is unknown or the data does not suffice for it.
    """
    recipe = configured(name, options)
    arms = compose(recipe, _sources(recipe, path, general))
    made = composition(arms)
    tests = _tests(path if against is None else against, every=against is not None)
    shared = list(overlaps(arms, tests, console.say))
    if output is not None:
        write(recipe, arms, output)
        console.say(f"mixture: {output}")
    if as_json:
        parts = {"composition": made, "overlaps": shared}
        records = {key: [value.model_dump(mode="json") for value in values] for key, values in parts.items()}
        console.print_json({"recipe": recipe.model_dump(mode="json"), **records})
    else:
        console.out.print(mixture_tables(recipe, made, shared))
    return not any(overlap.leaks for overlap in shared)


def _sources(recipe: Recipe, path: Path, general: Path | None) -> dict[str, SampleSet]:
    """The sets that a recipe needs."""
    needed = {part.source for arm in recipe.arms for part in arm.parts}
    beside = path.parent if path.is_file() else path
    places: dict[str, tuple[Path, str | None]] = {role: (beside, split) for role, split in BESIDE.items()}
    places[SAFETY] = path, "train"
    if general is not None:
        places[GENERAL] = general, None
    sources = {}
    for role in sorted(needed):
        place, split = places[role]
        console.say(f"Reading {role} data")
        sources[role] = _read(find_source(place, split=split if place.is_dir() else None))
    return sources


def _tests(path: Path, *, every: bool) -> dict[str, SampleSet]:
    """The test splits at a path, or beside it; ``every``: it was named as test data, so whatever is there is meant."""
    if every and path.is_file():
        return {path.name: _read(find_source(path))}
    folder = path if path.is_dir() else path.parent
    try:
        whole = find_source(folder)
    except DataError:
        if every:
            raise
        return {}  # training data that stands alone
    there = whole.splits if whole.loader is not None else tuple(dict.fromkeys(map(split_name, whole.files)))
    splits = [split for split in there if split in TEST_SPLITS or (every and split != "train")]
    return {split: _read(find_source(folder, split=split)) for split in splits}


def _read(source: Source) -> SampleSet:
    return SampleSet(load(source), source.folder)
