"""One xml file of a Pascal VOC set, whatever its encoding and namespace; another tool's xml is refused by name."""

from __future__ import annotations

import codecs
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from utils.data.manifest import path_of
from utils.data.text import STRANGE, decoded, read_bytes
from utils.errors import InputError

DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
WIDER = {"gb2312": "gb18030", "gbk": "gb18030"}  # what is called so often holds signs of the larger set
KNOWN = {"folder", "filename", "path", "source", "owner", "size", "segmented", "verified", "object"}  # below the root


@dataclass(frozen=True)
class VocObject:
    """``corners`` are xmin, ymin, xmax, ymax as written, px or shares."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocFile:
    """``filename`` is the image it says it is of, "" for none; ``size`` (height, width) px, (0, 0) for none."""

    filename: str
    size: tuple[int, int]
    objects: tuple[VocObject, ...]


def read_voc_xml(path: Path) -> VocFile:
    """What an annotation says.

    Raises:
        InputError: it is no xml, none of VOC's, or contradicts itself.
    """
    root = _root(path)
    objects = tuple(_object(path, element) for element in root.iter("object"))
    if root.tag != "annotation" or (not objects and {child.tag for child in root} - KNOWN):
        inside = ", ".join(dict.fromkeys(f"<{child.tag}>" for child in root)) or "nothing"
        raise InputError(
            f"{path}: <{str(root.tag)[:40]}> with {inside[:60]} is another tool's xml; export the set as Pascal VOC"
        )
    filename = path_of(path, (root.findtext("filename") or "").replace("\\", "/").strip())
    return VocFile(filename.rpartition("/")[2], _size(path, root), objects)


def _root(path: Path) -> ElementTree.Element:
    """The root of the file, namespaces taken off."""
    data = read_bytes(path)
    declared = DECLARED.match(data)
    encoding = declared[1].decode().lower() if declared else "utf-8"
    if encoding.startswith(("utf-16", "utf16", "ucs-2")):
        encoding = "utf-8"  # a declaration that can be read a byte a sign is not in what it declares
    try:
        codecs.lookup(encoding)
        root = ElementTree.fromstring(decoded(data, WIDER.get(encoding, encoding)))
    except LookupError:
        raise InputError(f"{path}: no known encoding '{encoding}'; save it as UTF-8 and say so in its head") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path}: no valid xml ({error}); repair it or take it from the set") from None
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
    return root


def _size(path: Path, root: ElementTree.Element) -> tuple[int, int]:
    """(height, width) the xml says its boxes are in; (0, 0) where it does not say."""
    try:
        height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError):
        raise InputError(f"{path}: its <size> is no number of pixels; repair it") from None
    return (height, width) if height > 0 and width > 0 else (0, 0)


def _object(path: Path, element: ElementTree.Element) -> VocObject:
    name = " ".join((element.findtext("name") or "").split())
    if not name or STRANGE in name:
        fact = f"an object's name '{name}' is in another encoding than it says" if name else "an object without a name"
        raise InputError(f"{path}: {fact}; repair it")
    try:
        x1, y1, x2, y2 = (float(element.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax"))
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise ValueError
    except ValueError:
        raise InputError(f"{path}: an object ({name}) without a <bndbox> of four numbers; repair it") from None
    return VocObject(name, (x1, y1, x2, y2), (element.findtext("difficult") or "0").strip() == "1")
