"""MIR-SafetyBench (arXiv 2601.14127): 2,676 attacks over 2 to 4 images, 6 categories by 9 relations between the images.

    Hate_Speech/Analogy_final.json   [{"id", "original_question", "relationship_type", "revised_prompt",
        "image_descriptions", "image_keywords",
                                       "images": ["images/Analogy/Analogy_1_0.png", ...], "iteration"}]
    Hate_Speech/images/Analogy/Analogy_1_0.png

Source: github thu-coai/MIR-SafetyBench, whose ``extract_data.py`` writes this layout from the hub set. The category is
the folder's name and images are relative to it; what is asked is ``revised_prompt``, what was meant
``original_question``.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.images import find, names
from mis_lib.data.loader import Loader, identifier, sample, text
from mis_lib.data.records import Row
from mis_lib.schema import Sample

FEWEST, MOST = 2, 4


def _files(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob("*/*_final.json"))


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    category, relation = row.file.parent.name, row.file.stem.removesuffix("_final")
    if row.values.get("relationship_type") != relation:
        raise row.error("relationship_type", relation, row.values.get("relationship_type"), "it is that of the file")
    images = [find(folder, row, "images", name, (category,)) for name in names(row, "images")]
    if not FEWEST <= len(images) <= MOST:
        raise row.error("images", f"{FEWEST} to {MOST} images", images, "restore the record")
    yield sample(
        row,
        "mir_safetybench",
        used=["revised_prompt", "images", "relationship_type"],
        id=f"mir-{category}-{relation}-{identifier(row, 'id')}",
        question=text(row, "revised_prompt"),
        images=images,
        category=category,
        sub_category=relation,
        split=split,
    )


LOADER = Loader(
    name="mir_safetybench",
    title="MIR-SafetyBench",
    source="github.com/thu-coai/MIR-SafetyBench; arXiv 2601.14127",
    licence="MIT",
    fetch="git clone https://github.com/thu-coai/MIR-SafetyBench; python extract_data.py --output FOLDER "
    "(needs a hub token)",
    splits={"test": 2676},
    files=_files,
    convert=_convert,
)
