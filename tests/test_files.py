"""Files from people and from killed writers: each bad one has its own clear error, each odd one its right pixels."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mis_lib.errors import DataError, ImageError
from mis_lib.files import (
    append_record,
    image_bytes,
    load_image,
    open_append,
    read_jsonl,
    read_records,
    sha256,
    write_atomic,
    write_records,
)
from mis_lib.schema import Response

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_promise(width: int, height: int) -> bytes:
    """A PNG whose header promises a size and whose pixels end after the first few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(100)))


# ---------------------------------------------------------------- images that cannot be used


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(encode(Image.new("RGB", (1, 1))), "1 x 1 pixels; too small", id="1x1"),
        pytest.param(b"dear diary, this is no image\n" * 20, "expected an image", id="text-named-png"),
        pytest.param(b"", "expected an image", id="empty"),
        pytest.param(png_promise(30_000, 30_000), "pixels", id="30000x30000-promised"),
        pytest.param(png_promise(8_000, 8_000), "8,000 x 8,000 pixels; at most 50,000,000", id="8000x8000-promised"),
        pytest.param(png_promise(64, 64), "damaged or cut short", id="promise-without-pixels"),
        pytest.param(encode(photo(), "JPEG")[:900], "damaged or cut short", id="truncated-jpeg"),
        pytest.param(encode(photo())[:-400], "damaged or cut short", id="truncated-png"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected an image", id="postscript"),
    ],
)
def test_unusable_image_says_which_file_and_why(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "upload.png"
    path.write_bytes(content)
    for source, name in ((path, ""), (content, "upload.png")):
        with pytest.raises(ImageError, match=message) as caught:
            load_image(source, name=name)
        assert str(caught.value).startswith("upload.png: ")


def test_a_promise_of_many_pixels_is_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(AssertionError, match="decoded"):  # the trap works
        load_image(png_promise(64, 64))
    with pytest.raises(ImageError, match="at most"):
        load_image(png_promise(8_000, 8_000))


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file") as caught:
        load_image(tmp_path / "none.png")
    assert str(tmp_path / "none.png") in str(caught.value)
    with pytest.raises(ImageError, match="expected an image file"):
        load_image(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged metadata
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM"])
def test_damaged_bytes_give_an_image_or_an_image_error(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    exif = {} if form in ("GIF", "BMP", "PPM") else {"exif": rotated_exif(6)}
    whole, dice, refused = encode(photo(), form, **exif), random.Random(form), 0
    for _ in range(150):
        damaged = bytearray(whole[: dice.randrange(20, len(whole))] if dice.random() < 0.2 else whole)
        for _ in range(dice.randint(1, 5)):
            damaged[dice.randrange(min(len(damaged), 300))] = dice.randrange(256)
        try:
            assert load_image(bytes(damaged)).mode == "RGB"
        except ImageError:
            refused += 1
    assert refused  # the damage was real
    capfd.readouterr()  # libtiff writes its complaints past Python


# ---------------------------------------------------------------- odd images with right pixels


def rotated_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def left_red_right_blue(width: int = 32, height: int = 16) -> Image.Image:
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def animated_gif() -> bytes:
    frames = [Image.new("RGB", (16, 16), colour).convert("P") for colour in (RED, GREEN, BLUE)]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)


def half_transparent() -> Image.Image:
    image = Image.new("RGBA", (16, 16), (*RED, 255))
    image.paste((0, 0, 0, 0), (8, 0, 16, 16))
    return image


def palette_with_transparency() -> bytes:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (8, 0, 16, 16))
    return encode(image, transparency=1)


def grey_16(value: int) -> bytes:
    return encode(Image.fromarray(np.array([[0] * 8 + [value] * 8] * 16, dtype=np.uint16)))


def grey_float() -> bytes:
    return encode(Image.fromarray(np.array([[0.0] * 8 + [1.0] * 8] * 16, dtype=np.float32)), "TIFF")


@pytest.mark.parametrize(
    ("content", "left", "right"),
    [
        pytest.param(encode(left_red_right_blue().convert("P")), RED, BLUE, id="palette"),
        pytest.param(palette_with_transparency(), RED, WHITE, id="palette-transparent"),
        pytest.param(encode(half_transparent()), RED, WHITE, id="rgba-on-white"),
        pytest.param(encode(half_transparent().convert("LA")), (76, 76, 76), WHITE, id="grey-alpha-on-white"),
        pytest.param(grey_16(65_535), (0, 0, 0), WHITE, id="grey-16-bit"),
        pytest.param(grey_16(4_095), (0, 0, 0), WHITE, id="grey-12-in-16-bit"),
        pytest.param(grey_float(), (0, 0, 0), WHITE, id="grey-float"),
        pytest.param(encode(Image.new("1", (16, 16), 1)), WHITE, WHITE, id="bilevel"),
        pytest.param(animated_gif(), RED, RED, id="animated-gif-first-frame"),
    ],
)
def test_every_mode_becomes_rgb(content: bytes, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    image = load_image(content)
    assert image.mode == "RGB"
    middle = image.height // 2
    assert image.getpixel((2, middle)) == left
    assert image.getpixel((image.width - 3, middle)) == right


def test_cmyk_jpeg_keeps_its_colours() -> None:
    pixel = load_image(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")).getpixel((8, 8))
    assert isinstance(pixel, tuple)
    assert pixel[0] > 200
    assert max(pixel[1:]) < 60


@pytest.mark.parametrize(
    ("orientation", "size", "top_left", "bottom_right"),
    [(1, (32, 16), RED, BLUE), (3, (32, 16), BLUE, RED), (6, (16, 32), RED, BLUE), (8, (16, 32), BLUE, RED)],
)
def test_exif_rotation_is_applied(
    orientation: int, size: tuple[int, int], top_left: tuple[int, ...], bottom_right: tuple[int, ...]
) -> None:
    image = load_image(encode(left_red_right_blue(), exif=rotated_exif(orientation)))
    assert image.size == size
    assert image.getpixel((0, 0)) == top_left
    assert image.getpixel((size[0] - 1, size[1] - 1)) == bottom_right


# ---------------------------------------------------------------- JSON Lines


def response(number: int, text: str = "naïve: ok") -> Response:
    return Response(sample_id=f"s{number}", variant="mini", text=text, tokens=3, seconds=0.5, finish_reason="stop")


@pytest.mark.parametrize("cut", [1, 2, 40, -1], ids=["closing-brace", "quote", "middle", "inside-a-character"])
def test_torn_last_line_is_ignored_and_cut_off_before_the_next_record(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "responses.jsonl"
    write_records(path, [response(1), response(2)])
    content = path.read_bytes()
    end = content.rindex("ï".encode()) + 1 if cut < 0 else len(content) - 1 - cut
    path.write_bytes(content[:end])

    assert read_records(path, Response) == [response(1)]
    with open_append(path) as stream:
        append_record(stream, response(3))
    assert read_records(path, Response) == [response(1), response(3)]


def test_a_whole_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    write_records(path, [response(1)])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    with open_append(path) as stream:
        append_record(stream, response(2))
    assert read_records(path, Response) == [response(1), response(2)]


def test_append_starts_a_new_file_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "v1" / "responses.jsonl"
    with open_append(path) as stream:
        append_record(stream, response(1))
    assert read_records(path, Response) == [response(1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', "row 3: expected one JSON object"),
        (b'{"a": "\xff"}', "row 3: expected one JSON object"),
        (b"[1, 2]", "row 3: expected a JSON object, found list"),
    ],
    ids=["torn-in-the-middle", "no-utf8", "list"],
)
def test_a_bad_complete_line_is_named_by_its_row(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"a": 0}\n\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(DataError, match=message) as caught:
        list(read_jsonl(path))
    assert str(path) in str(caught.value)


def test_a_wrong_field_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text(
        response(1).model_dump_json() + "\n\n" + response(2).model_dump_json().replace("0.5", '"long"') + "\n"
    )
    with pytest.raises(DataError, match=r"row 3: field 'seconds': .*found 'long'"):
        read_records(path, Response)


def test_a_missing_data_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))


# ---------------------------------------------------------------- writes that are all or nothing


class DiskFullError(OSError):
    """What the write of a full disk raises."""


def fail(*_: object, **__: object) -> None:
    raise DiskFullError(28, "No space left on device")


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "metrics.json"
    write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(DiskFullError):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_append_to_a_full_disk_raises() -> None:
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "w") as stream:  # noqa: PTH123 - a device
        append_record(stream, response(1))


def test_a_written_file_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        write_atomic(tmp_path / "shared.json", b"{}")
    finally:
        os.umask(previous)
    assert (tmp_path / "shared.json").stat().st_mode & 0o777 == 0o644


def test_same_records_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_records(tmp_path / name, [response(1), response(2)])
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")
    write_records(tmp_path / "b", [response(2), response(1)])
    assert sha256(tmp_path / "a") != sha256(tmp_path / "b")


@pytest.mark.parametrize("read", [load_image, image_bytes])
def test_a_pipe_or_a_device_is_no_image_and_is_not_waited_for(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "device.png"):
        with pytest.raises(ImageError, match=r"found a pipe, socket or device"):
            read(tmp_path / name)
