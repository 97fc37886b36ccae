"""MOSSBench (arXiv 2406.17806): 300 harmless questions that look dangerous, and a harmful contrast for 244 of them.

    data/images_information/information.json            {"1": {"image", "question", "short description", "pid",
                                                               "metadata": {...}}}
    data_contrast/images_information/information.json   the same; here metadata is a text that holds a Python dict
    data/images/1.png                                   named "images/1.png", relative to data (or data_contrast)

Source: github xirui-li/MOSSBench, hub set AIcell/MOSSBench. ``metadata.over`` is the type of stimulus: exaggerated
risk, negated harm, counterintuitive interpretation.
"""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mis_lib.data.images import find
from mis_lib.data.loader import Loader, identifier, present, sample, text
from mis_lib.data.records import Row, json_records
from mis_lib.schema import Sample

FOLDERS = {"test": "data", "contrast": "data_contrast"}
STIMULI = {"type 1": "Exaggerated Risk", "type 2": "Negated Harm", "type 3": "Counterintuitive Interpretation"}


def _files(folder: Path, split: str) -> list[Path]:
    return present(folder, f"{FOLDERS[split]}/images_information/information.json")


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    metadata = _metadata(row)
    yield sample(
        row,
        "mossbench",
        used=["image", "question", "metadata"],
        id=f"mossbench-{split}-{identifier(row, 'pid')}",
        question=text(row, "question"),
        images=[find(folder, row, "image", row.values.get("image"), (FOLDERS[split],))],
        category=STIMULI[metadata["over"]],
        split=split,
        harmful=split == "contrast",
        metadata=metadata,
    )


def _metadata(row: Row) -> dict[str, Any]:
    value = row.values.get("metadata")
    try:
        value = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise row.error("metadata", "an object, or a Python dict as text", value, "restore the record") from error
    if not isinstance(value, dict) or value.get("over") not in STIMULI:
        raise row.error("metadata.over", f"one of {', '.join(STIMULI)}", value, "restore the record")
    return value


LOADER = Loader(
    name="mossbench",
    title="MOSSBench",
    source="github.com/xirui-li/MOSSBench; arXiv 2406.17806",
    licence="CC BY-SA 4.0, for testing only",
    fetch="git clone https://github.com/xirui-li/MOSSBench FOLDER",
    splits={"test": 300, "contrast": 244},
    files=_files,
    convert=_convert,
    rows=json_records,
)
