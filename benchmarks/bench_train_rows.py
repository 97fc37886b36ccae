"""Rows that ``mis bench train`` trains on: those of a data set, or noise of the right size for models with random weights."""

import random
import shutil
from pathlib import Path

from PIL import Image

from mis_lib.errors import SettingsError
from mis_lib.files import read_records, write_records
from mis_lib.recipes.generate import mini_data
from mis_lib.schema import Sample

PICTURES, SIDE = 32, 448
LETTERS = "etaoinshrdlu"


def write_rows(
    source: Path | None, folder: Path, number: int, *, images: int, answer_tokens: int, seed: int, side: int = SIDE
) -> Path:
    """Write ``number`` rows with their images into a new folder; returns the data file.

    Args:
        source: JSON Lines file of samples with answers, its images beside it; rows of noise are made if not given.
        folder: new.
        number: of rows; those of ``source`` are drawn by lot, again and again if need be.
        images: of a row of noise.
        answer_tokens: of a row of noise, where a token is a byte; its end token counts.
        seed: of the lot.
        side: of an image of noise, in pixels.

    Raises:
        SettingsError: the source has no row with an answer.
    """
    folder.mkdir()
    made = (
        _made(folder, number, images, answer_tokens, seed, side)
        if source is None
        else _drawn(source, folder, number, seed)
    )
    write_records(folder / "train.jsonl", made)
    return folder / "train.jsonl"


def mini_rows() -> Path:
    """The training rows of MIS-Mini."""
    return mini_data() / "train.jsonl"


def _drawn(source: Path, folder: Path, number: int, seed: int) -> list[Sample]:
    there = [sample for sample in read_records(source, Sample) if sample.answer]
    if not there:
        raise SettingsError(f"data: expected samples with answers in {source}, found none")
    chosen = random.Random(seed).choices(there, k=number)
    for image in {name for sample in chosen for name in sample.images}:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / image, folder / image)
    return [sample.model_copy(update={"id": f"{at}-{sample.id}"}) for at, sample in enumerate(chosen)]


def _made(folder: Path, number: int, images: int, answer_tokens: int, seed: int, side: int) -> list[Sample]:
    dice = random.Random(seed)
    for picture in range(PICTURES):
        noise = Image.frombytes("RGB", (56, 56), dice.randbytes(56 * 56 * 3)).resize((side, side))
        noise.save(folder / f"{picture}.png", compress_level=1)
    return [
        Sample(
            id=str(row),
            question="What do the images show together?",
            images=[f"{dice.randrange(PICTURES)}.png" for _ in range(images)],
            answer="".join(dice.choices(LETTERS, k=max(1, answer_tokens - 1))),
        )
        for row in range(number)
    ]
