"""VLSU (arXiv 2510.18214): images with a question, each and both together graded safe, borderline or unsafe by people.

    data/VLSU.csv      prompt, image_grade, consensus_text_grade, consensus_combined_grade, image_category,
                       text_category, combined_category, web_path, uuid
    images/UUID.jpg    one image a row (.jpeg, .png, .webp, too): the set publishes addresses (``web_path``), no images

Source: github apple/ml-vlsu, read through public code that loads it (microsoft/PyRIT, promptfoo); that images are named
by uuid is how a reader of a downloaded copy finds them. The splits are the grades of both together, so that each has
its own rates: borderline questions can be answered with care, so they count as benign, and refusing them is
over-refusal. Rows that people could not grade ("not_sure") are of no split.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.images import find
from mis_lib.data.loader import Loader, optional_text, present, sample, text
from mis_lib.data.records import Row
from mis_lib.schema import Sample

GRADE = "consensus_combined_grade"
GRADES = ("safe", "borderline", "unsafe")
UNGRADED = "not_sure"
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def _files(folder: Path, split: str) -> list[Path]:
    return present(folder, "data/VLSU.csv", "VLSU.csv")


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    grade = text(row, GRADE).lower()
    if grade not in (*GRADES, UNGRADED):
        raise row.error(GRADE, f"one of {', '.join((*GRADES, UNGRADED))}", grade, "restore the row")
    if grade != split:
        return
    uuid = text(row, "uuid")
    yield sample(
        row,
        "vlsu",
        used=["prompt", "uuid", "combined_category"],
        id=f"vlsu-{uuid}",
        question=text(row, "prompt"),
        images=[find(folder, row, "uuid", _image(folder, uuid), ("images",))],
        category=optional_text(row, "combined_category"),
        split=split,
        harmful=split == "unsafe",
    )


def _image(folder: Path, uuid: str) -> str:
    return next((uuid + one for one in ENDINGS if (folder / "images" / (uuid + one)).is_file()), uuid + ENDINGS[0])


LOADER = Loader(
    name="vlsu",
    title="VLSU",
    source="github.com/apple/ml-vlsu; arXiv 2510.18214",
    licence="CC BY-NC-ND",
    fetch="git clone https://github.com/apple/ml-vlsu FOLDER; save what web_path names as FOLDER/images/UUID.jpg",
    splits=dict.fromkeys(GRADES),
    files=_files,
    convert=_convert,
)
