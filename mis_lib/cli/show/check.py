"""Reports, mixtures and sets to fetch, as ``mis check`` shows them; contents of data files are never read as markup."""

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mis_lib.data.benchmarks import Instruction
from mis_lib.data.duplicates import Overlap
from mis_lib.data.findings import Level, count_by_kind
from mis_lib.data.preflight import PreflightReport
from mis_lib.data.tokens import Training
from mis_lib.recipes.check import Mixed
from mis_lib.results.tables import rich_table

GB = 1e9
COLOURS = {Level.ERROR: "red", Level.WARNING: "yellow"}
LONGEST = 5


def report_tables(report: PreflightReport, shown: int) -> Group:
    """The report as tables: kinds of findings, the findings themselves, the longest rows, the verdict."""
    return Group(*_head(report), *_findings(report, shown), *_tokens(report), _verdict(report))


def mixture_tables(mixed: Mixed) -> Group:
    """A mixture as tables: composition by arm, overlap by test split."""
    recipe, made, shared = mixed
    parts = rich_table(
        ("arm", "rows", "harmful", "benign", "general", "share", "no end token", "labels"),
        [
            [
                arm.arm,
                *(f"{number:,}" for number in (arm.rows, arm.harmful, arm.benign, arm.general)),
                f"{arm.general_share:.1%}",
                f"{arm.masked:,}",
                ", ".join(f"{number:,} {label}" for label, number in arm.labels.items()),
            ]
            for arm in made
        ],
        title=f"{recipe.name}: {recipe.about}",
        left=("arm", "labels"),
    )
    common = rich_table(
        ("arm", "test", "test rows", *(overlap.value for overlap in Overlap)),
        [
            [overlap.arm, overlap.test, *(f"{number:,}" for number in (overlap.test_rows, *overlap.counts.values()))]
            for overlap in shared
        ],
        title="Rows that resemble a test row",
        left=2,
    )
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


def fetch_lines(wanted: Sequence[Instruction]) -> Iterator[Text]:
    """Each set with its splits and licence, where it is, and how to fetch it."""
    for one in wanted:
        splits = ", ".join(f"{split} {rows:,}" if rows else split for split, rows in one.splits.items())
        yield Text.assemble((one.title, "bold"), f"  ({one.name}; {splits}; {one.licence})")
        yield Text(f"  from {one.source}")
        yield Text(f"  {one.fetch}\n")


def _head(report: PreflightReport) -> list[Text]:
    lines = [
        Text(
            f"{file.name}: {file.rows:,} rows ({', '.join(file.forms) or 'no known form'}"
            f"{'; chains of thought' if file.cot else ''})"
        )
        for file in report.files
    ]
    return [*lines, Text(f"{report.images:,} images looked at; {report.seconds:.1f} s\n")]


def _findings(report: PreflightReport, shown: int) -> list[Table | Text]:
    if not report.findings:
        return []
    counts = [
        (Text(kind.value, style=COLOURS[kind.level]), kind.level.value, f"{number:,}")
        for kind, number in count_by_kind(report.findings).items()
    ]
    kinds = rich_table(("kind", "level", "number"), counts, title="Findings", left=2)
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


def _tokens(report: PreflightReport) -> list[Table | Text]:
    tokens = report.tokens
    if tokens is None or not tokens.rows:
        return []
    how = "its own tokenizer and template" if tokens.exact else "estimated: four characters a token"
    limit = f"cut after {tokens.limit:,}" if tokens.limit else "no limit known, see --max_length"
    total = sum(row.total for row in tokens.rows)
    longest = [
        [row.file, str(row.row), row.id]
        + [f"{number:,}" for number in (row.images, row.image_tokens, row.text_tokens, row.total)]
        for row in tokens.worst(LONGEST)
    ]
    headings = ("file", "row", "id", "images", "image", "text", "total")
    title = f"\nTokens for {tokens.model} ({how}; {limit}), the longest rows"
    table = rich_table(headings, longest, title=title, left=("file", "id"))
    lines: list[Table | Text] = [table, Text(f"all rows: {total:,} tokens, {total / len(tokens.rows):,.0f} a row")]
    if report.memory is not None:
        memory = report.memory
        terms = (
            f"{(memory.weights + memory.gathered) / GB:.1f} weights, {memory.state / GB:.1f} training state, "
            f"{memory.activations / GB:.1f} activations"
        )
        lines.append(Text(f"memory: {memory.total / GB:.1f} GB ({terms}) for {_how(memory.training)}", style="bold"))
        lines.append(Text(f"  = {report.memory_formula}", style="dim"))
    return lines


def _how(training: Training) -> str:
    weights = f"LoRA rank {training.lora_rank}" if training.lora_rank else "all weights"
    rows = (
        f"batch {training.batch_size}" if training.batch_tokens is None else f"{training.batch_tokens:,} tokens a pass"
    )
    stored = f" on {training.quantization}" if training.quantization else ""
    spread = f", on each of {training.gpus} GPUs (FSDP)" if training.gpus > 1 else ""
    return f"{rows}, {weights}{stored}{', checkpointing' if training.checkpointing else ''}{spread}"


def _verdict(report: PreflightReport) -> Text:
    errors = sum(finding.level is Level.ERROR for finding in report.findings)
    if report.ready:
        return Text("\nTraining may start.", style="green")
    return Text(f"\nTraining must not start: {errors:,} errors.", style="red")
