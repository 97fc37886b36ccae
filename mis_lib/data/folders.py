"""Folders of data: which of the files in one are its splits, for everything that reads or checks a folder.

    *.jsonl                                  if there are any, else
    mis_*.json, then mis_*/mis_*.json        MIS's layout, else
    *.json                                   what other trainers read

Beside the splits lie files that are no data: accounts, and records of other kinds. What ``mis check --remove`` writes is no split either, as
long as the file that it was made of lies beside it; name the file itself to use it.
"""

from pathlib import Path

from mis_lib.errors import DataError

MIXTURE = "mixture.json"
NO_DATA = frozenset(
    ["summary.json", "manifest.json", "dataset_info.json", "dataset_infos.json", "metadata.json", "delta.json", MIXTURE,
     "pairs.jsonl", "regression.jsonl", "pending.jsonl", "rejected.jsonl"]
)  # fmt: skip
CLEAN = ".clean"
PATTERNS = ("*.jsonl", "mis_*.json", "mis_*/mis_*.json", "*.json")


def data_files(path: Path) -> list[Path]:
    """The data files that ``path`` means: itself, or the splits in the folder, by name.

    Raises:
        DataError: there is no such file, or the folder holds no data file.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: expected a data file or a folder, found nothing there; check the path")
    for pattern in PATTERNS:
        if found := sorted(file for file in path.glob(pattern) if _is_split(file)):
            return found
    raise DataError(
        f"{path}: expected JSON Lines or JSON files, or the files of a known data set, found neither; name the data file"
    )


def clean_file(file: Path) -> Path:
    """Where the copy of a data file without some of its rows goes."""
    return file.with_suffix(f"{CLEAN}{file.suffix}")


def _is_split(file: Path) -> bool:
    source = file.with_name(file.name.removesuffix(f"{CLEAN}{file.suffix}") + file.suffix)
    is_copy = source != file and source.is_file()
    return file.name not in NO_DATA and not is_copy and file.is_file()
