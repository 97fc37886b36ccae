"""VLGuard (arXiv 2402.02207): 2,000 training and 1,000 test images, each with one or two instructions.

    train.json, test.json   [{"id", "image", "safe", "harmful_category"?, "harmful_subcategory"?, "instr-resp": [...]}]
    train/bad_ads/x.png     images, below a folder named as the split; or next to the file

Source: github ys-zong/VLGuard, hub set ys-zong/VLGuard. An unsafe image has one ``instruction`` (subset ``unsafes``), a
safe one a ``safe_instruction`` and an ``unsafe_instruction`` (``safe_safes``, ``safe_unsafes``), which become twins. As
published, the id Ads_303871 occurs twice in train, so samples are named by row; 17 safe test instructions have an empty
response, which is no answer.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mis_lib.data.images import find
from mis_lib.data.loader import Loader, identifier, optional_text, present, sample, text
from mis_lib.data.records import Row
from mis_lib.schema import Sample

SUBSETS = {"instruction": "unsafes", "safe_instruction": "safe_safes", "unsafe_instruction": "safe_unsafes"}


def _files(folder: Path, split: str) -> list[Path]:
    return present(folder, f"{split}.json", f"data/{split}.json")


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    identifier(row, "id")
    root = row.file.parent.relative_to(folder).as_posix()
    roots = (f"{root}/{split}", root, f"{split}/{split}", split)
    image = find(folder, row, "image", row.values.get("image"), roots)
    asked = [_asked(row, pair, split) for pair in _pairs(row)]
    for pair, kind in asked:
        other = next((f"vlguard-{split}-{row.number}-{twin}" for _, twin in asked if twin != kind), None)
        yield sample(
            row,
            "vlguard",
            used=["image", "instr-resp", "harmful_category", "harmful_subcategory"],
            id=f"vlguard-{split}-{row.number}-{kind}",
            question=text(pair, kind),
            images=[image],
            answer=optional_text(pair, "response"),
            category=optional_text(row, "harmful_category"),
            sub_category=optional_text(row, "harmful_subcategory"),
            split=split,
            harmful=kind != "safe_instruction",
            twin_id=other,
            subset=SUBSETS[kind],
        )


def _pairs(row: Row) -> list[Any]:
    """The instructions of a record: one of an unsafe image, two of a safe one."""
    safe, pairs = row.values.get("safe"), row.values.get("instr-resp")
    if not isinstance(safe, bool):
        raise row.error("safe", "true or false", safe, "write whether the image is safe")
    if not isinstance(pairs, list) or len(pairs) != (2 if safe else 1):
        expected = "a safe and an unsafe instruction" if safe else "one instruction"
        raise row.error("instr-resp", f"a list with {expected}", pairs, "restore the published record")
    found = [kind for pair in pairs for kind in SUBSETS if isinstance(pair, dict) and kind in pair]
    if sorted(found) != (["safe_instruction", "unsafe_instruction"] if safe else ["instruction"]):
        raise row.error("instr-resp", "the instructions of a safe or an unsafe image", pairs, "restore the record")
    return pairs


def _asked(row: Row, pair: dict[str, Any], split: str) -> tuple[Row, str]:
    """An instruction with its response as a separate row, and which of the three it is."""
    kind, response = next(kind for kind in SUBSETS if kind in pair), pair.get("response")
    published_empty = (split, kind, response) == ("test", "safe_instruction", "")
    if not isinstance(response, str) or not (response.strip() or published_empty):
        raise row.error("instr-resp.response", "a text", response, "write the response")
    return row._replace(values=pair), kind


LOADER = Loader(
    name="vlguard",
    title="VLGuard",
    source="github.com/ys-zong/VLGuard; arXiv 2402.02207",
    licence="see the set's card: access is granted there",
    fetch="hf download ys-zong/VLGuard --repo-type dataset --local-dir FOLDER; unzip train.zip and test.zip there",
    splits={"train": 2000, "test": 1000},
    files=_files,
    convert=_convert,
    is_named_as_others=True,
)
