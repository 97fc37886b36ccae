"""WebP files: whole ones pass, whatever wrote them; of damaged ones those are found whose pixels no longer use up their data.

python tests/data/test_webp.py            prints the share of damaged files found, and what looking costs
"""

import io
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mis_lib.data.findings import Kind
from mis_lib.data.images import Headers, is_decoded, leaves_over, read_header

FORMS: dict[str, dict[str, Any]] = {
    "lossy, quality 30": {"quality": 30},
    "lossy, quality 75": {"quality": 75},
    "lossy, quality 95": {"quality": 95},
    "lossless": {"lossless": True},
}
KINDS = {"one byte": 1, "64 zeros": 64, "4,096 zeros": 4096, "512 bytes of another file": 512}


def photograph(seed: int, size: tuple[int, int] = (480, 360)) -> Image.Image:
    """Smooth shapes, edges and grain, as a photograph has."""
    dice = np.random.default_rng(seed)
    coarse = Image.fromarray(dice.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    edges = Image.fromarray(dice.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)
    grain = Image.fromarray(dice.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).filter(ImageFilter.BLUR)
    return Image.blend(Image.blend(coarse, edges, 0.3), grain, 0.15)


def written(image: Image.Image, form: str = "WEBP", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def damaged(content: bytes, kind: str, dice: random.Random) -> bytes:
    """A copy with some bytes of its pixels wrong, behind the first 100 and before the last 100."""
    width = KINDS[kind]
    at = dice.randrange(100, len(content) - width - 100)
    if kind == "one byte":
        new = bytes([content[at] ^ dice.randrange(1, 256)])
    else:
        new = bytes(width) if "zeros" in kind else dice.randbytes(width)
    return content[:at] + new + content[at + width :]


def is_seen(content: bytes) -> bool:
    return not is_decoded(content) or leaves_over(content)


def shares(pictures: list[Image.Image], times: int, seed: int = 0) -> Iterator[tuple[str, str, int, int, int]]:
    """Form, kind of damage, files whose pixels changed, of these: found by decoding alone, and found at all."""
    dice = random.Random(seed)
    for form, options in FORMS.items():
        files = [(content, pixels(content)) for content in (written(image, **options) for image in pictures)]
        for kind in KINDS:
            changed = decoding = found = 0
            for content, before in files:
                for _ in range(times):
                    hit = damaged(content, kind, dice)
                    readable = is_decoded(hit)
                    if readable and np.array_equal(pixels(hit), before):
                        continue
                    changed, decoding, found = changed + 1, decoding + (not readable), found + is_seen(hit)
            yield form, kind, changed, decoding, found


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def seconds(folder: Path, names: list[str]) -> float:
    headers, started = Headers(folder, pixels=True), time.process_time()
    assert not any(headers[name].problems for name in names)
    return time.process_time() - started


class TestWholeFilesPass:
    @pytest.mark.parametrize("size", [(240, 180), (167, 131), (97, 201), (64, 48), (16, 9), (8, 8)])
    @pytest.mark.parametrize(
        "options", [{"quality": q, "method": m} for q in (1, 50, 100) for m in (0, 6)] + [{"lossless": True}]
    )
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
    def test_of_any_size_and_quality(self, size: tuple[int, int], options: dict[str, Any], mode: str) -> None:
        image = photograph(1, size).convert(mode)
        if mode == "RGBA":
            image.putalpha(photograph(2, size).convert("L"))
        assert not is_seen(written(image, **options))

    @pytest.mark.parametrize("colour", ["white", "black", "#345678", (1, 2, 3, 4)])
    def test_of_one_colour(self, colour: Any) -> None:
        mode = "RGBA" if isinstance(colour, tuple) else "RGB"
        for size in ((512, 512), (1024, 16), (16, 1024)):
            for options in FORMS.values():
                assert not is_seen(written(Image.new(mode, size, colour), **options))

    def test_with_all_that_may_stand_beside_the_pixels(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        frames = [photograph(number) for number in range(3)]
        (tmp_path / "more.webp").write_bytes(
            written(frames[0], exif=exif, icc_profile=b"x" * 301, xmp=b"y" * 77) + b"behind"
        )
        assert read_header(tmp_path / "more.webp", pixels=True).problems == ()
        moving = written(frames[0], save_all=True, append_images=frames[1:], duration=40)
        assert not is_seen(moving)

    def test_what_an_encoder_fills_up_with_zeros_is_no_damage(self) -> None:
        content = written(photograph(3))
        length = int.from_bytes(content[16:20], "little")
        padded = content[:20] + content[20 : 20 + length] + bytes(40 + length % 2)
        longer = (len(padded) - 20).to_bytes(4, "little")
        assert not is_seen(padded[:4] + (len(padded) - 8).to_bytes(4, "little") + padded[8:16] + longer + padded[20:])


def test_most_damaged_files_are_found_which_decoding_alone_does_not() -> None:
    total: dict[bool, list[int]] = {True: [0, 0, 0], False: [0, 0, 0]}
    for form, _, changed, decoding, found in shares([photograph(number) for number in range(3)], times=6):
        both = total[form == "lossless"]
        total[form == "lossless"] = [both[0] + changed, both[1] + decoding, both[2] + found]
    (lossy, decoded, found), (lossless, _, also) = total[False], total[True]
    assert decoded < 0.6 * lossy and found > 0.9 * lossy, total
    assert also > 0.5 * lossless, total


def test_a_damaged_file_is_an_error_of_the_check_and_says_what_is_wrong(tmp_path: Path) -> None:
    content, dice = written(photograph(4)), random.Random(4)
    told = []
    for number in range(12):
        file = tmp_path / f"{number}.webp"
        file.write_bytes(damaged(content, "64 zeros", dice))
        told += read_header(file, pixels=True).problems
        assert read_header(file).problems == (), "who wants the size alone does not wait"
    assert len(told) >= 10
    assert {problem.kind for problem in told} == {Kind.CUT_SHORT}
    assert any("found some left over: bytes before them are wrong" in problem.message for problem in told)


def measure() -> None:
    tell = sys.stdout.write
    for form, kind, changed, decoding, found in shares([photograph(number) for number in range(8)], times=25):
        tell(
            f"{form:18} {kind:26} changed {changed:4}  decoding finds {100 * decoding / changed:5.1f} %  found {100 * found / changed:5.1f} %\n"
        )
    with tempfile.TemporaryDirectory() as name:
        folder, took = Path(name), {}
        for form, options in {
            "PNG": {},
            "JPEG": {"quality": 90},
            "WEBP": {"quality": 90},
            "WEBP lossless": {"lossless": True},
        }.items():
            contents = [written(photograph(number, (640, 480)), form.split()[0], **options) for number in range(8)]
            names = [f"{form}{number}.{form.split()[0].lower()}" for number in range(1000)]
            for number, file in enumerate(names):
                (folder / file).write_bytes(contents[number % 8])
            took[form] = seconds(folder, names)
            tell(
                f"{form:18} {took[form]:6.2f} s of the processor for 1,000 files of 640 x 480, {took[form] / took['PNG']:.1f} x PNG's\n"
            )


if __name__ == "__main__":
    measure()
