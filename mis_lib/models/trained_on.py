"""Which items an adapter or a checkpoint was trained on, so that no test figure counts them.

    trained_on.json in its folder: {"items": ["0123456789abcdef", ...]}

One digest an item: of its question, of what was asked before it, and of the content of its images, whatever their
order and the item's id.
"""

from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from mis_lib.errors import ImageError, ModelError
from mis_lib.files import digest_json, sha256
from mis_lib.schema import Record, Sample

TRAINED_ON = "trained_on.json"
DIGITS = 16  # hexadecimal ones of a digest


class TrainedOn(Record):
    """The content of the file."""

    items: list[str]


def item_digests(items: Iterable[tuple[Sample, Path]]) -> list[str]:
    """The digest of each item; each image is read once.

    Args:
        items: samples, each with the folder of its images.

    Raises:
        ImageError: an image is not there.
    """

    @cache
    def content(path: Path) -> str:
        try:
            return sha256(path)
        except OSError as error:
            raise ImageError(f"{path}: expected an image file, found: {error.strerror}; check the path") from error

    return [
        digest_json(
            [
                sample.question,
                sorted(content(folder / name) for name in sample.images),
                *([turn.question, turn.answer] for turn in sample.history),
            ]
        )[:DIGITS]
        for sample, folder in items
    ]


def record(digests: Collection[str]) -> bytes:
    """The content of ``trained_on.json``."""
    return (TrainedOn(items=sorted(digests)).model_dump_json() + "\n").encode()


def read_trained_on(folder: Path | None) -> frozenset[str]:
    """The digests in the record of a folder; none where there is no record or no folder.

    Raises:
        ModelError: the record cannot be read.
    """
    if folder is None or not (folder / TRAINED_ON).exists():
        return frozenset()
    try:
        return frozenset(TrainedOn.model_validate_json((folder / TRAINED_ON).read_bytes()).items)
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{folder / TRAINED_ON}: expected the record of what was trained on, found: {str(error).splitlines()[0]}; "
            "train again, or remove the file: tests then count items that were trained on"
        ) from error
