"""Published data sets by name: ``LOADERS["vlguard"].load(folder, "train")``; one small file each.

Nothing is downloaded: people fetch a set themselves, after reading its licence, and name the folder.
"""

from pathlib import Path

from mis_lib.data.benchmarks import (
    beavertails_v,
    figstep,
    general,
    holisafe,
    jailbreakv,
    m4_instruct,
    mir_safetybench,
    mis,
    mm_safetybench,
    mossbench,
    mssbench,
    msts,
    mtmcs,
    pku_saferlhf,
    siuo,
    spa_vl,
    usb,
    vlguard,
    vlsbench,
    vlsu,
)
from mis_lib.data.formats import form_of
from mis_lib.data.loader import Loader
from mis_lib.data.records import Row, reported
from mis_lib.errors import DataError
from mis_lib.schema import Record

LOADERS: dict[str, Loader] = {
    "mis": mis.LOADER,
    "vlguard": vlguard.LOADER,
    "mssbench": mssbench.LOADER,
    "siuo": siuo.LOADER,
    "figstep": figstep.LOADER,
    "mm_safetybench": mm_safetybench.LOADER,
    "jailbreakv": jailbreakv.LOADER,
    "mossbench": mossbench.LOADER,
    "vlsbench": vlsbench.LOADER,
    "mir_safetybench": mir_safetybench.LOADER,
    "mtmcs": mtmcs.LOADER,
    "holisafe": holisafe.LOADER,
    "usb": usb.LOADER,
    "vlsu": vlsu.LOADER,
    "msts": msts.LOADER,
    "beavertails_v": beavertails_v.LOADER,
    "spa_vl": spa_vl.LOADER,
    "pku_saferlhf": pku_saferlhf.LOADER,
    "m4_instruct": m4_instruct.LOADER,
    "mmstar": general.MMSTAR,
    "mmmu": general.MMMU,
    "muirbench": general.MUIRBENCH,
    "mmt_bench": general.MMT_BENCH,
    "qbench": general.QBENCH,
}


class Instruction(Record):
    """How to fetch one data set, and what it is."""

    name: str
    title: str
    source: str
    licence: str
    fetch: str
    splits: dict[str, int | None]


def find_loader(name: str) -> Loader:
    """The loader of a data set.

    Raises:
        DataError: there is none of that name.
    """
    if name not in LOADERS:
        raise DataError(f"Unknown data set {name!r}. Known: {', '.join(LOADERS)}")
    return LOADERS[name]


def recognise(folder: Path) -> list[Loader]:
    """The loaders that find their files in a folder.

    One of common names (``train.json``) only if these hold none of the common forms.
    """
    return [loader for loader in LOADERS.values() if loader.available(folder) and not _is_of_others(loader, folder)]


def _is_of_others(loader: Loader, folder: Path) -> bool:
    if not loader.is_named_as_others:
        return False
    files = [file for split in loader.available(folder) for file in loader.files(folder, split)]
    first = [next(reported(loader.rows, file), None) for file in files]
    return all(isinstance(row, Row) and form_of(row.values) is not None for row in first)


def fetch_instructions() -> list[Instruction]:
    """How to fetch each data set; FOLDER is the folder to put it in."""
    fields = Instruction.model_fields
    return [Instruction(**{name: getattr(loader, name) for name in fields}) for loader in LOADERS.values()]
