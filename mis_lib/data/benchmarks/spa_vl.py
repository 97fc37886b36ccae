"""SPA-VL (arXiv 2406.12030): questions about images of 53 categories of harm with a preferred and a rejected response.

    data/train-*.parquet, validation/validation-*.parquet   image, question, chosen, rejected, class1, class2, class3
    test/harm-*.parquet, test/help-*.parquet                the same without responses, 265 rows each

Source: hub set sqrti/SPA-VL (its card, and the commit that added ``validation``); README of EchoseChen/SPA-VL-RLHF
on ``chosen`` and ``rejected``. One preference covers harmlessness and helpfulness together: the set does not say which
of the two decided. ``help`` measures helpfulness, so its questions count as benign. Images are unpacked.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.images import unpack
from mis_lib.data.loader import Loader, optional_text, sample, text
from mis_lib.data.preferences import Rated
from mis_lib.data.records import Row, has_column
from mis_lib.schema import Sample

PATTERNS = {
    "train": "data/train-*.parquet",
    "validation": "validation/validation-*.parquet",
    "harm": "test/harm-*.parquet",
    "help": "test/help-*.parquet",
}


def _files(folder: Path, split: str) -> list[Path]:
    """Those of the set's own columns: many other sets have a ``data/train-00000-of-00001.parquet``."""
    found = sorted(folder.glob(PATTERNS[split]))
    return found if found and has_column(found[0], "class3") else []


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    name = f"{row.file.stem}-{row.number}"
    yield sample(
        row,
        "spa_vl",
        used=["question", "image", "class1", "class2"],
        id=f"spa_vl-{name}",
        question=text(row, "question"),
        images=[unpack(folder, row, "image", name, row.values.get("image"), split)],
        answer=optional_text(row, "chosen"),
        category=text(row, "class1"),
        sub_category=text(row, "class2"),
        split=split,
        harmful=split != "help",
    )


def _rated(sample: Sample) -> Rated | None:
    known = sample.model_extra or {}
    if not known.get("chosen") or not known.get("rejected"):
        return None
    return Rated((known["chosen"], known["rejected"]), {"overall": 0})


LOADER = Loader(
    name="spa_vl",
    title="SPA-VL",
    source="hub set sqrti/SPA-VL; arXiv 2406.12030",
    licence="CC BY 4.0",
    fetch="hf download sqrti/SPA-VL --repo-type dataset --include '*.parquet' --local-dir FOLDER",
    splits={"train": None, "validation": 7000, "harm": 265, "help": 265},
    files=_files,
    convert=_convert,
    rated=_rated,
)
