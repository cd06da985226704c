"""Pictures from disk and back: decoding that names the file it fails on, sizes without decoding, writing.

A JPEG is stored as 8x8 blocks of frequencies, and its decoder makes a half, a quarter or an eighth of each side of the
lowest ones alone: that is faster than all of it, and not the same as all of it averaged.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.data.text import read_bytes
from utils.errors import InputError
from utils.files import writing

EXIF_ORIENTATION = 0x0112
EXIF_SIDEWAYS = (5, 6, 7, 8)  # a quarter turn, so that height and width change places
MOST_PIXELS = 2**30  # that OpenCV decodes
JPEG_SUFFIXES = (".jfif", ".jpeg", ".jpg")
REDUCED = {  # one of so many px of each side -> how OpenCV is told so, for colour and for grey
    8: (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    4: (cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    2: (cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    1: (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE),
}

Size = tuple[int, int]  # (height, width) px

Image.MAX_IMAGE_PIXELS = None  # heads alone are read with Pillow; pixels are OpenCV's, which has a limit of its own
warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged EXIF, which then turns nothing


class UnreadableImageError(InputError):
    """An image is missing, corrupt or none at all; whoever can do without one image catches this and goes on."""


class Hush:
    """While a thread is inside, what C libraries write to stderr goes nowhere.

    libpng, libjpeg and ffmpeg complain there of a corrupt file without naming it; our own message does. Python's
    stderr is silent meanwhile too, but for a copy of it made before (`os.dup`).
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._kept = Lock(), 0, -1

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                os.dup2(self._kept, 2)
                os.close(self._kept)


HUSH = Hush()  # one a process, since stderr is


@dataclass(frozen=True)
class Head:
    """``size`` (height, width) px of a picture as it is shown, ``turn`` the EXIF orientation that shows it so: 1 to 8.

    Damaged EXIF, and what is none of the eight, turns nothing.
    """

    size: tuple[int, int]
    turn: int

    @property
    def stored(self) -> tuple[int, int]:
        """(height, width) px of the pixels as they are in the file."""
        return self.size[::-1] if self.turn in EXIF_SIDEWAYS else self.size


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """Decode a picture to uint8 [H, W, channels], RGB or grey, the right way up; 16 bits become 8, alpha is left out.

    Raises:
        UnreadableImageError: the file is missing, is no picture, ends early, or has too many pixels.
    """
    return read_picture(path, channels)[0]


def read_picture(
    path: Path, channels: int = 3, needed: Callable[[Size], Size] | None = None
) -> tuple[np.ndarray, Size]:
    """As ``read_image``, and the (height, width) of the whole picture.

    Args:
        path: of the file.
        channels: 3 (RGB) or 1 (grey).
        needed: the least (height, width) that is wanted of a picture of a (height, width). A JPEG is decoded at the
            least of 1/8, 1/4, 1/2 and 1 of its sides that has so many; everything else, and all if None, whole.

    Raises:
        UnreadableImageError: as ``read_image``.
    """
    data = _bytes(path)
    turn, whole = _head_of(data)
    factor = reduction(whole, needed(whole)) if needed and whole else 1
    flag = REDUCED[factor][0 if channels == 3 else 1] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        with HUSH:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    except cv2.error:
        raise UnreadableImageError(f"{path}: an image too large to decode; cut it into tiles") from None
    if image is None:
        raise UnreadableImageError(_undecoded(path, data))
    image = turned(image, turn)
    picture = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if channels == 3 else image[..., None]
    return picture, whole if factor > 1 and whole else (picture.shape[0], picture.shape[1])


def reduction(whole: Size, needed: Size) -> int:
    """The largest of 8, 4, 2 and 1 of which a decoder that leaves one of so many px still has ``needed``."""
    return next(f for f in REDUCED if f == 1 or all(-(-whole[k] // f) >= needed[k] for k in (0, 1)))


def image_head(path: Path) -> Head:
    """Size and orientation as ``read_image`` will see them, from the file's head alone.

    Raises:
        UnreadableImageError: the file is missing or is no picture.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError
        with Image.open(path) as image:
            width, height = image.size
            turn = _exif_turn(image)
            size = (width, height) if turn in EXIF_SIDEWAYS and image.format != "TIFF" else (height, width)
    except UnidentifiedImageError:
        raise UnreadableImageError(
            f"{path}: a corrupt image, its head can not be read; replace it or take it from the list"
        ) from None
    except OSError as error:
        raise UnreadableImageError(f"{path}: {_reason(error)}; correct the list of images") from None
    except Exception:  # Pillow raises whatever its parsers trip over
        size, turn = read_image(path, 1).shape[:2], 1
    if size[0] * size[1] > MOST_PIXELS:
        raise UnreadableImageError(f"{path}: an image too large to decode; cut it into tiles")
    return Head((size[0], size[1]), turn)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as ``read_image`` will give it, from the file's head alone.

    Raises:
        UnreadableImageError: the file is missing or is no picture.
    """
    return image_head(path).size


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """A picture [H, W] or [H, W, C] as its EXIF orientation shows it."""
    if turn in (5, 7):
        image = cv2.transpose(image)
    match turn:
        case 2:
            return cv2.flip(image, 1)
        case 3 | 7:
            return cv2.rotate(image, cv2.ROTATE_180)
        case 4:
            return cv2.flip(image, 0)
        case 6:
            return cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
        case 8:
            return cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)
    return image


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except InputError as error:
        fact = str(error).removeprefix(f"{path}: ").partition(";")[0].replace("no such file", "no such image")
        raise UnreadableImageError(f"{path}: {fact}; correct the list of images") from None


def _head_of(data: bytes) -> tuple[int, Size | None]:
    """How the pixels that OpenCV gives of a file are still to be turned (a TIFF's it has), a JPEG's size then."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            turn = 1 if image.format == "TIFF" else _exif_turn(image)
            size = image.size if turn in EXIF_SIDEWAYS else image.size[::-1]
            return turn, size if image.format in ("JPEG", "MPO") else None
    except Exception:  # Pillow raises whatever its parsers trip over
        return 1, None


def _exif_turn(image: Image.Image) -> int:
    """The orientation in a picture's EXIF, 1 where there is none that can be read."""
    try:
        exif = image.getexif() if image.format == "TIFF" else Image.Exif()
        if image.info.get("exif"):
            exif.load(image.info["exif"])
        turn = exif.get(EXIF_ORIENTATION)
    except Exception:  # Pillow raises whatever its parsers trip over
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _undecoded(path: Path, data: bytes) -> str:
    """What is said of bytes that OpenCV makes no picture of."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            wide = image.mode in ("F", "I")
    except Exception:  # Pillow raises whatever its parsers trip over
        wide = False
    if wide:
        return f"{path}: an image of 32 bits a pixel, of which the range is not known; save it with 8 or 16"
    return f"{path}: a corrupt image, it can not be decoded; replace it or take it from the list"


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture uint8 [H, W, 3]; a reader never sees half a file."""
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"{path}: OpenCV cannot write {path.suffix}; use .png or .jpg")
    with writing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _reason(error: OSError) -> str:
    return "no such image" if isinstance(error, FileNotFoundError) else (error.strerror or "can not be read").lower()
