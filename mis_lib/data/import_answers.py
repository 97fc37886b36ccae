"""Answers that another tool has given: a row of its file is read for the answer and for what it says of the question.

    {"prompt", "predict", "label"}                  LLaMA-Factory's generated_predictions.jsonl
    {"response", "messages", "images", ...}         ms-swift's infer results
    {"index", "question", "prediction", ...}        VLMEvalKit, as TSV (its own .xlsx cuts long cells)
    {"doc_id", "doc", "resps", "filtered_resps"}    lmms-eval's samples; of the two the raw answer counts
    {"samples": [{"id", "input", "output"}]}        a JSON log of inspect-ai
    {"question", "image_path1", "response", ...}    MIS's own inference scripts
    {"id", "response"}                              anybody's, as JSON Lines, CSV, TSV or parquet

Few tools write ids, so ``match`` finds a row's sample by what the row says: its id, else its place in the order of the
data, else its question and images. Whatever it says must fit; an answer is never given to a sample whose question it
was not asked.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.data.records import Row, is_document, read_bytes, read_table, read_text
from mis_lib.errors import DataError
from mis_lib.schema import Sample

ANSWERS = ("predict", "response", "prediction", "resps", "filtered_resps", "output", "completion", "text")
IDS = ("id", "sample_id", "index", "question_id")
PROMPTS = ("prompt", "question", "messages", "input")
ELSEWHERE = {
    ".eval": "write it as JSON with: inspect log dump LOG.eval > LOG.json",
    ".xlsx": "cells of a spreadsheet end at 32,767 characters; let VLMEvalKit write TSV (export PRED_FORMAT=tsv), "
    "or save it as CSV",
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
    """All words that were asked, with one space between two; empty where the row does not say."""
    images: tuple[str, ...]
    """Paths as that tool saw them; empty where the row does not say."""


class Matched(NamedTuple):
    """Which sample each row answers, and by what it was found.

    "id", "order" or "question"; "order alone" where rows say nothing else.
    """

    samples: list[Sample]
    by: str


def read_answers(file: Path, field: str | None = None) -> list[Given]:
    """The answers of a file.

    Args:
        file: JSON Lines, JSON, CSV, TSV or parquet; or a JSON log of inspect-ai.
        field: which field holds the answer [default: the first of ``ANSWERS`` that is there].

    Raises:
        DataError: the file cannot be read, or a row holds no field of an answer, or several answers in one (file, row,
            field and fix named).
    """
    rows = _rows(file)
    if not rows:
        raise DataError(f"{file}: expected answers, found none; is it the right file?")
    return [_given(row, field) for row in rows]


def match(given: Sequence[Given], samples: Sequence[Sample]) -> Matched:
    """Find the sample that each row answers.

    Raises:
        DataError: a row fits no sample, or several, or one that another row answers too (row and fix named).
    """
    known = {sample.id: sample for sample in samples}
    # Ids that are none of the data's are of other data, unless the questions say that they only count rows.
    placed = all(one.prompt or one.id is None for one in given)
    in_order = placed and len(given) == len(samples) and all(map(_fits, given, samples))
    if all(one.id in known and _fits(one, known[one.id]) for one in given):
        found, by = [known[one.id or ""] for one in given], "id"
    elif in_order:  # also where a column of numbers happens to hold ids
        found, by = list(samples), "order" if all(one.prompt for one in given) else "order alone"
    elif any(one.id in known for one in given):
        found, by = [_by_id(one, known) for one in given], "id"
    else:
        found, by = _by_content(given, samples), "question"
    first: dict[str, Row] = {}
    for one, sample in zip(given, found, strict=True):
        if sample.id in first:
            raise DataError(
                f"{one.row.place}: expected one answer to each sample, found a second one to {sample.id!r}, after row "
                f"{first[sample.id].number}; "
                "take one out, or import several draws each as a run of its own"
            )
        first[sample.id] = one.row
    return Matched(found, by)


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
            f"{row.place}: expected the answer in the field {expected}, found the fields "
            f"{', '.join(map(repr, values))}; name it with --field"
        )
    text, reason = _answer(row, name, values[name])
    found = values.get("finish_reason", reason)
    row_asked = values["doc"] if isinstance(values.get("doc"), Mapping) else {}  # lmms-eval: the task's own row
    said = {**row_asked, **values}
    ids = (said[name] for name in IDS if isinstance(said.get(name), str | int))
    prompt = next((_words(said[name]) for name in PROMPTS if name in said), "")
    return Given(
        row,
        text,
        REASONS.get(found, found) if isinstance(found, str) and found else UNKNOWN,
        next(map(str, ids), None),
        _plain(prompt),
        tuple(_images(said)),
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
    """The words of one part of a message; separate reasoning is marked by tags, as in any other answer."""
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


def _fits(one: Given, sample: Sample) -> bool:
    """Whether nothing that the row says contradicts it."""
    return _asks(one.prompt, sample) and _shows(one.images, sample)


def _asks(prompt: str, sample: Sample) -> bool:
    """Whether the question is in the prompt, which may hold a template around it and image marks in other places."""
    pieces = (" ".join(piece.split()) for piece in PLACEHOLDER.split(sample.question))
    return not prompt or all(piece in prompt for piece in pieces)


def _shows(images: Sequence[str], sample: Sample) -> bool:
    return not images or (
        len(images) == len(sample.images) and all(_same_file(*pair) for pair in zip(images, sample.images, strict=True))
    )


def _same_file(one: str, other: str) -> bool:
    """Whether one path is the end of the other: tools look at the same folder from different places."""
    shorter, longer = sorted((f"/{one.lstrip('./')}", f"/{other.lstrip('./')}"), key=len)
    return longer.endswith(shorter)


def _by_id(one: Given, known: Mapping[str, Sample]) -> Sample:
    if one.id is None or one.id not in known:
        raise one.row.error(
            "id", "the id of a sample", one.id, "give the data that were asked with --data and --splits"
        )
    if not _fits(one, sample := known[one.id]):
        raise DataError(
            f"{one.row.place}: expected an answer to sample {one.id!r} ({sample.question!r:.80}), found one to "
            f"{one.prompt!r:.80}; "
            "name the data that were asked (--data, --splits), or take out the ids if they count something else"
        )
    return sample


def _by_content(given: Sequence[Given], samples: Sequence[Sample]) -> list[Sample]:
    asked: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        asked[sample.question].append(sample)
    return [_only_one(one, asked, len(given), len(samples)) for one in given]


def _only_one(one: Given, asked: Mapping[str, list[Sample]], rows: int, samples: int) -> Sample:
    """The sample whose question and images are those of the row.

    Of questions of which one holds the other, the longest is meant.
    """
    questions = [question for question, of in asked.items() if one.prompt and _asks(one.prompt, of[0])]
    longest = max(questions, key=len, default="")
    fitting = [sample for sample in asked.get(longest, []) if _shows(one.images, sample)]
    if len(fitting) != 1:
        found = f"{len(fitting):,} that it could be" if fitting else "none that it could be"
        raise DataError(
            f"{one.row.place}: expected one sample of the {samples:,} that it answers, found {found} (the file has "
            f"{rows:,} rows); "
            "give each row the sample's id, or name with --data and --splits just what was asked, in its order"
        )
    return fitting[0]
