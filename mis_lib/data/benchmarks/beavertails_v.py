"""BeaverTails-V (arXiv 2503.17682, Safe RLHF-V): questions about images of 20 categories with two rated responses.

    data/animal_abuse/train.parquet, evaluation.parquet   question, image, category, image_severity, response_1,
        response_2, response_k_from, is_response_k_safe ("yes", "no"), safer_response_id, more_helpful_response_id,
        response_k_harmless_rate, ...

Source: hub set saferlhf-v/BeaverTails-V. The answer of a sample is the safer response if it is marked safe, else there
is none: no unsafe response becomes a training target. All ratings are kept. Images are unpacked.

The two ratings stay apart: for preference training ``_rated`` says which response is the more helpful one and which
the safer one.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.images import unpack
from mis_lib.data.loader import Loader, optional_text, sample, text
from mis_lib.data.preferences import Rated, Rating
from mis_lib.data.records import Row, has_column
from mis_lib.schema import Sample

SAFE = ("yes", "true", "1")


def _files(folder: Path, split: str) -> list[Path]:
    """Those of the set's own columns: many other sets have a ``data/train-00000-of-00001.parquet``."""
    roots = (folder / "data", folder)
    found = (sorted(root.glob(f"*/{split}*.parquet")) for root in roots)
    return next((files for files in found if files and has_column(files[0], "image_severity")), [])


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    group = row.file.parent.name
    row = row._replace(values={name: value for name, value in row.values.items() if value != ""})
    yield sample(
        row,
        "beavertails_v",
        used=["question", "image", "category"],
        id=f"beavertails_v-{split}-{group}-{row.file.stem}-{row.number}",
        question=text(row, "question"),
        images=[unpack(folder, row, "image", str(row.number), row.values.get("image"), f"{group}-{split}")],
        answer=_safer(row),
        category=text(row, "category"),
        split=split,
    )


def _safer(row: Row) -> str | None:
    """The response marked as the safer one, if it is marked safe; a row without responses has none."""
    chosen = row.values.get("safer_response_id")
    if chosen is None:
        single = optional_text(row, "response")
        return single if _is_safe(row, "is_response_safe") else None
    number = _number(chosen)
    if number not in ("1", "2"):
        raise row.error("safer_response_id", "1 or 2", chosen, "restore the row")
    return text(row, f"response_{number}") if _is_safe(row, f"is_response_{number}_safe") else None


def _number(value: object) -> str:
    return str(value).removeprefix("response_").strip()


def _is_safe(row: Row, name: str) -> bool:
    return _says_yes(row.values.get(name, ""))


def _says_yes(value: object) -> bool:
    return str(value).strip().lower() in SAFE


def _rated(sample: Sample) -> Rated | None:
    known = sample.model_extra or {}
    responses = [known.get(f"response_{number}") for number in (1, 2)]
    if not all(isinstance(one, str) and one.strip() for one in responses):
        return None
    places = {"1": 0, "2": 1}
    more_helpful, safer = (_number(known.get(name)) for name in ("more_helpful_response_id", "safer_response_id"))
    preferred: dict[Rating, int] = {}
    if more_helpful in places:
        preferred["helpful"] = places[more_helpful]
    if safer in places:
        preferred["safer"] = places[safer]
    return Rated(
        (str(responses[0]), str(responses[1])),
        preferred,
        (_says_yes(known.get("is_response_1_safe")), _says_yes(known.get("is_response_2_safe"))),
    )


LOADER = Loader(
    name="beavertails_v",
    title="BeaverTails-V",
    source="hub set saferlhf-v/BeaverTails-V; arXiv 2503.17682",
    licence="CC BY-NC 4.0",
    fetch="hf download saferlhf-v/BeaverTails-V --repo-type dataset --local-dir FOLDER",
    splits={"train": None, "evaluation": None},
    files=_files,
    convert=_convert,
    rated=_rated,
)
