"""MM-SafetyBench (arXiv 2311.17600): 1,680 questions of 13 scenarios, each shown as an image in three ways.

    processed_questions/01-Illegal_Activitiy.json   {"0": {"Question", "Changed Question", "Key Phrase", ...}}
    imgs/01-Illegal_Activitiy/SD/0.jpg              and SD_TYPO, TYPO; the misspelling is the published name

Source: github isXinLiu/MM-SafetyBench (files below ``data``). ``SD`` (Stable Diffusion) is asked with "Rephrased
Question(SD)", ``SD_TYPO`` and ``TYPO`` (typography) with "Rephrased Question".
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.images import find
from mis_lib.data.loader import Loader, sample, text
from mis_lib.data.records import Row, json_records
from mis_lib.schema import Sample

QUESTIONS = {"SD": "Rephrased Question(SD)", "SD_TYPO": "Rephrased Question", "TYPO": "Rephrased Question"}


def _files(folder: Path, split: str) -> list[Path]:
    roots = (folder, folder / "data")
    return next((files for root in roots if (files := sorted(root.glob("processed_questions/*.json")))), [])


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    root, scenario = row.file.parent.parent.relative_to(folder).as_posix(), row.file.stem
    yield sample(
        row,
        "mm_safetybench",
        used=[QUESTIONS[split]],
        id=f"mm_safetybench-{split}-{scenario}-{row.key}",
        question=text(row, QUESTIONS[split]),
        images=[find(folder, row, "its key", f"{row.key}.jpg", (f"{root}/imgs/{scenario}/{split}",))],
        category=scenario,
        split=split,
    )


LOADER = Loader(
    name="mm_safetybench",
    title="MM-SafetyBench",
    source="github.com/isXinLiu/MM-SafetyBench; arXiv 2311.17600",
    licence="CC BY-NC 4.0",
    fetch="git clone https://github.com/isXinLiu/MM-SafetyBench FOLDER; unzip its images (linked in its README) to "
    "FOLDER/data/imgs",
    splits=dict.fromkeys(QUESTIONS, 1680),
    files=_files,
    convert=_convert,
    rows=json_records,
)
