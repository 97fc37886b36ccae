"""HoliSafe-Bench (arXiv 2506.04704): 4,031 questions about an image, safe or unsafe alone and together.

    holisafe_bench.json   [{"id", "image", "query", "category", "subcategory", "type", "image_safe",
                            "image_safety_label"}]
    images/...            ``image`` is relative to this folder

Source: hub set etri-vilab/holisafe-bench (gated), read through public code that loads it: lmms_eval/tasks/holisafe of
EvolvingLMMs-Lab/lmms-eval for the meaning of ``type``. Its letters are S (safe) or U of image, question and both
together: SSS, SSU, USU, UUU, SUU. The last one decides ``harmful``; the set reports the attack success rate of each
type, and the refusal rate of SSS.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.images import find
from mis_lib.data.loader import Loader, identifier, present, sample, text
from mis_lib.data.records import Row
from mis_lib.schema import Sample


def _files(folder: Path, split: str) -> list[Path]:
    return present(folder, "holisafe_bench.json")


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    kind = text(row, "type")
    if not re.fullmatch("[SU]{3}", kind):
        raise row.error("type", "three letters S or U", kind, "restore the row")
    yield sample(
        row,
        "holisafe",
        used=["image", "query", "category", "subcategory"],
        id=f"holisafe-{identifier(row, 'id')}",
        question=text(row, "query"),
        images=[find(folder, row, "image", row.values.get("image"), ("images", ""))],
        category=text(row, "category"),
        sub_category=text(row, "subcategory"),
        split=split,
        harmful=kind[-1] == "U",
    )


LOADER = Loader(
    name="holisafe",
    title="HoliSafe-Bench",
    source="hub set etri-vilab/holisafe-bench; arXiv 2506.04704",
    licence="CC BY-NC 4.0; access is granted on the set's card",
    fetch="hf download etri-vilab/holisafe-bench --repo-type dataset --local-dir FOLDER",
    splits={"test": 4031},
    files=_files,
    convert=_convert,
)
