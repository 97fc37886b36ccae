"""Preflight: everything that is wrong with a data set, found before it costs GPU hours.

    report = preflight(Path("data"), PreflightSettings(model="Qwen/Qwen2-VL-7B-Instruct", max_pixels=1003520))
    report.ready, report.findings, report.tokens.worst(5), report.memory.total

Reading does not stop at the first fault: one pass names every fault of a JSON row with file, row and fix. Of published
sets and tables (CSV, TSV, parquet) each row is one finding at most. Images are judged by their headers; pixels are
decoded only where neither checksums nor the file's end show that it is whole.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from mis_lib.data.benchmarks import recognise
from mis_lib.data.checks import is_cot, row_findings, set_findings, shared_ids
from mis_lib.data.findings import AUTHORS, Finding, Kind, Level, Location
from mis_lib.data.formats import View, parse, view_of
from mis_lib.data.images import Headers
from mis_lib.data.loader import Loader
from mis_lib.data.records import Row, Unreadable, check_ending, field_and_rest, read_bytes, read_table, reported
from mis_lib.data.sources import MIXTURE, data_files
from mis_lib.data.tokens import MEMORY_FORMULA, Budget, Memory, Training, budget_for, limited, memory
from mis_lib.errors import DataError, SettingsError
from mis_lib.schema import Record, Sample
from mis_lib.settings import Settings

JSON = (".json", ".jsonl")
REPAIR = "put the row right, or remove it"
MIS_ROOTS = ("", "images")
"""Where MIS's training images may be, as its loader looks for them.

Its archive is unpacked here or there. No other rows are read so.
"""
Progress = Callable[[str], None]


class PreflightSettings(Settings):
    """What to check a data set for."""

    images: Path | None = None
    """Folder that image paths are relative to (default: the data file's)."""
    model: str | None = None
    """Predict tokens and memory for this model: checkpoint folder, hub id, published name, or mini."""
    min_pixels: int | None = None
    """Qwen-VL: fewest pixels of an image."""
    max_pixels: int | None = None
    """Qwen-VL: most pixels of an image."""
    max_dynamic_patch: int | None = None
    """InternVL: most tiles of an image."""
    max_length: int | None = None
    """With a model: rows are cut after so many tokens (default: its context)."""
    training: Training = Training()


class RowTokens(Record):
    """What one row costs."""

    file: str
    row: int
    id: str
    images: int
    image_tokens: int
    text_tokens: int

    @property
    def total(self) -> int:
        """Image and text tokens."""
        return self.image_tokens + self.text_tokens


class Tokens(Record):
    """What all rows cost."""

    model: str
    exact: bool
    """Whether texts were counted by the model's own tokenizer and template; otherwise estimated."""
    limit: int | None
    rows: list[RowTokens]

    def worst(self, number: int) -> list[RowTokens]:
        """The longest rows, longest first."""
        return sorted(self.rows, key=lambda row: (-row.total, row.file, row.row))[:number]


class FileSummary(Record):
    """How much one data file holds."""

    name: str
    rows: int
    forms: list[str]
    cot: bool
    """Whether its harmful rows are mostly answered at length."""


class PreflightReport(Record):
    """What was found."""

    path: str
    files: list[FileSummary]
    images: int
    """Different image files looked at."""
    findings: list[Finding]
    tokens: Tokens | None = None
    memory: Memory | None = None
    memory_formula: str = MEMORY_FORMULA
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def ready(self) -> bool:
        """Whether training may start: no error was found."""
        return not any(finding.level is Level.ERROR for finding in self.findings)


class Checked(NamedTuple):
    """A data file that was read."""

    path: Path
    findings: list[Finding]
    """What is wrong with the file as a whole, and with rows that could not be read."""
    parsed: list[View]
    """What its rows say, those of no known form too."""
    headers: Headers
    """Of its images."""

    @property
    def views(self) -> list[View]:
        """What the rows say that have a known form."""
        return [seen for seen in self.parsed if seen.form is not None]

    def samples(self) -> Iterator[tuple[Row, Sample]]:
        """The samples of its rows, each with its row.

        Raises:
            DataError: the strict reader refuses a row.
        """
        for seen in self.parsed:
            yield seen.row, seen.strictly()


def preflight(
    path: Path,
    settings: PreflightSettings | None = None,
    progress: Progress = lambda message: None,
    *,
    split: str | None = None,
) -> PreflightReport:
    """Check a data file or a folder of them; of a published set only a ``split``, if one is named.

    What the rows of a published set say is its authors' choice: it is reported as a warning.

    Raises:
        DataError: there is nothing to check at ``path``.
        ModelError: the model is unknown or its files are damaged.
        SettingsError: the model has no limit of the kind that is set, or one is set and no model.
    """
    return examine(path, settings, progress, split=split)[0]


def examine(
    path: Path,
    settings: PreflightSettings | None = None,
    progress: Progress = lambda message: None,
    *,
    split: str | None = None,
) -> tuple[PreflightReport, list[Checked]]:
    """The report of ``preflight``, and the files that it read, which hold the samples.

    Raises:
        DataError, ModelError, SettingsError: as ``preflight``.
    """
    begun = time.perf_counter()
    settings = settings or PreflightSettings()
    budget = _budget(settings)
    checked = read_all(path, settings.images, split=split)
    is_published = published_loader(path) is not None
    findings: list[Finding] = []
    summaries = []
    for file in checked:
        progress(f"Checking {file.path.name}: {len(file.parsed):,} rows")
        views = file.views
        cot = is_cot(views)
        findings += file.findings
        said = [finding for seen in views for finding in row_findings(seen, file.headers)]
        said += set_findings(views, cot=cot)
        findings += map(_as_published, said) if is_published else said
        forms = sorted({seen.form.value for seen in views if seen.form is not None})
        summaries.append(FileSummary(name=file.path.name, rows=len(file.parsed), forms=forms, cot=cot))
    if are_read_as_one(path):
        findings += shared_ids([file.views for file in checked])
    tokens = None if budget is None else predict(checked, budget, settings)
    findings += [] if tokens is None else _cut_rows(tokens)
    report = PreflightReport(
        path=str(path),
        files=summaries,
        images=sum(len(headers) for headers in {id(file.headers): file.headers for file in checked}.values()),
        findings=sorted(grouped(findings), key=lambda found: (found.level, found.file, found.row, found.kind)),
        tokens=tokens,
        memory=_memory(budget, tokens, settings.training),
        seconds=round(time.perf_counter() - begun, 3),
    )
    return report, checked


def read_all(path: Path, images: Path | None = None, *, split: str | None = None) -> list[Checked]:
    """The data files at a path with the views of their rows; a row of no known form is a finding of its file.

    A folder in a published layout other than MIS's is read by its own loader, whose errors become findings; ``split``:
    only this split of it.

    Raises:
        DataError: there is no data file, it has no ending of one, or a published set is given other ``images``.
    """
    loader = published_loader(path)
    if loader is not None:
        if images is not None:
            raise DataError(f"{path}: {loader.title} names its images itself; leave --images out")
        headers = Headers(path, pixels=True)
        splits = loader.available(path) if split is None else [split]
        return [_published(loader, path, one, headers) for one in splits]
    roots = MIS_ROOTS if path.is_dir() and recognise(path) else ("",)
    found: dict[Path, Headers] = {}
    checked = []
    files = data_files(path) if split is None else [file for one in recognise(path) for file in one.files(path, split)]
    for file in files:
        check_ending(file)
        folder = images or (file.parent if is_json(file) else path if path.is_dir() else file.parent)
        checked.append(_read(file, found.setdefault(folder, Headers(folder, pixels=True, roots=roots))))
    if any(file.parsed for file in checked):
        for file in checked:
            file.findings[:] = map(_among_others, file.findings)
    return checked


def published_loader(path: Path) -> Loader | None:
    """The loader that a folder is checked by.

    None for files, our own folders and MIS's, whose rows are checked as they are.
    """
    found = [loader for loader in recognise(path) if loader.name != "mis"] if path.is_dir() else []
    return found[0] if len(found) == 1 else None


def are_read_as_one(path: Path) -> bool:
    """Whether a path's files are read together, so that their ids must differ.

    Not MIS's, whose ids get the split's name, nor a mixture's arms.
    """
    return path.is_dir() and not recognise(path) and not (path / MIXTURE).is_file()


def is_json(file: Path) -> bool:
    """Whether a file holds JSON, whose rows are read one by one, and can be written again."""
    return file.suffix.lower() in JSON


def predict(checked: Sequence[Checked], budget: Budget, settings: PreflightSettings) -> Tokens:
    """Tokens of every row whose images can be read, and of every row of text."""
    rows = []
    for file in checked:
        whole = [
            (seen, sizes)
            for seen in file.views
            if (seen.images or seen.sample) and None not in (sizes := _sizes(seen, file.headers))
        ]
        texts = budget.text_tokens([(len(seen.images), _asked(seen), _said(seen)) for seen, _ in whole])
        for (seen, sizes), text in zip(whole, texts, strict=True):
            text += (seen.exchanges - 1) * budget.exchange_tokens
            pictures = sum(budget.image_tokens.count([size for size in sizes if size is not None]))
            rows.append(
                RowTokens(**seen.place._asdict(), images=len(seen.images), image_tokens=pictures, text_tokens=text)
            )
    limit = settings.max_length or budget.context
    return Tokens(model=budget.name, exact=budget.is_exact, limit=limit, rows=rows)


def grouped(findings: Sequence[Finding]) -> Iterator[Finding]:
    """The findings, those about the same wrong value reported once, at the first row, with the number of rows."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for found in findings:
        shared = found.kind in (
            Kind.UNKNOWN_CATEGORY,
            Kind.WRONG_SUB_CATEGORY,
            Kind.UNKNOWN_SPLIT,
            Kind.NOT_SHOWN,
            Kind.TEXT_ROW,
        )
        key = (found.file, found.kind, found.message) if shared else (str(id(found)),)
        groups.setdefault(key, []).append(found)
    for group in groups.values():
        yield group[0] if len(group) == 1 else group[0].model_copy(update={"rows": len(group)})


def _read(file: Path, headers: Headers) -> Checked:
    """A data file; the images that a table holds are unpacked."""
    read_bytes(file, 0)  # one that cannot be opened is not a finding
    checked = Checked(file, [], [], headers)
    for row in reported(read_table, file):
        if isinstance(row, DataError):
            checked.findings.append(row.finding if isinstance(row, Unreadable) else _malformed(row, REPAIR))
            row = row.row if isinstance(row, Unreadable) else None
        if row is None:
            continue
        seen = parse(row, headers.folder)
        if is_json(file):
            checked.parsed.append(seen)
            checked.findings.extend(seen.findings if seen.form is None else ())
        elif seen.sample is None:
            checked.findings.append(_malformed(seen.errors[0], REPAIR))
        else:  # its values, which may hold images, are not kept
            checked.parsed.append(view_of(seen.sample, file.name, row.number))
    if not checked.parsed and not checked.findings:
        place = Location(file.name)
        checked.findings.append(place.finding(Kind.EMPTY_FILE, "", "expected rows, found none", "write the file again"))
    return checked


def _among_others(found: Finding) -> Finding:
    """A finding about one of several files: a split may be empty where others are not."""
    if found.kind is not Kind.EMPTY_FILE:
        return found
    return found.model_copy(update={"kind": Kind.EMPTY_SPLIT, "fix": "leave it, or write the file again"})


def _published(loader: Loader, folder: Path, split: str, headers: Headers) -> Checked:
    """A split of a published set, read by its loader."""
    checked = Checked(folder / split, [], [], headers)
    for found in loader.scan(folder, split):
        if isinstance(found, DataError):
            checked.findings.append(_malformed(found, "put the row right, or fetch the set again"))
        else:
            checked.parsed.append(view_of(found, found.provenance["file"], found.provenance["row"]))
    checked.findings.extend(_partial(loader, split, checked.parsed, len(checked.findings)))
    return checked


def _partial(loader: Loader, split: str, parsed: list[View], refused: int) -> Iterator[Finding]:
    """That a split has fewer or more records than are published.

    No other check misses the file of a scenario that is not there.
    """
    published = loader.splits[split]
    records = groupby(parsed, lambda seen: (seen.place.file, seen.place.row))  # of which some give several rows
    found = sum(1 for _ in records) + refused
    if published is not None and found != published:
        message = f"expected the {published:,} records that are published, found {found:,}"
        yield Location(split).finding(
            Kind.PARTIAL_SET, "", message, "fetch the rest, or report rates as those of a part"
        )


def _malformed(error: DataError, fix: str) -> Finding:
    """A reader's error as a finding at the place that it names."""
    place, _, message = str(error).partition(": ")
    file, _, row = place.partition(", row ")
    at = Location(Path(file).name, int(row) if row.isdigit() else 0)
    field, message = field_and_rest(message)
    return at.finding(Kind.MALFORMED, field, message, fix)


def _as_published(found: Finding) -> Finding:
    """A finding about a row of a published set, a warning if it is about what the authors wrote."""
    if found.kind not in AUTHORS:
        return found
    fix = f"leave it as it is published, or export the set (mis export --format jsonl) and {found.fix}"
    return found.model_copy(update={"kind": Kind.AS_PUBLISHED, "fix": fix})


def _asked(seen: View) -> str:
    """The question, after the system prompt if there is one; the marks of its turn are not counted."""
    return f"{seen.system}\n{seen.question}" if seen.system else seen.question


def _said(seen: View) -> str | None:
    """All answers, and what our own form keeps of later turns."""
    return f"{seen.answer or ''}\n{seen.later}" if seen.later else seen.answer


def _budget(settings: PreflightSettings) -> Budget | None:
    limits = {name: getattr(settings, name) for name in ("min_pixels", "max_pixels", "max_dynamic_patch")}
    if settings.model is None:
        _check_nothing_depends_on_a_model({**limits, "max_length": settings.max_length}, settings.training)
        return None
    budget = budget_for(settings.model)
    return budget._replace(image_tokens=limited(budget.image_tokens, **limits))


def _check_nothing_depends_on_a_model(limits: Mapping[str, int | None], training: Training) -> None:
    given = [name for name, value in limits.items() if value is not None]
    given += [name for name, value in training if value != getattr(Training(), name)]
    if given:
        raise SettingsError(
            f"{given[0]}: expected a model, which decides tokens and memory, found none; name it with --model"
        )


def _sizes(seen: View, headers: Headers) -> list:
    return [headers[name].size for name in seen.images]


def _cut_rows(tokens: Tokens) -> Iterator[Finding]:
    limit = tokens.limit
    for row in tokens.rows:
        if limit is None or row.total <= limit:
            continue
        place = f"{row.image_tokens:,} of {row.images} images and {row.text_tokens:,} of text"
        message = f"expected at most {limit:,} tokens, found {row.total:,}: {place}; "
        common = {"file": row.file, "row": row.row, "id": row.id}
        if row.image_tokens >= limit:
            fix = "lower --max_pixels or --max_dynamic_patch, or remove the row"
            yield Finding(
                kind=Kind.IMAGES_CUT, field="images", message=f"{message}an image would be cut", fix=fix, **common
            )
        else:
            fix = "raise --max_length, lower --max_pixels, or shorten the answer"
            message += f"the last {row.total - limit:,} would be cut"
            yield Finding(kind=Kind.ANSWER_CUT, field="answer", message=message, fix=fix, **common)


def _memory(budget: Budget | None, tokens: Tokens | None, training: Training) -> Memory | None:
    if budget is None or budget.shape is None or tokens is None or not tokens.rows:
        return None
    return memory(budget.shape, max(row.total for row in tokens.rows), training)
