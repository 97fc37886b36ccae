"""Folders of data: which of the files in one are its splits, for everything that reads or checks a folder.

    *.jsonl                                  if there are any, else
    mis_*.json, then mis_*/mis_*.json        MIS's layout, else
    *.json                                   what other trainers read, else
    *.parquet, then data/*.parquet           what a data set on the hub is downloaded as; the shards of a split belong together

Beside the splits lie files that are no data: accounts, and records of other kinds. What ``mis check --remove`` writes is no split either, as
long as the file that it was made of lies beside it; name the file itself to use it.
"""

import re
from pathlib import Path

from mis_lib.errors import DataError

MIXTURE = "mixture.json"
NO_DATA = frozenset(
    ["summary.json", "manifest.json", "dataset_info.json", "dataset_infos.json", "metadata.json", "delta.json", MIXTURE,
     "pairs.jsonl", "regression.jsonl", "pending.jsonl", "rejected.jsonl"]
)  # fmt: skip
TEST_SPLITS = ("easy", "hard", "real", "everyday", "test", "validation", "valid", "val", "dev", "eval", "evaluation")
"""Names of splits, here and elsewhere, that nothing is trained on."""
CLEAN = ".clean"
PATTERNS = ("*.jsonl", "mis_*.json", "mis_*/mis_*.json", "*.json", "*.parquet", "data/*.parquet")
SAVED = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` of the package ``datasets`` leaves in a folder, beside Arrow files, which no other program reads."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def data_files(path: Path) -> list[Path]:
    """The data files that ``path`` means: itself, or the splits in the folder, by name.

    Raises:
        DataError: there is no such file, or the folder holds no data file, or what only the package ``datasets`` reads.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: expected a data file or a folder, found nothing there; check the path")
    _refuse_saved(path)
    for pattern in PATTERNS:
        if found := sorted(file for file in path.glob(pattern) if _is_split(file)):
            return found
    raise DataError(
        f"{path}: expected JSON Lines, JSON or parquet files, or the files of a known data set, found none of them; name the data file"
    )


def split_name(file: Path) -> str:
    """The split that a data file holds, or a part of: its name without the number of the shard."""
    return _SHARD.sub("", file.stem)


def clean_file(file: Path) -> Path:
    """Where the copy of a data file without some of its rows goes."""
    return file.with_suffix(f"{CLEAN}{file.suffix}")


def _refuse_saved(path: Path) -> None:
    """Name the way out for a folder of Arrow files, whose ``.json`` files are no data."""
    is_dict = (path / SAVED[0]).is_file()
    if not is_dict and not ((path / SAVED[1]).is_file() and any(path.glob("*.arrow"))):
        return
    loaded = f"datasets.load_from_disk('{path}')"
    line = (
        f"for name, split in {loaded}.items(): split.to_parquet(f'NEW/{{name}}.parquet')"
        if is_dict
        else f"{loaded}.to_parquet('NEW/train.parquet')"
    )
    raise DataError(
        f"{path}: expected data files, found what save_to_disk of the package datasets wrote, which only that package reads; "
        f"make parquet files of it in a folder NEW, which is read: {line}"
    )


def _is_split(file: Path) -> bool:
    source = file.with_name(file.name.removesuffix(f"{CLEAN}{file.suffix}") + file.suffix)
    is_copy = source != file and source.is_file()
    return file.name not in NO_DATA and not is_copy and file.is_file()
