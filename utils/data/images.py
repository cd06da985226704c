"""Pictures from disk and back: decoding that names the file it fails on, sizes without decoding, writing."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.errors import InputError
from utils.files import writing

EXIF_ORIENTATION = 0x0112
EXIF_SIDEWAYS = (5, 6, 7, 8)  # a quarter turn: OpenCV applies it when decoding, so that height and width change places


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


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """Decode a picture to uint8 [H, W, channels], RGB or grey.

    Raises:
        UnreadableImageError: the file is missing, is no picture, or ends early.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"{path}: {_reason(error)}; correct the list of images") from None
    flag = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    with HUSH:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if image is None:
        raise UnreadableImageError(
            f"{path}: a corrupt image, it can not be decoded; replace it or take it from the list"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if channels == 3 else image[..., None]


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as ``read_image`` will give it, from the file's head alone.

    Raises:
        UnreadableImageError: the file is missing or is no picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION) in EXIF_SIDEWAYS
    except UnidentifiedImageError:
        raise UnreadableImageError(
            f"{path}: a corrupt image, its head can not be read; replace it or take it from the list"
        ) from None
    except OSError as error:
        raise UnreadableImageError(f"{path}: {_reason(error)}; correct the list of images") from None
    return (width, height) if turned else (height, width)


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture uint8 [H, W, 3]; a reader never sees half a file."""
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"{path}: OpenCV cannot write {path.suffix}; use .png or .jpg")
    with writing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _reason(error: OSError) -> str:
    return "no such image" if isinstance(error, FileNotFoundError) else (error.strerror or "can not be read").lower()
