"""Pictures and text as other programs leave them: read right, or one line that names the file."""

from __future__ import annotations

import codecs
import io
import os
import random
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from utils.data.images import UnreadableImageError, image_head, image_size, read_image, turned
from utils.data.manifest import read_list, read_names
from utils.data.text import read_text
from utils.detection.labels import read_labels
from utils.detection.open_data import read_manifest
from utils.errors import InputError

MARKED = {  # how an editor begins a file -> the encoding of the rest
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
}


def picture() -> np.ndarray:
    """60 x 40 px, one bright rectangle from (8, 5) to (30, 15)."""
    image = np.full((40, 60, 3), 60, np.uint8)
    image[5:15, 8:30] = (250, 200, 150)
    return image


def shown(turn: int) -> np.ndarray:
    """The picture as Pillow turns it."""
    image, exif = Image.fromarray(picture()), Image.Exif()
    exif[0x112] = turn
    stored = io.BytesIO()
    image.save(stored, "PNG", exif=exif)
    return np.array(ImageOps.exif_transpose(Image.open(stored)))


def bright(image: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(image[..., 0] > 150)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_picture_turned_by_exif_is_read_as_it_is_shown_and_its_head_says_so(tmp_path, suffix, turn):
    exif = Image.Exif()
    exif[0x112] = turn
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture()).save(path, exif=exif, **({"quality": 100} if suffix == "webp" else {}))
    theirs = shown(turn)
    image, head = read_image(path), image_head(path)
    assert image.shape == theirs.shape and image.shape[:2] == head.size and head.stored == (40, 60)
    assert head.turn == turn and read_image(path, 1).shape == (*head.size, 1)
    np.testing.assert_allclose(bright(image), bright(theirs), atol=1)
    np.testing.assert_array_equal(turned(picture(), turn), theirs)


@pytest.mark.filterwarnings("error")
def test_damaged_exif_turns_nothing_and_head_and_pixels_always_agree(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=exif)
    whole = (tmp_path / "a.jpg").read_bytes()
    start, rng, sizes = whole.index(b"Exif") + 6, random.Random(0), set()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 4))):
            data[start + rng.randrange(26)] = rng.randrange(256)
        (tmp_path / "b.jpg").write_bytes(data)
        size = image_size(tmp_path / "b.jpg")
        assert read_image(tmp_path / "b.jpg").shape[:2] == size
        sizes.add(size)
    assert sizes == {(40, 60), (60, 40)}


def test_every_depth_and_kind_of_picture_becomes_8_bits(tmp_path):
    image = Image.fromarray(picture())
    deep = (picture()[..., 0].astype(np.uint16) << 8) + 17
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    cv2.imwrite(str(tmp_path / "deep.pgm"), deep)
    cv2.imwrite(str(tmp_path / "deep.tif"), np.dstack([deep] * 3))
    image.convert("LA").save(tmp_path / "grey_alpha.png")
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.convert("P").save(tmp_path / "palette.png")
    image.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    image.save(tmp_path / "a.jfif", "JPEG", quality=95)
    image.save(tmp_path / "a.gif")
    image.convert("L").save(tmp_path / "a.pgm")
    paths = read_list(tmp_path)
    assert len(paths) == 10, "every one of them is known as an image by its name"
    for path in paths:
        for channels in (1, 3):
            found = read_image(path, channels)
            assert found.dtype == np.uint8 and found.shape == (40, 60, channels)
            assert image_size(path) == (40, 60)
            np.testing.assert_allclose(bright(found), (8, 5, 30, 15), atol=1)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_head(path: Path, width: int, height: int) -> Path:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b""))
    return path


def test_size_of_an_aerial_photograph_is_read_and_one_that_can_not_be_decoded_is_one_line(tmp_path):
    assert image_size(png_head(tmp_path / "aerial.png", 20000, 10000)) == (10000, 20000)
    huge = png_head(tmp_path / "huge.png", 60000, 60000)
    for look in (image_size, read_image):
        with pytest.raises(UnreadableImageError, match=r"huge\.png: an image too large to decode; cut it into tiles"):
            look(huge)


def test_pixels_of_unknown_range_a_pipe_and_a_folder_are_one_line(tmp_path):
    cv2.imwrite(str(tmp_path / "float.tif"), picture()[..., 0].astype(np.float32) / 255)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, message in (
        ("float.tif", "32 bits a pixel, of which the range is not known; save it with 8 or 16"),
        ("pipe.jpg", "not a file"),
        ("folder.jpg", "not a file"),
        ("lost.jpg", "no such image; correct the list of images"),
        (f"{'x' * 300}.jpg", "file name too long"),
    ):
        with pytest.raises(UnreadableImageError, match=message) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("encoding", MARKED)
def test_byte_order_mark_is_no_part_of_any_text_file(tiny, encoding):
    folder, mark = tiny.path.parent, MARKED[encoding]
    for name in ("set.data", "set.names", "list.txt", "labels/0.txt"):
        path = folder / name
        path.write_bytes(mark + path.read_text().encode(encoding))
    manifest = read_manifest(folder / "set.data")
    assert manifest.names == ("cat", "dog") and len(read_list(manifest.train)) == 6
    assert read_labels(folder / "labels/0.txt", 2).shape == (1, 5)
    assert read_text(folder / "set.names").splitlines() == ["cat", "dog"]


def test_names_in_another_encoding_are_refused_with_what_converts_them(tmp_path):
    path = tmp_path / "a.names"
    path.write_bytes("浣熊\n".encode("gb2312"))
    with pytest.raises(InputError, match=r"a\.names: the class .* is not UTF-8; iconv -f GB18030 -t UTF-8"):
        read_names(path)
    path.write_text("浣熊\n", encoding="utf-8")
    assert read_names(path) == ("浣熊",)


@pytest.mark.parametrize("row", [b"images/" + b"x" * 300 + b".jpg\n", b"\x89PNG\r\n\x1a\n\0\0\0"])
def test_list_that_is_no_list_names_its_line(tiny, row):
    tiny.train.write_bytes(row)
    with pytest.raises(InputError, match=r"list\.txt:\d: .* is no path, but too long or no text; correct it"):
        read_list(tiny.train)


def test_share_out_of_range_names_its_own_key(tiny):
    tiny.path.write_text(tiny.path.read_text() + "mosaic = 2\n")
    with pytest.raises(InputError, match=r"set\.data:6: mosaic = 2: must be a number from 0 to 1"):
        read_manifest(tiny.path)
