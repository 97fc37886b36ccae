"""Answers that another tool has given: each row of its file is read for the answer and for whatever it tells of what was asked.

    {"prompt", "predict", "label"}                  LLaMA-Factory's generated_predictions.jsonl
    {"response", "messages", "images", ...}         ms-swift's infer results
    {"index", "question", "prediction", ...}        VLMEvalKit, as TSV (its own .xlsx cuts long cells)
    {"doc_id", "resps", "filtered_resps", "input"}  lmms-eval's samples; of the two the raw answer counts
    {"samples": [{"id", "input", "output"}]}        a JSON log of inspect-ai
    {"question", "image_path1", "response", ...}    MIS's own inference scripts
    {"id", "response"}                              anybody's, as JSON Lines, CSV, TSV or parquet

Which sample a row answers is found by ``data.answer_matching``.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.data.records import Row, read_bytes, read_text
from mis_lib.data.tables import is_document, read_table
from mis_lib.errors import DataError

ANSWERS = ("predict", "response", "prediction", "resps", "filtered_resps", "output", "completion", "text")
IDS = ("id", "sample_id", "index", "question_id")
PROMPTS = ("prompt", "question", "messages", "input")
ELSEWHERE = {
    ".eval": "write it as JSON with: inspect log dump LOG.eval > LOG.json",
    ".xlsx": "cells of a spreadsheet end at 32,767 characters; let VLMEvalKit write TSV (export PRED_FORMAT=tsv), or save it as CSV",
}
REASONS = {"max_tokens": "length", "model_length": "length"}  # inspect's words for a cut answer
UNKNOWN = "unknown"
PLACEHOLDER = re.compile(r"<image>|\[image \d+\]")


class Given(NamedTuple):
    """One row of another tool's file; ``text`` is None where it holds no answer."""

    row: Row
    text: str | None
    finish_reason: str
    id: str | None
    prompt: str
    """All words that were asked, with one space between two; empty where the row does not tell them."""
    images: tuple[str, ...]
    """Paths as that tool saw them; empty where the row does not tell."""


def read_answers(file: Path, field: str | None = None) -> list[Given]:
    """The answers of a file.

    Args:
        file: JSON Lines, JSON, CSV, TSV or parquet; or a JSON log of inspect-ai.
        field: which field holds the answer [default: the first of ``ANSWERS`` that is there].

    Raises:
        DataError: the file cannot be read, or a row holds no field of an answer, or several answers in one (file, row, field and fix named).
    """
    rows = _rows(file)
    if not rows:
        raise DataError(f"{file}: expected answers, found none; is it the right file?")
    return [_given(row, field) for row in rows]


def _rows(file: Path) -> list[Row]:
    if advice := ELSEWHERE.get(file.suffix.lower()):
        raise DataError(f"{file}: expected JSON Lines, JSON, CSV, TSV or parquet, found {file.suffix}; {advice}")
    start = read_bytes(file, 1 << 12).lstrip()
    if file.suffix.lower() == ".json" and start.startswith(b"{") and is_document(start):
        return _log(file)
    rows = []
    for row in read_table(file):
        if isinstance(row, DataError):
            raise row
        rows.append(row)
    return rows


def _log(file: Path) -> list[Row]:
    """The samples of a log of inspect-ai, whose header may hold NaN, which is no JSON."""
    try:
        samples = json.loads(read_text(file)).get("samples")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: expected a JSON log, found a fault ({error}); write it again") from error
    if not isinstance(samples, list) or not all(isinstance(values, dict) for values in samples):
        raise DataError(
            f"{file}: expected a list of rows, or a log of inspect-ai with its samples, found neither; "
            "write one JSON object a line (a log without samples: inspect log dump)"
        )
    return [Row(file, number, values) for number, values in enumerate(samples, 1)]


def _given(row: Row, field: str | None) -> Given:
    values = row.values
    name = field or next((name for name in ANSWERS if name in values), None)
    if name is None or name not in values:
        expected = repr(field) if field else f"one of {', '.join(ANSWERS)}"
        raise DataError(
            f"{row.place}: expected the answer in the field {expected}, found the fields {', '.join(map(repr, values))}; name it with --field"
        )
    text, reason = _answer(row, name, values[name])
    told = values.get("finish_reason", reason)
    ids = (values[name] for name in IDS if isinstance(values.get(name), str | int))
    prompt = next((_words(values[name]) for name in PROMPTS if name in values), "")
    return Given(
        row,
        text,
        REASONS.get(told, told) if isinstance(told, str) and told else UNKNOWN,
        next(map(str, ids), None),
        _plain(prompt),
        tuple(_images(values)),
    )


def _answer(row: Row, field: str, value: Any) -> tuple[str | None, str]:
    """The text of an answer and why it ended, as far as the row says."""
    while isinstance(value, list):  # lmms-eval: a list of draws, in a list of requests
        if len(value) > 1:
            raise row.error(field, "one answer", value, "import each of several draws as a run of its own")
        value = value[0] if value else None
    if isinstance(value, Mapping):  # inspect's output
        choice = next(iter(value.get("choices") or [{}]))
        content = (choice.get("message") or {}).get("content")
        text = "".join(map(_part, content)) if isinstance(content, list) else content
        return (text if isinstance(text, str) else value.get("completion") or None), choice.get("stop_reason", UNKNOWN)
    if value is not None and not isinstance(value, str):
        raise row.error(field, "the answer's text", value, "name its field with --field")
    return value, UNKNOWN


def _part(part: Any) -> str:
    """The words of one part of a message; a reasoning of its own is told by tags, as in any other answer."""
    values = part if isinstance(part, Mapping) else {}
    return f"<think>{values['reasoning']}</think>\n" if values.get("reasoning") else str(values.get("text") or "")


def _words(value: Any) -> str:
    """All that was asked, out of text, messages or lists of them; what the model said is no part of it."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        parts = () if value.get("role") == "assistant" else (value.get("content"), value.get("text"))
    else:
        parts = value if isinstance(value, list) else ()
    return "\n".join(filter(None, map(_words, parts)))


def _images(values: Mapping[str, Any]) -> list[str]:
    listed = values.get("images")
    found = listed if isinstance(listed, list) else [values.get(f"image_path{number}") for number in range(1, 100)]
    paths = (one.get("path") if isinstance(one, Mapping) else one for one in found)
    return [path.replace("\\", "/") for path in paths if isinstance(path, str) and path]


def _plain(text: str) -> str:
    return " ".join(PLACEHOLDER.sub(" ", text).split())
