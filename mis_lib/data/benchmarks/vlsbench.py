"""VLSBench (arXiv 2411.19939): harm that only the image shows; 2,241 questions about 1,957 images.

    data.json    [{"instruction_id", "instruction", "image_path": "imgs/0.png", "category", "sub_category",
                   "source", ...}]
    imgs/0.png

Source: github AI45Lab/VLSBench (file below ``data``), hub set Foreshhh/vlsbench. As published, instruction 1685 is
empty: the image speaks alone.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.images import find
from mis_lib.data.loader import Loader, identifier, present, sample, text
from mis_lib.data.records import Row
from mis_lib.schema import Sample

PUBLISHED_EMPTY = "1685"


def _files(folder: Path, split: str) -> list[Path]:
    return present(folder, "data.json", "data/data.json")


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    key, root = identifier(row, "instruction_id"), row.file.parent.relative_to(folder).as_posix()
    yield sample(
        row,
        "vlsbench",
        used=["instruction", "image_path", "category", "sub_category"],
        id=f"vlsbench-{key}",
        question="" if key == PUBLISHED_EMPTY and row.values.get("instruction") == "" else text(row, "instruction"),
        images=[find(folder, row, "image_path", row.values.get("image_path"), (root, ""))],
        category=text(row, "category"),
        sub_category=text(row, "sub_category"),
        split=split,
    )


LOADER = Loader(
    name="vlsbench",
    title="VLSBench",
    source="github.com/AI45Lab/VLSBench; arXiv 2411.19939",
    licence="see the set's card",
    fetch="hf download Foreshhh/vlsbench --repo-type dataset --local-dir FOLDER; unpack its images to FOLDER/imgs",
    splits={"test": 2241},
    files=_files,
    convert=_convert,
    is_named_as_others=True,
)
