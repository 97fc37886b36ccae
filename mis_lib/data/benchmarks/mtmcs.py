"""MTMCS-Bench (arXiv 2601.06757): dialogues of three turns about an image, each with a benign twin.

    data/type_a-*.parquet, data/type_b-*.parquet   id, image, variant_images, unsafe_intent,
        multimodal_dialogue, unimodal_dialogue     {"r1", "r2", "r3", "safe_r1", "unsafe_r1", "safe_r3", "unsafe_r3"}
        multimodal_mcq, multimodal_tf, unimodal_mcq, unimodal_tf

Source: github franciscoliu/MTMCS-Bench@9fa7c84, whose ``inference.py`` reads hub set ND-25/MCS-bench; the set itself
was not seen, nor the names of its files. All of r1 to r3 are the user's; the model's answers come between them.
Type A escalates: twins share the first two turns, and the last one differs. Type B switches the context: twins share
image and last question, and the first turn differs, so that the history alone decides. Dialogues without an image are
splits of their own.

The authors score all answers of a dialogue together, so any unsafe answer makes a harmful one unsafe. Their scripts
send the image with the newest question; here it belongs to the first one and remains in the history. Their questions
about a dialogue (mcq, tf) are kept and not asked; ``variant_images``, which their scripts do not show, are left out.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mis_lib.data.images import find, unpack
from mis_lib.data.loader import Loader, identifier, optional_text, sample
from mis_lib.data.records import Row
from mis_lib.schema import Sample

TEXT = "_text"
DIALOGUES = {"": "multimodal_dialogue", TEXT: "unimodal_dialogue"}
QUESTIONS = {"": ("multimodal_mcq", "multimodal_tf"), TEXT: ("unimodal_mcq", "unimodal_tf")}


def _files(folder: Path, split: str) -> list[Path]:
    name = split.removesuffix(TEXT)
    found = ([*sorted(root.glob(f"{name}-*.parquet")), *sorted(root.glob(f"{name}.json*"))] for root in _roots(folder))
    return next((files for files in found if files), [])


def _roots(folder: Path) -> Iterator[Path]:
    yield from (folder / "data", folder)


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    kind, key = split.removesuffix(TEXT), identifier(row, "id")
    form = TEXT if split.endswith(TEXT) else ""
    dialogue = row.values.get(DIALOGUES[form])
    if not isinstance(dialogue, dict):
        raise row.error(DIALOGUES[form], "the turns of a dialogue", dialogue, "restore the record")
    images = [] if form else [_image(row, folder, key)]
    names = {harmful: f"mtmcs-{split}-{key}-{'unsafe' if harmful else 'safe'}" for harmful in (True, False)}
    dropped = ["image", "variant_images", *DIALOGUES.values(), *(QUESTIONS[TEXT] if not form else QUESTIONS[""])]
    for harmful, name in names.items():
        *before, last = _turns(row, dialogue, kind, harmful=harmful)
        history = [{"question": asked, "images": len(images) if not at else 0} for at, asked in enumerate(before)]
        yield sample(
            row,
            "mtmcs",
            used=[*dropped, *([] if harmful else ["unsafe_intent"])],
            id=name,
            twin_id=names[not harmful],
            question=last,
            images=images,
            history=history,
            judged="any" if harmful else "last",
            split=split,
            sub_category={"type_a": "escalation", "type_b": "context switch"}[kind],
            harmful=harmful,
        )


def _image(row: Row, folder: Path, key: str) -> str:
    image: Any = row.values.get("image")
    if isinstance(image, str):
        return find(folder, row, "image", image, (row.file.parent.relative_to(folder).as_posix(), ""))
    return unpack(folder, row, "image", key, image)


def _turns(row: Row, dialogue: dict[str, Any], kind: str, *, harmful: bool) -> list[str]:
    """The user's turns; the one that twins do not share falls back on the common one, as in the authors' scripts."""
    own = {"type_a": "r3", "type_b": "r1"}[kind]
    found = []
    for name in ("r1", "r2", "r3"):
        fields = [f"{'unsafe' if harmful else 'safe'}_{name}", name] if name == own else [name]
        texts = (optional_text(row._replace(values=dialogue), field) for field in fields)
        asked = next((words for words in texts if words), None)
        if asked is None:
            raise row.error(fields[0], "a turn of the user", dialogue.get(fields[0]), "restore the record")
        found.append(asked)
    return found


LOADER = Loader(
    name="mtmcs",
    title="MTMCS-Bench",
    source="github.com/franciscoliu/MTMCS-Bench; hub set ND-25/MCS-bench; arXiv 2601.06757",
    licence="CC0 of the metadata, as reported; see the set's card",
    fetch="hf download ND-25/MCS-bench --repo-type dataset --local-dir FOLDER",
    splits={"type_a": None, "type_b": None, f"type_a{TEXT}": None, f"type_b{TEXT}": None},
    files=_files,
    convert=_convert,
)
