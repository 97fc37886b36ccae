"""USB-SafeBench (arXiv 2505.23793): risk in the image, the text, both or only together, and harmless look-alikes.

    USB_base_final.csv, USB_hard_final.csv   id, usage, text, open_url, img_risk, text_risk, level1_category,
                                             level2_category, level3_category, img_style
    img/...                                  unpacked from img.zip; ``open_url`` is relative to the folder of the CSV

Source: hub set cgjacklin/USB (gated), read through public code that loads it: tasks ``usb_base`` and ``usb_hard`` of
allenai's olmo-eval. ``usage`` is "vulnerability" or "overrefusal" (300 questions of MOSSBench in each file), which
decides ``harmful``. ``combination`` is made of ``img_risk`` and ``text_risk`` ("1" or "0"): RIRT, RIST, SIRT, SIST.
Ids are not unique, so samples are named by row. The hub lacks a dozen images: a row without its image is an error.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.images import find
from mis_lib.data.loader import Loader, present, sample, text
from mis_lib.data.records import Row
from mis_lib.schema import Sample

HARMFUL = {"vulnerability": True, "overrefusal": False}
RISK = {"1": "R", "0": "S"}


def _files(folder: Path, split: str) -> list[Path]:
    return present(folder, f"USB_{split}_final.csv")


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    usage = text(row, "usage")
    if usage not in HARMFUL:
        raise row.error("usage", " or ".join(HARMFUL), usage, "restore the row")
    yield sample(
        row,
        "usb",
        used=["text", "open_url", "level1_category", "level2_category"],
        id=f"usb-{split}-{row.number}",
        question=text(row, "text"),
        images=[find(folder, row, "open_url", row.values.get("open_url"))],
        category=text(row, "level1_category"),
        sub_category=text(row, "level2_category"),
        split=split,
        harmful=HARMFUL[usage],
        **({"combination": _combination(row)} if HARMFUL[usage] else {}),
    )


def _combination(row: Row) -> str:
    letters = [RISK.get(text(row, name)) for name in ("img_risk", "text_risk")]
    if None in letters:
        raise row.error("img_risk", "1 or 0 there and in text_risk", row.values.get("img_risk"), "restore the row")
    return f"{letters[0]}I{letters[1]}T"


LOADER = Loader(
    name="usb",
    title="USB-SafeBench",
    source="hub set cgjacklin/USB; github.com/Hongqiong12/USB-SafeBench; arXiv 2505.23793",
    licence="Apache 2.0, for research; access is granted on the set's card",
    fetch="hf download cgjacklin/USB --repo-type dataset --local-dir FOLDER; unzip img.zip there",
    splits={"base": 13175, "hard": 3785},
    files=_files,
    convert=_convert,
)
