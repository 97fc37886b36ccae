"""Mixed sets: what a mixture is made of, how it overlaps with test sets, and writing it as a folder of its own.

    OUT/train.jsonl (or one file an arm)  safety/...  general/...  black.png  side_by_side/...  mixture.json

Images are hard links to those of the sources where the file system allows, so that a mixture of 10 GB costs none.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from mis_lib.data.checks import COT_WORDS
from mis_lib.data.duplicates import LEAKS, Match, Rows, count, find
from mis_lib.data.folders import MIXTURE
from mis_lib.data.mixtures import BLACK, GENERAL, Arms, MixedRow, Recipe, SampleSet
from mis_lib.data.paths import inside
from mis_lib.data.preflight import Progress
from mis_lib.data.reading import view
from mis_lib.data.rows import RawRow
from mis_lib.data.views import View
from mis_lib.errors import DataError
from mis_lib.files import load_image, write_atomic, write_records
from mis_lib.schema import Record, Sample
from mis_lib.text.refusals import opens_with_refusal

BLACK_SIDE = 448


class Composition(Record):
    """What one arm of a mixture is made of; the first three counts add up to ``rows``."""

    arm: str
    rows: int
    harmful: int
    benign: int
    general: int
    masked: int
    """Rows whose end token stays out of the loss."""
    images_per_row: dict[int, int]
    labels: dict[str, int]
    """Answers of safety rows: reasoned, refused, other."""
    categories: dict[str, int]

    @property
    def general_share(self) -> float:
        """Share of general rows."""
        return self.general / self.rows if self.rows else 0.0


class Overlaps(Record):
    """How many rows of an arm resemble a row of one test file."""

    arm: str
    test: str
    test_rows: int
    counts: dict[str, int]
    """Overlap (``duplicates.Overlap``) -> rows of the mixture."""
    leaks: int
    """Rows that show all images of a test row, whatever they ask."""
    examples: list[Match]


def composition(arms: Arms) -> list[Composition]:
    """The composition of each arm."""
    return [_composition(name, rows) for name, rows in arms.items()]


def overlaps(
    arms: Arms, tests: Mapping[str, SampleSet], progress: Progress = lambda message: None
) -> Iterator[Overlaps]:
    """Compare each arm with each test set."""
    others = {name: _rows(name, test.samples, [_inside(test.folder, sample.images) for sample in test.samples], progress)
              for name, test in tests.items()}  # fmt: skip
    for arm, rows in arms.items():
        mixed = _rows(arm, [row.sample for row in rows], [_inside(row.folder, row.pictures) for row in rows], progress)
        for name, test in others.items():
            matches = list(find(mixed, test))
            leaks = [match for match in matches if match.overlap in LEAKS]
            counts = {overlap.value: number for overlap, number in count(matches).items()}
            yield Overlaps(
                arm=arm, test=name, test_rows=len(test.views), counts=counts, leaks=len(leaks), examples=leaks[:5]
            )


def write(recipe: Recipe, arms: Arms, out: Path) -> Path:
    """Write the mixture as a folder that training and ``mis check`` read.

    Raises:
        DataError: ``out`` exists and is not empty, an image leaves its source's folder, or the disk is full.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: expected a new or empty folder, found other files; choose another one")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".mixing-") as name:
        work = Path(name) / "mixture"
        work.mkdir()
        for arm, rows in arms.items():
            write_records(work / f"{arm}.jsonl", [row.sample for row in rows])
            _write_images(work, rows)
        summary = f'{{"recipe": {recipe.model_dump_json()}}}\n'
        write_atomic(work / MIXTURE, summary.encode())
        work.replace(out)
    return out


def _composition(name: str, rows: Sequence[MixedRow]) -> Composition:
    safety = [row.sample for row in rows if row.part.source != GENERAL]
    return Composition(
        arm=name,
        rows=len(rows),
        harmful=sum(sample.harmful for sample in safety),
        benign=sum(not sample.harmful for sample in safety),
        general=len(rows) - len(safety),
        masked=sum(row.part.mask_eos for row in rows),
        images_per_row=dict(sorted(Counter(len(row.sample.images) for row in rows).items())),
        labels=dict(Counter(_label(sample.answer or "") for sample in safety)),
        categories=dict(sorted(Counter(sample.category or "none" for sample in safety).items())),
    )


def _label(answer: str) -> str:
    if opens_with_refusal(answer):
        return "refused"
    return "reasoned" if len(answer.split()) >= COT_WORDS else "short"


def _rows(name: str, samples: Iterable[Sample], images: Sequence[tuple[Path, ...]], progress: Progress) -> Rows:
    """Samples as ``duplicates`` compares them."""
    raw = [RawRow(name, number, sample.model_dump(mode="json")) for number, sample in enumerate(samples, 1)]
    views = [found for row in raw if isinstance(found := view(row), View)]
    return Rows(views, images, progress)


def _inside(folder: Path, names: Iterable[str]) -> tuple[Path, ...]:
    return tuple(inside(folder, name) for name in names)


def _write_images(folder: Path, rows: Iterable[MixedRow]) -> None:
    for row in rows:
        if row.part.images == "black":
            _black(folder / BLACK)
        elif row.part.images == "side_by_side":
            _side_by_side(
                [load_image(path) for path in _inside(row.folder, row.pictures)], folder / row.sample.images[0]
            )
        else:
            for source, name in zip(_inside(row.folder, row.pictures), row.sample.images, strict=True):
                _link(source, inside(folder, name))


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where there can be none."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _black(target: Path) -> None:
    if not target.exists():
        Image.new("RGB", (BLACK_SIDE, BLACK_SIDE)).save(target)


def _side_by_side(pictures: Sequence[Image.Image], target: Path) -> None:
    """One picture of several at the height of the lowest, left to right with a white gap."""
    height = min(picture.height for picture in pictures)
    scaled = [picture.resize((max(1, round(picture.width * height / picture.height)), height)) for picture in pictures]
    gap = max(4, height // 50)
    whole = Image.new("RGB", (sum(picture.width for picture in scaled) + gap * (len(scaled) - 1), height), "white")
    left = 0
    for picture in scaled:
        whole.paste(picture, (left, 0))
        left += picture.width + gap
    target.parent.mkdir(parents=True, exist_ok=True)
    whole.save(target, compress_level=1)
