"""Pascal VOC sets (a folder of xml files beside a folder of images) as manifests.

The set itself is only read: labels and lists are written elsewhere, images stay where they are.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.data.images import image_size
from utils.data.lock import locked
from utils.data.manifest import IMAGE_SUFFIXES
from utils.errors import InputError

log = logging.getLogger(__name__)

ANNOTATIONS, IMAGES = ("Annotations", "annotations"), ("JPEGImages", "images")
CONVERTED = Path("runs/data")  # where a folder given as --data is converted to, from the current folder
MARK = "# converted from "


@dataclass(frozen=True)
class Annotated:
    """One image: its path, and the class and (x1, y1, x2, y2; 0..1 of the image) of each object."""

    image: Path
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...]


@dataclass
class Findings:
    """What was odd in a set; boxes without area were named in the log."""

    images: int = 0
    boxes: int = 0
    difficult: int = 0
    empty: int = 0
    clipped: int = 0
    resized: int = 0
    other_class: int = 0
    splits: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.images} images ({', '.join(f'{n} {k}' for k, n in self.splits.items())}), {self.boxes} boxes"]
        names = {
            "difficult": "marked difficult (kept)",
            "empty": "without area (skipped)",
            "clipped": "cut at the image's edge",
            "resized": "images of another size than their xml says",
            "other_class": "of other classes (skipped)",
        }
        return ", ".join(parts + [f"{n} {text}" for key, text in names.items() if (n := getattr(self, key))])


def convert(
    folder: Path, out: Path, *, classes: Sequence[str] = (), valid: float = 0.2, seed: int = 0, note: str = ""
) -> Findings:
    """Write ``out.data``, ``out.names`` and the folder ``out`` (lists, labels) for the VOC set in ``folder``.

    Args:
        folder: holds Annotations/ (or annotations/), JPEGImages/ (or images/) and perhaps train.txt and val.txt, which
            may also be in ImageSets/Main/; without them the images are split at random.
        out: without a suffix; must not exist.
        classes: in this order; objects of others are left out. Empty: all that occur, by name.
        valid: share of the images to validate on where the set has no lists.
        seed: of that split.
        note: a comment for the ``.data`` file.

    Raises:
        InputError: the folder is no VOC set, a file in it is wrong, or ``out`` is taken.
    """
    for taken in (out, Path(f"{out}.data"), Path(f"{out}.names")):
        if taken.exists():
            raise InputError(f"{taken}: exists already; choose another --out")
    folder, found = folder.resolve(), Findings()
    splits = _splits(folder, valid, seed)
    read = {split: [_annotated(folder, stem, found) for stem in stems] for split, stems in splits.items()}
    names = _class_names(read, classes, folder)
    found.splits = {split: len(items) for split, items in read.items()}
    found.images = sum(found.splits.values())
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        build = Path(temporary) / out.name
        (build / "labels").mkdir(parents=True)
        for split, items in read.items():
            (build / f"{split}.txt").write_text("".join(f"{item.image}\n" for item in items), encoding="utf-8")
            for item in items:
                _write_labels(build / "labels" / f"{item.image.stem}.txt", item, names, found)
        names_file, data_file = Path(temporary) / "names", Path(temporary) / "data"
        names_file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        data_file.write_text(
            f"{MARK}{folder} {note}\nclasses = {len(names)}\ntrain = {out.name}/train.txt\n"
            f"valid = {out.name}/val.txt\nnames = {out.name}.names\nlabels = {out.name}/labels\n",
            encoding="utf-8",
        )
        build.replace(out)
        names_file.replace(f"{out}.names")
        data_file.replace(f"{out}.data")  # last: where it is, everything is
    return found


def is_voc(folder: Path) -> bool:
    """Whether the folder holds annotations and images as VOC names them."""
    return any((folder / name).is_dir() for name in ANNOTATIONS) and any((folder / name).is_dir() for name in IMAGES)


def manifest_of_folder(folder: Path) -> Path:
    """The ``.data`` file of a VOC set under runs/data, converted when it is new or has changed."""
    folder = folder.resolve()
    note = f"({_fingerprint(folder)})"
    with locked(CONVERTED / ".lock"):
        number = 1
        while True:
            out = CONVERTED / (folder.name if number == 1 else f"{folder.name}-{number}")
            data = Path(f"{out}.data")
            if not data.exists() and not out.exists():
                log.warning("%s: converted to %s: %s", folder, data, convert(folder, out, note=note))
                return data
            if data.exists() and data.read_text(encoding="utf-8").startswith(f"{MARK}{folder} {note}\n"):
                return data
            number += 1


def _fingerprint(folder: Path) -> str:
    """Changes when an annotation or a list of the set does."""
    files = sorted([*folder.rglob("*.xml"), *folder.rglob("*.txt")])
    rows = "".join(f"{p.relative_to(folder)} {p.stat().st_size} {p.stat().st_mtime_ns}\n" for p in files)
    return hashlib.sha256(rows.encode()).hexdigest()[:16]


def _subfolder(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise InputError(f"{folder}: no folder {' or '.join(names)} in it, so no VOC set; give the folder that holds them")


def _splits(folder: Path, valid: float, seed: int) -> dict[str, list[str]]:
    """The stems of the images to train and to validate on: the set's own lists, else at random."""
    for place in (folder, folder / "ImageSets" / "Main"):
        lists = {split: place / f"{split}.txt" for split in ("train", "val")}
        if all(path.is_file() for path in lists.values()):
            return {split: _read_stems(path) for split, path in lists.items()}
    stems = sorted(path.stem for path in _subfolder(folder, ANNOTATIONS).glob("*.xml"))
    if len(stems) < 2:
        raise InputError(f"{folder}: {len(stems)} annotations; at least two are needed, to train and to validate on")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(stems)).tolist()
    count = min(len(stems) - 1, max(1, round(valid * len(stems))))
    return {"train": [stems[i] for i in sorted(order[count:])], "val": [stems[i] for i in sorted(order[:count])]}


def _read_stems(path: Path) -> list[str]:
    rows = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not rows:
        raise InputError(f"{path}: the list is empty; name an image a line, or remove both lists for a random split")
    return [Path(row).stem if Path(row).suffix.lower() in IMAGE_SUFFIXES else Path(row).name for row in rows]


def _annotated(folder: Path, stem: str, found: Findings) -> Annotated:
    """One image with its objects; clipped to the image, those without area left out."""
    path = _subfolder(folder, ANNOTATIONS) / f"{stem}.xml"
    if not path.is_file():
        image = _image(folder, stem, path)
        log.warning("%s: no annotation of this image; taken as one without objects", image)
        return Annotated(image, ())
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: no valid xml ({error}); repair it or take it from the set") from None
    image = _image(folder, Path(root.findtext("filename") or stem).name, path)
    size, unit = image_size(image), _unit(path, root)
    if unit and unit != size:
        found.resized += 1
        log.warning("%s: says %d x %d px, the image has %d x %d", path, unit[1], unit[0], size[1], size[0])
    same_aspect = bool(unit) and abs(unit[0] * size[1] / (unit[1] * size[0]) - 1) < 0.01
    height, width = unit if same_aspect else size  # an image only scaled keeps its shares, else trust the pixels
    objects = []
    for element in root.iter("object"):
        box = _box(path, element, width, height, found)
        if box:
            found.difficult += (element.findtext("difficult") or "0").strip() == "1"
            objects.append(((element.findtext("name") or "").strip(), box))
    return Annotated(image, tuple(objects))


def _image(folder: Path, name: str, source: Path) -> Path:
    """The image an annotation is of: by its file name, else by the annotation's own, with any suffix."""
    images = _subfolder(folder, IMAGES)
    for candidate in (name, *(f"{source.stem}{s}" for suffix in IMAGE_SUFFIXES for s in (suffix, suffix.upper()))):
        if (images / candidate).is_file():
            return (images / candidate).absolute()
    raise InputError(f"{source}: its image {name} is not in {images}; add it or take the annotation from the set")


def _unit(path: Path, root: ElementTree.Element) -> tuple[int, int]:
    """(height, width) the xml says its boxes are in; (0, 0) or () where it does not say."""
    try:
        height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except ValueError:
        raise InputError(f"{path}: its <size> is no number of pixels; repair it") from None
    return (height, width) if height > 0 and width > 0 else ()  # type: ignore[return-value]


def _box(path: Path, element: ElementTree.Element, width: int, height: int, found: Findings) -> tuple | None:
    """(x1, y1, x2, y2; 0..1) of an object, or None where it has no area. Corners are taken as labelImg writes them."""
    try:
        corners = [float(element.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")]
    except ValueError:
        name = element.findtext("name")
        raise InputError(f"{path}: an object ({name}) without a <bndbox> of four numbers; repair it") from None
    limits = (width, height, width, height)
    inside = [min(max(value, 0.0), limit) for value, limit in zip(corners, limits, strict=True)]
    x1, y1, x2, y2 = inside
    if x2 <= x1 or y2 <= y1:
        found.empty += 1
        log.warning("%s: a box without area (%s); skipped", path, " ".join(f"{value:g}" for value in corners))
        return None
    found.clipped += inside != corners
    return tuple(value / limit for value, limit in zip(inside, limits, strict=True))


def _class_names(read: dict[str, list[Annotated]], classes: Sequence[str], folder: Path) -> list[str]:
    counts = Counter(name for items in read.values() for item in items for name, _ in item.objects)
    if not counts:
        raise InputError(f"{folder}: no object in any annotation; there is nothing to learn")
    for name in classes:
        if name not in counts:
            near = difflib.get_close_matches(name, counts, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(counts))}"
            raise InputError(f"--classes: no object of class '{name}' in {folder}; {hint}")
    return list(classes) or sorted(counts)


def _write_labels(path: Path, item: Annotated, names: Sequence[str], found: Findings) -> None:
    if path.exists():
        raise InputError(f"{item.image}: two images of the set are named {path.stem}; rename one")
    rows = []
    for name, (x1, y1, x2, y2) in item.objects:
        if name not in names:
            found.other_class += 1
            continue
        found.boxes += 1
        rows.append(f"{names.index(name)} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
    path.write_text("".join(rows), encoding="utf-8")
