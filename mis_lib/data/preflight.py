"""Preflight: everything that is wrong with a data set, found before it costs GPU hours.

    report = preflight(Path("data"), PreflightSettings(model="Qwen/Qwen2-VL-7B-Instruct", max_pixels=1003520))
    report.ready, report.findings, report.tokens.worst(5), report.memory.total

Rows are read raw, not as ``Sample``s, so that one pass names every fault with file, row and fix instead of stopping at the first. Images are
judged by their headers; pixels are decoded only where neither checksums nor the file's end tell that it is whole.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mis_lib.data.checked import Checked, are_read_as_one, field_and_rest, published_loader, read_all
from mis_lib.data.checks import is_cot, row_findings, set_findings, shared_ids
from mis_lib.data.findings import AUTHORS, Finding, Kind, Level
from mis_lib.data.formats import to_sample
from mis_lib.data.headers import Headers
from mis_lib.data.memory import Memory, Training, memory
from mis_lib.data.records import Row
from mis_lib.data.report import FileSummary, Report, RowTokens, Tokens
from mis_lib.data.tokens import Budget, budget_for
from mis_lib.data.views import View
from mis_lib.data.vision_families import limited
from mis_lib.errors import DataError, ImageError, SettingsError
from mis_lib.settings import Settings

Progress = Callable[[str], None]


class PreflightSettings(Settings):
    """What to check a data set for."""

    images: Path | None = None
    """Folder that image paths are relative to; the data file's own if not given."""
    model: str | None = None
    """Checkpoint folder, hub id or published name; without it no tokens are predicted."""
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_dynamic_patch: int | None = None
    max_length: int | None = None
    """Tokens after which a row is cut; the model's context if not given."""
    training: Training = Training()


def preflight(
    path: Path,
    settings: PreflightSettings | None = None,
    progress: Progress = lambda message: None,
    *,
    split: str | None = None,
) -> Report:
    """Check a data file or a folder of them; of a published set only a ``split``, if one is named.

    What the rows of a published set say is its authors' choice: it is told as a warning.

    Raises:
        DataError: there is nothing to check at ``path``.
        ModelError: the model is unknown or its files are damaged.
        SettingsError: the model has no limit of the kind that is set, or one is set and no model.
    """
    begun = time.perf_counter()
    settings = settings or PreflightSettings()
    budget = _budget(settings)
    checked = read_all(path, settings.images, split=split)
    is_published = published_loader(path) is not None
    findings: list[Finding] = []
    summaries = []
    for file in checked:
        progress(f"Checking {file.raw.path.name}: {len(file.raw.rows):,} rows")
        cot = is_cot(file.views)
        findings += file.raw.findings
        said = [finding for seen in file.views for finding in row_findings(seen, file.headers)]
        said += set_findings(file.views, cot=cot)
        findings += map(_as_published, said) if is_published else said
        findings += _refused(
            file, {found.row for found in findings if found.file == file.raw.path.name and found.level is Level.ERROR}
        )
        forms = sorted({seen.form.value for seen in file.views})
        summaries.append(FileSummary(name=file.raw.path.name, rows=len(file.raw.rows), forms=forms, cot=cot))
    if are_read_as_one(path):
        findings += shared_ids([file.views for file in checked])
    tokens = None if budget is None else predict(checked, budget, settings)
    findings += [] if tokens is None else _cut_rows(tokens)
    return Report(
        path=str(path),
        files=summaries,
        images=sum(len(headers) for headers in {id(file.headers): file.headers for file in checked}.values()),
        findings=sorted(grouped(findings), key=lambda found: (found.level, found.file, found.row, found.kind)),
        tokens=tokens,
        memory=_memory(budget, tokens, settings.training),
        seconds=round(time.perf_counter() - begun, 3),
    )


def _as_published(found: Finding) -> Finding:
    """A finding about a row of a published set, a warning if it is about what the authors wrote."""
    if found.kind not in AUTHORS:
        return found
    fix = f"leave it as it is published, or export the set (mis export --format jsonl) and {found.fix}"
    return found.model_copy(update={"kind": Kind.AS_PUBLISHED, "fix": fix})


def _refused(file: Checked, wrong: set[int]) -> Iterator[Finding]:
    """Rows without an error so far that the strict reader refuses all the same: what passes here, loads."""
    for row in file.raw.rows:
        if row.row in wrong or not file.raw.path.is_file():
            continue
        try:
            to_sample(Row(file.raw.path, row.row, row.values), file.headers.folder)
        except ImageError:  # told from its header
            continue
        except DataError as error:
            field, message = field_and_rest(str(error).partition(": ")[2])
            yield row.place.finding(Kind.MALFORMED, field, message, "put the field right, or remove the row")


def predict(checked: Sequence[Checked], budget: Budget, settings: PreflightSettings) -> Tokens:
    """Tokens of every row whose images can be read."""
    rows = []
    for file in checked:
        whole = [
            (seen, sizes) for seen in file.views if seen.images and None not in (sizes := _sizes(seen, file.headers))
        ]
        texts = budget.text_tokens([(len(seen.images), seen.question, _said(seen)) for seen, _ in whole])
        for (seen, sizes), text in zip(whole, texts, strict=True):
            text += (seen.exchanges - 1) * budget.exchange_tokens
            pictures = sum(budget.image_tokens.count([size for size in sizes if size is not None]))
            rows.append(
                RowTokens(**seen.place._asdict(), images=len(seen.images), image_tokens=pictures, text_tokens=text)
            )
    limit = settings.max_length or budget.context
    return Tokens(model=budget.name, exact=budget.is_exact, limit=limit, rows=rows)


def _said(seen: View) -> str | None:
    """All answers, and what our own form keeps of later turns."""
    return f"{seen.answer or ''}\n{seen.later}" if seen.later else seen.answer


def grouped(findings: Sequence[Finding]) -> Iterator[Finding]:
    """The findings, those about one and the same wrong value told once, at the first row, with the number of rows."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for found in findings:
        shared = found.kind in (Kind.UNKNOWN_CATEGORY, Kind.WRONG_SUB_CATEGORY, Kind.UNKNOWN_SPLIT, Kind.NOT_SHOWN)
        key = (found.file, found.kind, found.message) if shared else (str(id(found)),)
        groups.setdefault(key, []).append(found)
    for group in groups.values():
        yield group[0] if len(group) == 1 else group[0].model_copy(update={"rows": len(group)})


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
            f"{given[0]}: expected a model, which tells tokens and memory, found none; name it with --model"
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
