"""PKU-SafeRLHF (arXiv 2406.15513; 30K and v0: 2307.04657): questions in words alone, each with two rated responses.

    data/Alpaca-7B/train.jsonl, test.jsonl, ...   prompt, response_0, response_1, is_response_k_safe,
                                                  better_response_id (more helpful), safer_response_id, ...
    train.jsonl, round0/train.jsonl, or parquet   the same, as in PKU-SafeRLHF-30K and v0 (unpacked: xz -d)
    data/train-00000-of-00001.parquet             -QA: prompt, response, is_safe, harm_category, severity_level

Sources: hub sets PKU-Alignment/PKU-SafeRLHF, -30K and -QA (their cards); safe_rlhf/datasets/raw/safe_rlhf.py of github
PKU-Alignment/safe-rlhf. The set rates responses, not questions: a question counts as harmful if any response to it in
its file is unsafe. The answer of a sample is the safer response if it is rated safe, else there is none. All ratings
are kept.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.loader import Loader, sample, text
from mis_lib.data.records import PEEK, Row, Rows, has_column, read_bytes, read_table
from mis_lib.schema import Sample

PATTERNS = ("data/*/{}.jsonl", "round0/{}.jsonl", "{}.jsonl", "data/{}-*.parquet", "{}-*.parquet", "{}.parquet",
            "default/{}/*.parquet")  # fmt: skip
OWN = ("is_response_0_safe", "is_safe")
"""A column of which each file has one: many other sets have files of these names."""


def _files(folder: Path, split: str) -> list[Path]:
    found = (sorted(folder.glob(pattern.format(split))) for pattern in PATTERNS)
    return next((files for files in found if files and _is_of_the_set(files[0])), [])


def _is_of_the_set(file: Path) -> bool:
    if file.suffix == ".parquet":
        return any(has_column(file, name) for name in OWN)
    first = read_bytes(file, PEEK).partition(b"\n")[0]
    return any(f'"{name}"'.encode() in first for name in OWN)


def _rows(file: Path) -> Rows:
    rows = list(read_table(file))
    unsafe = {row.values.get("prompt") for row in rows if isinstance(row, Row) and not all(_ratings(row).values())}
    for row in rows:
        yield row._replace(key="harmful" * (row.values.get("prompt") in unsafe)) if isinstance(row, Row) else row


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    ratings = _ratings(row)
    for name, is_safe in ratings.items():
        if not isinstance(is_safe, bool):
            raise row.error(name, "true or false", is_safe, "restore the row")
    part = row.file.parent.name if row.file.parent.parent.name == "data" else row.file.stem
    yield sample(
        row,
        "pku_saferlhf",
        used=["prompt"],
        id=f"pku_saferlhf-{split}-{part}-{row.number}",
        question=text(row, "prompt"),
        images=[],
        answer=_safer(row),
        split=split,
        harmful=row.key == "harmful",
    )


def _ratings(row: Row) -> dict[str, object]:
    """Whether each response is safe, by field."""
    names = ["is_safe"] if "response" in row.values else ["is_response_0_safe", "is_response_1_safe"]
    return {name: row.values.get(name) for name in names}


def _safer(row: Row) -> str | None:
    """The response that is preferred for safety, if it is rated safe."""
    if "response" in row.values:
        return text(row, "response") if row.values["is_safe"] else None
    chosen = row.values.get("safer_response_id")
    if chosen not in (0, 1):
        raise row.error("safer_response_id", "0 or 1", chosen, "restore the row")
    return text(row, f"response_{chosen}") if row.values[f"is_response_{chosen}_safe"] else None


LOADER = Loader(
    name="pku_saferlhf",
    title="PKU-SafeRLHF",
    source="hub sets PKU-Alignment/PKU-SafeRLHF, PKU-SafeRLHF-30K, PKU-SafeRLHF-QA; arXiv 2406.15513, 2307.04657",
    licence="CC BY-NC 4.0",
    fetch="hf download PKU-Alignment/PKU-SafeRLHF-30K --repo-type dataset --local-dir FOLDER; of .xz files: xz -d",
    splits={"train": None, "test": None},
    files=_files,
    convert=_convert,
    rows=_rows,
)
