"""A picture as the network of this folder takes it, and boxes back in px of the picture.

  python3 prepare.py photo.npy image.npy      photo: uint8 [H,W,C], RGB or grey; or a binary .ppm or .pgm
                                              image: uint8 [C,H,W], what golden/K/image.npy is of golden image K

Needs Python 3.10 and numpy. `image.resize` of manifest.json says how pictures are fitted: "letterbox" (scaled with
their aspect, in the middle, bordered with 114) or "stretch" (each side scaled to the network's). Areas are averaged on
the way down, values between pixels are linear on the way up. A level may differ by one from OpenCV's rounding.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

BORDER = 114
Array = np.ndarray
Size = tuple[int, int]  # (height, width) px


def fit(original: Size, size: Size, how: str) -> tuple[Size, Size]:
    """The size that a picture is scaled to, and (top, left) of where it then lies in the network's image."""
    if how == "stretch":
        return size, (0, 0)
    factor = min(size[0] / original[0], size[1] / original[1])
    height, width = (min(size[k], max(1, round(original[k] * factor))) for k in (0, 1))
    return (height, width), ((size[0] - height) // 2, (size[1] - width) // 2)


def prepare(picture: Array, manifest: dict[str, Any]) -> Array:
    """uint8 [H,W,C] or [H,W] -> uint8 [C,H,W] of the network's size; grey stands in every channel.

    Raises:
        ValueError: the picture is of another type, or has another number of channels than 1 and the network's.
    """
    channels, *size = manifest["image"]["shape"]
    picture = picture[..., None] if picture.ndim == 2 else picture
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, channels):
        raise ValueError(f"a picture is uint8 [H,W,1 or {channels}], this is {picture.dtype} {list(picture.shape)}")
    (height, width), (top, left) = fit(picture.shape[:2], (size[0], size[1]), manifest["image"]["resize"])
    out = np.full((*size, picture.shape[2]), BORDER, np.uint8)
    out[top : top + height, left : left + width] = resize(picture, (height, width))
    return np.ascontiguousarray(np.broadcast_to(out, (*size, channels)).transpose(2, 0, 1))


def boxes_back(boxes: Array, original: Size, manifest: dict[str, Any]) -> Array:
    """Boxes [n,4] (x1, y1, x2, y2), px of the network's image, in px of a picture of (height, width), clipped to it."""
    _, *size = manifest["image"]["shape"]
    (height, width), (top, left) = fit(original, (size[0], size[1]), manifest["image"]["resize"])
    scale = np.array([width / original[1], height / original[0]] * 2)
    return ((boxes - [left, top, left, top]) / scale).clip(0, [original[1], original[0]] * 2)


def resize(picture: Array, size: Size) -> Array:
    """uint8 [H,W,C] scaled: first the sides that get shorter, then those that get longer."""
    for wanted, shares in (((min(size[0], picture.shape[0]), min(size[1], picture.shape[1])), areas), (size, between)):
        if picture.shape[:2] != tuple(wanted):
            rows, columns = shares(picture.shape[0], wanted[0]), shares(picture.shape[1], wanted[1])
            value = np.tensordot(rows, np.tensordot(columns, picture.astype(np.float64), (1, 1)), (1, 1))
            picture = np.rint(value).clip(0, 255).astype(np.uint8)
    return picture


def areas(have: int, wanted: int) -> Array:
    """What each new pixel takes of each old one, [wanted, have]: the part of it that it covers."""
    edges, old = np.arange(wanted + 1) * (have / wanted), np.arange(have)
    covered = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return covered.clip(0) / (have / wanted)


def between(have: int, wanted: int) -> Array:
    """What each new pixel takes of each old one, [wanted, have]: linear between the middles of the nearest two."""
    place = ((np.arange(wanted) + 0.5) * (have / wanted) - 0.5).clip(0, have - 1)
    return (1 - abs(place[:, None] - np.arange(have))).clip(0)


def read_picture(path: Path) -> Array:
    """A .npy, or a binary .ppm or .pgm of 8 bits.

    Raises:
        ValueError: it is something else.
    """
    data = path.read_bytes()
    if data[:2] not in (b"P5", b"P6"):
        return np.load(path, allow_pickle=False)
    head = re.match(rb"P[56]\s+(\d+)\s+(\d+)\s+255\s", data)
    if head is None:
        raise ValueError("a .ppm or .pgm of 8 bits and without comments can be read")
    width, height = map(int, head.groups())
    return np.frombuffer(data, np.uint8, offset=head.end()).reshape(height, width, 1 if data[1:2] == b"5" else 3)


def main(words: list[str]) -> int:
    """Write the prepared picture, or say what is wrong; the exit code."""
    if len(words) != 2:
        sys.stderr.write("python3 prepare.py photo.npy image.npy\n")
        return 2
    try:
        manifest = json.loads((Path(__file__).parent / "manifest.json").read_text())
        image = prepare(read_picture(Path(words[0])), manifest)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{words[0]}: {error}\n")
        return 2
    np.save(words[1], image)
    sys.stdout.write(f"{words[1]}: {'x'.join(map(str, image.shape))}, {manifest['image']['resize']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
