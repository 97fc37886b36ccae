"""M4-Instruct (LLaVA-NeXT-Interleave, arXiv 2407.07895): harmless multi-image instructions; the paper mixes 500 in.

    m4_instruct_annotations.json   [{"sample_id", "image": [paths], "conversations": [...],
                                     "metadata": {"dataset", "split", ...}}]
    Birds-to-Words/...             images of each part, unzipped next to the file

Source: hub set lmms-lab/M4-Instruct-Data. As published, ``sample_id`` repeats between parts, so samples are named by
row, and in some dialogues the first speaker is called "gpt": where the question holds the images, speakers are named by
their turn. Videos are a separate file.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.formats import PLACEHOLDER, Form, parse
from mis_lib.data.loader import Loader, present
from mis_lib.data.records import Row
from mis_lib.schema import Sample


def _files(folder: Path, split: str) -> list[Path]:
    return present(folder, "m4_instruct_annotations.json")


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    metadata = row.values.get("metadata")
    part = metadata.get("dataset") if isinstance(metadata, dict) else None
    category = part if isinstance(part, str) else None
    fields = {"id": f"m4-{row.number}", "split": split, "harmful": False, "category": category}
    yield parse(_speakers(row), folder, form=Form.CONVERSATIONS, source="m4_instruct", **fields).strictly()


def _speakers(row: Row) -> Row:
    """The record, its turns with the speakers in order where the first one shows images as if it were the answer."""
    turns = row.values.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return row
    first = turns[0] if turns else {}
    if first.get("from") != "gpt" or PLACEHOLDER not in str(first.get("value")):
        return row
    right = [{**turn, "from": ("human", "gpt")[number % 2]} for number, turn in enumerate(turns)]
    return row._replace(values={**row.values, "conversations": right})


LOADER = Loader(
    name="m4_instruct",
    title="M4-Instruct",
    source="hub set lmms-lab/M4-Instruct-Data; arXiv 2407.07895",
    licence="CC BY 4.0; that of each part applies too",
    fetch="hf download lmms-lab/M4-Instruct-Data --repo-type dataset --local-dir FOLDER; unzip its parts there; of "
    "some parts alone, keep their rows alone in the file",
    splits={"train": None},
    files=_files,
    convert=_convert,
)
