"""Similarity: which texts and which pictures are nearly the same.

Texts are compared by the five-letter pieces they share (Jaccard, found by MinHash, then computed exactly), pictures by a perceptual
hash of 256 bits. The limits were set on drawings and photographs: up to ``IMAGE_BITS`` differing bits are what re-encoding, scaling, grey and a 1 %
crop make of a picture; two different drawings of MIS-Mini differ by 40 or more (an open and a closed folder excepted).
Single-coloured pictures resemble each other and say nothing; they are left out.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
from datasketch import MinHash, MinHashLSH
from PIL import Image, ImageOps

from mis_lib.errors import ImageError
from mis_lib.files import DECODER_ERRORS, load_image

PIECE = 5
TEXT_SIMILARITY = 0.8
HASH_SIDE = 16
IMAGE_BITS = 32
FLAT = 3  # grey levels: standard deviation below which a picture shows nothing
PERMUTATIONS = 128
BLOCK = 512


def similar_texts(texts: Iterable[str], others: Iterable[str]) -> dict[str, dict[str, float]]:
    """For each different text the others that resemble it, with their similarity (1.0: equal)."""
    left, right = ({text: pieces(text) for text in dict.fromkeys(given) if text} for given in (texts, others))
    index = MinHashLSH(
        threshold=TEXT_SIMILARITY - 0.1, num_perm=PERMUTATIONS
    )  # lower: MinHash errs, what follows does not
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
