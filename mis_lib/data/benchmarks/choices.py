"""Multiple choice: the columns in which general-ability sets hold options, images and right answer, as one prompt.

    options   A, B, ... (VLMEvalKit's TSV); options, a list or its Python text (MMMU, MuirBench); option0, ... with
              "N/A" for none (Q-Bench's parquet); candidates (Q-Bench's JSON); in the question, after "Options: A: "
              (MMStar's parquet)
    images    image, base64 or a Python list of it (TSV), bytes (parquet); image_list; image_1 to image_7; img_path,
              image_path
    answer    answer, correct_choice (a letter); correct_ans (the text of an option); missing or "?" in test sets
              an open answer with alternatives is a Python list in text (MMMU), and is kept as it is

The prompt is the question, the options and one line that asks for a letter; ``options`` keeps them by letter. Text that
refers to an image in its midst (``<image>``, ``<image 2>``) says ``[image 2]``: images come before the text.
"""

import ast
import re
import string
from pathlib import Path
from typing import Any

from mis_lib.data.formats import View, without_placeholders
from mis_lib.data.images import find, unpack
from mis_lib.data.loader import sample, text
from mis_lib.data.records import Row
from mis_lib.schema import Sample

ASK = "Answer with the letter of the right option."
IDS = ("index", "id", "idx", "question_id")
EMBEDDED = ("image", "image_list", *(f"image_{number}" for number in range(1, 8)))
NAMED = ("img_path", "image_path")
ANSWERS = ("answer", "correct_choice", "correct_ans")
COLUMNS = (*string.ascii_uppercase, *(f"option{number}" for number in range(10)))
NO_OPTION, NO_ANSWER = "N/A", "?"
_NUMBERED = re.compile(r"<image (\d+)>")


def multiple_choice(row: Row, folder: Path, source: str, split: str, roots: tuple[str, ...] = ("",)) -> Sample:
    """The sample of one row; ``category`` is kept from the row where it has one, else its ``task``.

    Raises:
        DataError: question, options or answer are not as the set promises.
        ImageError: an image is missing or none.
    """
    key = next((str(row.values[name]) for name in IDS if name in row.values), f"{row.file.stem}-{row.number}")
    images, shown = _images(row, folder, key, roots)
    options, listed = _options(row)
    inline = {} if options else _inline_options(text(row, "question"))  # then not repeated
    lines = [text(row, "question"), *(f"{letter}. {option}" for letter, option in options.items())]
    options = options or inline
    prompt = "\n".join([*lines, ASK] if options else lines)
    category = next((name for name in ("category", "task", "subfield") if isinstance(row.values.get(name), str)), None)
    used = [*shown, *listed, "question", *(name for name in (*ANSWERS, category) if name)]
    kept = {"options": options} if options else {}
    return sample(
        row,
        source,
        used=used,
        id=f"{source}-{split}-{key}",
        question=_referring(row, prompt, len(images)),
        images=images,
        answer=_answer(row, options),
        category=row.values[category] if category else None,
        split=split,
        harmful=False,
        **kept,
    )


def _images(row: Row, folder: Path, key: str, roots: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The images, embedded or named, and the columns that hold them."""
    fields = [name for name in EMBEDDED if name in row.values]
    contents = [(name, part) for name in fields for part in _as_list(row, name)]
    if contents:
        numbered = enumerate(contents, 1)
        return [unpack(folder, row, name, f"{key}-{number}", part) for number, (name, part) in numbered], fields
    named = next((name for name in NAMED if name in row.values), None)
    if named is None:
        raise row.error("image", f"an image in one of {', '.join((*EMBEDDED, *NAMED))}", None, "fetch the table again")
    return [find(folder, row, named, part, roots) for part in _as_list(row, named)], [named]


def _as_list(row: Row, name: str) -> list[Any]:
    """A cell's value as a list; a text that is a Python list is read as one, never run."""
    value = row.values[name]
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise row.error(name, "a list", value, "fetch the table again") from error
    found = list(value) if isinstance(value, list | tuple) else [value]
    if not found:
        raise row.error(name, "one value or more", value, "fetch the table again")
    return found


def _options(row: Row) -> tuple[dict[str, str], list[str]]:
    """Options by letter, and the columns that hold them; none for an open question."""
    columns = [name for name in ("options", "candidates") if name in row.values]
    if columns:
        listed = [] if row.values[columns[0]] in ("[]", []) else _as_list(row, columns[0])
    else:
        columns = [name for name in COLUMNS if name in row.values]
        listed = [row.values[name] for name in columns if row.values[name] != NO_OPTION]
    if not all(isinstance(option, str | int | float) and str(option).strip() for option in listed):
        raise row.error(columns[0], "options that are texts", listed, "fetch the table again")
    if len(listed) == 1 or len(listed) > len(string.ascii_uppercase):
        raise row.error(columns[0], "no option (an open question) or 2 to 26", listed, "fetch the table again")
    return dict(zip(string.ascii_uppercase, map(str, listed), strict=False)), columns


def _inline_options(question: str) -> dict[str, str]:
    """The options that a question itself lists after "Options:", by letter.

    A, B and so on as far as they come one after the other.
    """
    listed = question.rpartition("Options:")[2] if "Options:" in question else ""
    starts: list[re.Match[str]] = []
    for letter in string.ascii_uppercase:
        found = re.compile(rf"(?<!\w){letter}:").search(listed, starts[-1].end() if starts else 0)
        if found is None:
            break
        starts.append(found)
    ends = [*(start.start() for start in starts[1:]), len(listed)]
    texts = [listed[start.end() : end].strip(" \n,") for start, end in zip(starts, ends, strict=False)]
    return dict(zip(string.ascii_uppercase, texts, strict=False)) if len(texts) > 1 else {}


def _answer(row: Row, options: dict[str, str]) -> str | None:
    """The letter of the right option, or the words of an open answer; None where the set keeps it back."""
    name = next((name for name in ANSWERS if name in row.values), None)
    value = row.values[name] if name else None
    if name is None or value in (NO_ANSWER, ""):
        return None
    if not isinstance(value, str | int | float):
        raise row.error(name, "a letter or a text", value, "fetch the table again")
    if not options or (name != "correct_ans" and str(value) in options):
        return str(value)
    letter = next((letter for letter, option in options.items() if name == "correct_ans" and option == value), None)
    if letter is None:
        raise row.error(name, f"one of the options ({', '.join(options)})", value, "fetch the table again")
    return letter


def _referring(row: Row, prompt: str, images: int) -> str:
    seen = View(row)
    (prompt,) = without_placeholders(seen, [prompt], images)
    if seen.errors:
        raise seen.errors[0]
    beyond = [found for found in _NUMBERED.findall(prompt) if not 1 <= int(found) <= images]
    if beyond:
        raise row.error("question", f"references to its {images} images", f"<image {beyond[0]}>", "fetch it again")
    return _NUMBERED.sub(r"[image \1]", prompt)
