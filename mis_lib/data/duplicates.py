"""Near-duplicates: rows of one set, or of training and test, that ask nearly the same or show nearly the same pictures.

Texts are compared by the five-letter pieces they share (Jaccard, found by MinHash, then computed exactly), pictures by
a perceptual hash of 256 bits. The limits were set on drawings and photographs. Up to ``IMAGE_BITS`` differing bits are
what re-encoding, scaling, grey and a 1 % crop make of a picture; two different drawings of MIS-Mini differ by 40 or
more (an open and a closed folder excepted). Single-coloured pictures resemble each other and say nothing; they are left
out.

Twins of one pair share question and one image by design and are no match. Rows can be taken out: the cleaned file is
written next to the checked one, never in its place.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import imagehash
import numpy as np
from datasketch import MinHash, MinHashLSH
from PIL import Image, ImageOps

from mis_lib.data.findings import Finding, Kind
from mis_lib.data.formats import View
from mis_lib.data.preflight import Checked, Progress
from mis_lib.data.records import is_lines
from mis_lib.data.sources import clean_file
from mis_lib.errors import DataError, ImageError
from mis_lib.files import DECODER_ERRORS, load_image, write_atomic
from mis_lib.schema import Record
from mis_lib.text.sentences import normalised

PIECE = 5
TEXT_SIMILARITY = 0.8
HASH_SIDE = 16
IMAGE_BITS = 32
FLAT = 3  # grey levels: standard deviation below which a picture shows nothing
PERMUTATIONS = 128
BLOCK = 512
TAKE_OUT = "take it out (--remove writes a cleaned file next to this one)"

T = TypeVar("T")


class Overlap(StrEnum):
    """What two rows have in common."""

    ITEM = "item"  # question and all images
    IMAGES = "images"  # all images, another question
    QUESTION = "question"  # the question, another image at least
    IMAGE = "image"  # one image


LEAKS = (Overlap.ITEM, Overlap.IMAGES)


class Match(Record):
    """A row of the checked set and the first row that it resembles; twins of one pair are no match."""

    overlap: Overlap
    file: str
    row: int
    id: str
    other_file: str
    other_row: int
    other_id: str
    similarity: float | None = None
    """Of the questions, where they are part of the match: 1.0 is word for word."""


class Rows:
    """Rows with what is compared of them: normalised questions and fingerprints of images.

    Args:
        views: what the rows say.
        images: the image files of each row.
        progress: receives how many images are read.
    """

    def __init__(
        self, views: Sequence[View], images: Sequence[tuple[Path, ...]], progress: Progress = lambda message: None
    ) -> None:
        self.views, self.images = views, images
        self.questions = [normalised(seen.question) for seen in views]
        self.fingerprints = fingerprints(dict.fromkeys(path for paths in self.images for path in paths), progress)


def rows_of(checked: Sequence[Checked], progress: Progress = lambda message: None) -> Rows:
    """The rows of data files, as ``preflight.read_all`` returns them."""
    images = [
        tuple(file.headers.path(name) for name in seen.images if file.headers[name].size)
        for file in checked
        for seen in file.views
    ]
    return Rows([seen for file in checked for seen in file.views], images, progress)


def find(rows: Rows, others: Rows | None = None) -> Iterator[Match]:
    """Yield for each row its closest overlap with ``others``, or with an earlier row of the same set."""
    within = others is None
    others = others or rows
    near_texts = similar_texts(rows.questions, others.questions)
    near_images = similar_images(rows.fingerprints, others.fingerprints)
    asking, showing = _places((text,) for text in others.questions), _places(others.images)
    for place, seen in enumerate(rows.views):
        near = near_texts.get(rows.questions[place], {})
        asked = {other for text in near for other in asking[text]}
        shown = [
            {other for path in near_images.get(image, ()) for other in showing[path]} for image in rows.images[place]
        ]
        same = (
            {other for other in set.intersection(*shown) if len(others.images[other]) == len(shown)} if shown else set()
        )
        overlaps = {
            Overlap.ITEM: same & asked,
            Overlap.IMAGES: same,
            Overlap.QUESTION: asked,
            Overlap.IMAGE: set().union(*shown),
        }
        for overlap, candidates in overlaps.items():
            if within:
                candidates = {
                    other for other in candidates if other < place and not _are_twins(seen, others.views[other])
                }
            if candidates:
                first = min(candidates)
                yield _match(overlap, seen, others.views[first], near.get(others.questions[first]))
                break


def with_twins(rows: Rows, places: Iterable[tuple[str, int]]) -> dict[str, set[int]]:
    """Rows to take out, by file: those at ``places`` (file, row), and their twins, which would be left alone."""
    taken: dict[str, set[int]] = defaultdict(set)
    for file, row in places:
        taken[file].add(row)
    ids = {(seen.place.file, seen.twin_id) for seen in rows.views if seen.place.row in taken[seen.place.file]}
    for seen in rows.views:
        if (seen.place.file, seen.place.id) in ids:
            taken[seen.place.file].add(seen.place.row)
    return {file: numbers for file, numbers in taken.items() if numbers}


def write_without(file: Checked, numbers: Collection[int]) -> Path:
    """Write a data file without some of its rows as ``NAME.clean.jsonl`` (or ``.json``) next to it; return its path.

    Raises:
        DataError: such a file is there already.
    """
    target = clean_file(file.path)
    if target.exists():
        raise DataError(f"{target}: expected no such file yet, found one; move it away, it may be your only copy")
    if is_lines(file.path):
        lines = file.path.read_bytes().split(b"\n")
        content = b"\n".join(line for number, line in enumerate(lines, 1) if number not in numbers)
    else:
        kept = [seen.row.values for seen in file.parsed if seen.row.number not in numbers]
        content = json.dumps(kept, ensure_ascii=False, indent=1).encode() + b"\n"
    write_atomic(target, content)
    return target


def count(matches: Iterable[Match]) -> dict[Overlap, int]:
    """How many rows have which overlap, the worst kind first."""
    counts = Counter(match.overlap for match in matches)
    return {overlap: counts[overlap] for overlap in Overlap}


def findings(matches: Iterable[Match], *, against_test: bool, fix: str = TAKE_OUT) -> Iterator[Finding]:
    """Findings for a report; leaks from a test set are errors, shared single images are counted only."""
    words = {
        Overlap.ITEM: "question and images",
        Overlap.IMAGES: "all images, under another question",
        Overlap.QUESTION: "the question, about other images",
    }
    for match in matches:
        if match.overlap not in (words if against_test else (Overlap.ITEM,)):
            continue
        is_leak = against_test and match.overlap in LEAKS
        what = "a row that no test row resembles" if against_test else "a row that no other resembles"
        other = f"{match.other_file}, row {match.other_row}" + (f" ({match.other_id})" if match.other_id else "")
        yield Finding(
            kind=Kind.LEAKAGE if is_leak else Kind.NEAR_DUPLICATE,
            file=match.file,
            row=match.row,
            id=match.id,
            field="images" if match.overlap is Overlap.IMAGES else "question",
            message=f"expected {what}, found {words[match.overlap]} of {other}",
            fix=fix,
        )


def similar_texts(texts: Iterable[str], others: Iterable[str]) -> dict[str, dict[str, float]]:
    """For each different text the others that resemble it, with their similarity (1.0: equal)."""
    left, right = ({text: pieces(text) for text in dict.fromkeys(given) if text} for given in (texts, others))
    # a lower threshold than the limit: MinHash errs, the exact similarity below does not
    index = MinHashLSH(threshold=TEXT_SIMILARITY - 0.1, num_perm=PERMUTATIONS)
    with index.insertion_session() as session:
        for text, parts in right.items():
            session.insert(text, _sketch(parts))
    found: dict[str, dict[str, float]] = {}
    for text, parts in left.items():
        likeness = {str(other): _jaccard(parts, right[str(other)]) for other in index.query(_sketch(parts))}
        found[text] = {other: value for other, value in likeness.items() if value >= TEXT_SIMILARITY}
    return found


def pieces(text: str) -> frozenset[str]:
    """All pieces of ``PIECE`` letters of a normalised text; the text itself if it is shorter."""
    return frozenset(text[start : start + PIECE] for start in range(max(1, len(text) - PIECE + 1)))


def similar_images(images: Mapping[Path, np.ndarray], others: Mapping[Path, np.ndarray]) -> dict[Path, list[Path]]:
    """For each image the others within ``IMAGE_BITS`` of its hash, itself among them where it is one of them."""
    names, hashes = list(others), np.array(list(others.values()), dtype=np.uint64)
    found: dict[Path, list[Path]] = {}
    for block in _blocks(images):
        mine = np.array([value for _, value in block], dtype=np.uint64)
        bits = np.zeros((len(mine), len(names)), dtype=np.uint16)
        for word in range(mine.shape[1] if names else 0):
            bits += np.bitwise_count(mine[:, word, None] ^ hashes[None, :, word])
        for (path, _), row in zip(block, bits <= IMAGE_BITS, strict=True):
            found[path] = [names[place] for place in np.flatnonzero(row)]
    return found


def fingerprints(
    paths: Collection[Path], progress: Callable[[str], None] = lambda message: None
) -> dict[Path, np.ndarray]:
    """Perceptual hash of each image as four 64-bit words; unreadable and single-coloured images have none."""
    progress(f"Comparing {len(paths):,} pictures")
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # decoding releases the interpreter's lock
        hashes = pool.map(fingerprint, paths)
        return {path: value for path, value in zip(paths, hashes, strict=True) if value is not None}


def fingerprint(path: Path) -> np.ndarray | None:
    """Perceptual hash of one image, or None."""
    try:
        grey = _small(path).convert("L")
    except (ImageError, *DECODER_ERRORS):  # preflight says what is wrong with it
        return None
    if float(np.asarray(grey, dtype=np.float32).std()) < FLAT:
        return None
    bits = imagehash.phash(grey, hash_size=HASH_SIDE).hash.ravel()
    return np.packbits(bits).view(np.uint64)


def _places(things: Iterable[Iterable[T]]) -> Mapping[T, list[int]]:
    """The numbers of the rows that have a thing."""
    places: dict[T, list[int]] = defaultdict(list)
    for place, found in enumerate(things):
        for thing in found:
            places[thing].append(place)
    return places


def _are_twins(seen: View, other: View) -> bool:
    return bool(seen.place.id) and other.twin_id == seen.place.id and seen.place.file == other.place.file


def _match(overlap: Overlap, seen: View, other: View, similarity: float | None) -> Match:
    return Match(
        overlap=overlap,
        **seen.place._asdict(),
        **{f"other_{name}": value for name, value in other.place._asdict().items()},
        similarity=None if similarity is None else round(similarity, 3),
    )


def _small(path: Path) -> Image.Image:
    """An image, upright; JPEGs are decoded at the least size that the hash needs."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        with Image.open(path, formats=("JPEG",)) as image:
            image.draft("RGB", (8 * HASH_SIDE, 8 * HASH_SIDE))
            return ImageOps.exif_transpose(image)
    return load_image(path)


def _blocks(images: Mapping[Path, np.ndarray]) -> Iterator[tuple[tuple[Path, np.ndarray], ...]]:
    items = tuple(images.items())
    for start in range(0, len(items), BLOCK):
        yield items[start : start + BLOCK]


def _sketch(parts: Iterable[str]) -> MinHash:
    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update_batch([part.encode() for part in parts])
    return sketch


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)
