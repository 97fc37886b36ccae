"""SIUO, Safe Inputs but Unsafe Output (arXiv 2406.15279): 167 pairs of image and question, harmful only together.

    siuo_gen.json    [{"question_id", "image": "S-01.png", "question", "category", "safety_warning",
                       "reference_answer"}]
    siuo_mcqa.json   the same with "options": {"A": ...} and "correct_option" instead of the last two
    images/S-01.png

Source: github sinwang20/SIUO (files below ``data``), hub set sinwang/SIUO. Image names have no folder, and the official
judge script joins them without a separator; they are looked for in ``images``.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.images import find
from mis_lib.data.loader import Loader, identifier, optional_text, present, sample, text
from mis_lib.data.records import Row
from mis_lib.schema import Sample


def _files(folder: Path, split: str) -> list[Path]:
    return present(folder, f"siuo_{split}.json", f"data/siuo_{split}.json")


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    root = row.file.parent.relative_to(folder).as_posix()
    image = find(folder, row, "image", row.values.get("image"), (f"{root}/images", root, "images", "SIUO-images"))
    gen = split == "gen"
    question = text(row, "question") if gen else _with_options(row)
    yield sample(
        row,
        "siuo",
        used=["image", "category", *(["question", "reference_answer"] if gen else ["correct_option"])],
        id=f"siuo-{split}-{identifier(row, 'question_id')}",
        question=question,
        images=[image],
        answer=optional_text(row, "reference_answer") if gen else text(row, "correct_option"),
        category=text(row, "category"),
        split=split,
    )


def _with_options(row: Row) -> str:
    options = row.values.get("options")
    if not isinstance(options, dict) or not options or not all(isinstance(option, str) for option in options.values()):
        raise row.error("options", "an object of letters and texts", options, "restore the record")
    if row.values.get("correct_option") not in options:
        raise row.error(
            "correct_option", f"one of {', '.join(options)}", row.values.get("correct_option"), "restore it"
        )
    lines = [text(row, "question"), *(f"{letter}. {option}" for letter, option in options.items())]
    return "\n".join([*lines, "Answer with the letter of the right option."])


LOADER = Loader(
    name="siuo",
    title="SIUO",
    source="github.com/sinwang20/SIUO; arXiv 2406.15279",
    licence="CC BY-NC 4.0, research only",
    fetch="git clone https://github.com/sinwang20/SIUO FOLDER; unzip SIUO-images.zip (linked in its README) to "
    "FOLDER/data/images",
    splits={"gen": 167, "mcqa": 167},
    files=_files,
    convert=_convert,
)
