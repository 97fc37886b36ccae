"""JailBreakV-28K (arXiv 2404.03027): jailbreak texts of language models, and image attacks, each with an image.

    JailBreakV_28K/mini_JailBreakV_28K.csv, JailBreakV_28K.csv   id, jailbreak_query, redteam_query, format, policy,
        image_path, from,
                                                                 selected_mini, transfer_from_llm
    JailBreakV_28K/figstep/..., llm_transfer_attack/..., query_related/...   images; image_path is relative
        to the folder of the CSV

Source: hub set JailbreakV-28K/JailBreakV-28k. Copies without all of the images are common; each row without its image
is an error.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.images import find
from mis_lib.data.loader import Loader, identifier, present, sample, text
from mis_lib.data.records import Row
from mis_lib.schema import Sample

TABLES = {"mini": "mini_JailBreakV_28K.csv", "full": "JailBreakV_28K.csv"}


def _files(folder: Path, split: str) -> list[Path]:
    return present(folder, TABLES[split], f"JailBreakV_28K/{TABLES[split]}")


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    root = row.file.parent.relative_to(folder).as_posix()
    yield sample(
        row,
        "jailbreakv",
        used=["jailbreak_query", "image_path", "policy"],
        id=f"jailbreakv-{split}-{identifier(row, 'id')}",
        question=text(row, "jailbreak_query"),
        images=[find(folder, row, "image_path", row.values.get("image_path"), (root,))],
        category=text(row, "policy"),
        split=split,
    )


LOADER = Loader(
    name="jailbreakv",
    title="JailBreakV-28K",
    source="hub set JailbreakV-28K/JailBreakV-28k; arXiv 2404.03027",
    licence="MIT",
    fetch="hf download JailbreakV-28K/JailBreakV-28k --repo-type dataset --local-dir FOLDER",
    splits={"mini": 280, "full": 28000},
    files=_files,
    convert=_convert,
)
