"""Folders of images and annotations as other tools leave them, recognised by what is in them, and opened as they are.

What has label files of our own form is read where it lies; everything else is converted once and kept under runs/data.
Which layouts there are: ``LAYOUTS``, asked in this order. A layout answers with a manifest and what it saw, in words,
or with None where the folder is none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from utils.data import manifest as files
from utils.data.conversions import kept, publish
from utils.data.folders import IMAGE_SUFFIXES
from utils.data.manifest import Manifest, list_text, read_list, read_names
from utils.data.set_apart import set_apart
from utils.data.text import read_text
from utils.detection import coco, cvat, voc
from utils.detection.automotive import recordings_folder, refuse_unlabelled
from utils.detection.data_yaml import YamlSet, read_yaml
from utils.detection.label_writer import Annotated, Findings, class_names, write_set
from utils.detection.labels import label_path
from utils.detection.split_lists import Split, lists_in, split
from utils.errors import InputError
from utils.files import no_file
from utils.numbers import is_whole

Found = tuple[Manifest, str]
NAMES = ("classes.txt", "obj.names", "names.txt", "_darknet.labels")  # what other tools call the file of names
PARTS = ("images/{}", "{}/images", "{}")  # where a folder may have a folder for each part
VALID_PARTS = ("val", "valid", "validation", "test")
VALID, SEED = 0.2, 0  # the share set apart where a folder has no split, and of that choice
HEAD = 4096  # bytes of a json that show whether it is COCO's
ROBOFLOW_COCO, ROBOFLOW_CSV, CVAT_XML = "_annotations.coco.json", "_annotations.csv", "annotations.xml"


def recognise(folder: Path) -> Found:
    """The set in a folder, and what it was recognised as.

    Raises:
        InputError: it is none that is known, or something in it is wrong.
    """
    folder = folder.absolute()
    for layout in LAYOUTS:
        found = layout(folder)
        if found is not None:
            return found
    refuse_unlabelled(folder)
    raise InputError(
        f"{folder}: a folder given as --data needs Annotations/ and JPEGImages/ (VOC), images and YOLO labels, a "
        "data.yaml, or COCO's, Roboflow's or CVAT's files; else write a .data file"
    )


def of_yaml(path: Path) -> Found:
    """The set that a data.yaml describes.

    Raises:
        InputError: it contradicts itself, or its images are not there.
    """
    said = read_yaml(path)
    words = f"YOLO ({path.name})"
    lists = [place for place in (*said.train, *said.valid) if place.is_file()]
    there = all(image.is_file() for place in lists for image in read_list(place)[:1])
    if len(said.train) == len(said.valid) == 1 and there:
        return Manifest(path.absolute(), len(said.names), said.names, said.train[0], said.valid[0]), words

    def convert(out: Path, note: str) -> str:
        parts, told = _of_parts(path, said)
        _publish(out, parts, said.names, f"{path.resolve().parent} {note}")
        return told

    return files.read_manifest(kept(path.absolute().parent, [path, *lists], convert)), words


def _of_parts(path: Path, said: YamlSet) -> tuple[tuple[Sequence[Path], Sequence[Path]], str]:
    train, valid = (
        [image for place in places for image in _read_here(path.absolute().parent, place)]
        for places in (said.train, said.valid)
    )
    if valid:
        return (train, valid), f"{len(train)} images to train on, {len(valid)} to validate on"
    if len(train) < 2:
        raise InputError(
            f"{path}: {len(train)} images and no 'val:'; at least two are needed, to train and validate on"
        )
    chosen, apart = set_apart([str(image) for image in train], VALID, SEED)
    told = f"no 'val:', so {VALID:.0%} by seed {SEED} to validate on"
    return ([train[i] for i in chosen], [train[i] for i in apart]), told


def _publish(out: Path, parts: tuple[Sequence[Path], Sequence[Path]], names: Sequence[str], mark: str) -> None:
    """Two lists of images whose labels lie where labels lie, as a ``.data`` file."""

    def write(build: Path) -> None:
        build.mkdir()
        for name, part in zip(("train", "val"), parts, strict=True):
            (build / f"{name}.txt").write_text(list_text(image.absolute() for image in part), encoding="utf-8")

    publish(out, write, names, mark)


def yaml_folder(folder: Path) -> Found | None:
    """A folder with one yaml that names classes: ultralytics', Roboflow's, CVAT's."""
    yamls = [
        path
        for path in (*folder.glob("*.yaml"), *folder.glob("*.yml"))
        if not no_file(path) and "names:" in path.read_text("utf-8", "replace")
    ]
    chosen = [path for path in yamls if path.stem in ("data", "dataset")] or yamls
    return of_yaml(chosen[0]) if len(chosen) == 1 else None


def coco_folder(folder: Path) -> Found | None:
    """COCO's annotations/instances_train2017.json beside train2017/, Roboflow's json in each part, CVAT's default."""
    jsons = [*folder.glob("*.json"), *folder.glob("annotations/*.json"), *folder.glob(f"*/{ROBOFLOW_COCO}")]
    jsons = sorted(path for path in jsons if _is_coco(path))
    instances = [path for path in jsons if path.stem.startswith("instances_")] or jsons
    parts = {_part(path): path for path in instances}
    valid = next((parts[part] for part in VALID_PARTS if part in parts), None)
    chosen = [parts["train"], *([valid] if valid else [])] if "train" in parts else instances
    if len(chosen) == len(instances) > 1 and "train" not in parts:
        raise InputError(
            f"{folder}: {len(instances)} json files, none of them called train ({instances[0].name} …); choose: "
            "python3 -m utils.data coco TRAIN.json VAL.json --images FOLDER --out data/NAME"
        )
    if not chosen:
        return None
    images = [_images_of(folder, path) for path in chosen]
    data = kept(
        folder,
        chosen,
        lambda out, note: coco.convert(chosen, images, out, mark=f"{folder.resolve()} {note}", valid=VALID),
    )
    return files.read_manifest(data), f"COCO ({', '.join(str(path.relative_to(folder)) for path in chosen)})"


def _is_coco(path: Path) -> bool:
    if no_file(path):
        return False
    with path.open("rb") as file:
        head = file.read(HEAD)
    more = ["categories"] if len(head) == HEAD else []  # nothing else is in Label Studio's notes.json, a file of YOLO's
    keys = ("images", "annotations", *more)
    return head.lstrip()[:1] == b"{" and any(f'"{key}"'.encode() in head for key in keys)


def _part(path: Path) -> str:
    """The part that a json is of: as its folder is called where it lies among the images, else as it is."""
    name = (path.parent.name if path.name == ROBOFLOW_COCO else path.stem).casefold()
    return next((part for part in ("train", *VALID_PARTS) if part in name), name)


def _images_of(folder: Path, annotations: Path) -> Path:
    """The folder of a json's images."""
    tag, part = annotations.stem.removeprefix("instances_"), _part(annotations)
    names = [name for each in (tag, part) for name in (f"images/{each}", each)]
    places = [annotations.parent, *(folder / name for name in names), folder / "images", folder]
    there = [place for place in places if place.is_dir()]
    found = (place for look in ("*", "**/*") for place in there if _has_image(place, look))  # CVAT's may be deeper
    return next(found, folder)


def _has_image(folder: Path, look: str) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.glob(look))


def cvat_folder(folder: Path) -> Found | None:
    """CVAT's annotations.xml, its images in images/ or beside it."""
    path = folder / CVAT_XML
    if not path.is_file():
        return None
    places = [folder / "images", folder]

    def read(found: Findings) -> tuple[list[Annotated], list[Annotated] | None]:
        made = cvat.read_cvat(path, places, found)
        return cvat.subsets(made) or ([item for items in made.values() for item in items], None)

    return files.read_manifest(kept(folder, [path], lambda out, note: _convert(folder, out, note, read))), "CVAT's xml"


def table_folder(folder: Path) -> Found | None:
    """Roboflow's _annotations.csv, in each part or in the folder itself."""
    train = next((place for place in (folder / "train", folder) if (place / ROBOFLOW_CSV).is_file()), None)
    if train is None:
        return None
    valid = next((folder / part for part in VALID_PARTS if (folder / part / ROBOFLOW_CSV).is_file()), None)
    tables = [place / ROBOFLOW_CSV for place in (train, valid) if place]

    def read(found: Findings) -> tuple[list[Annotated], list[Annotated] | None]:
        return cvat.read_table(tables[0], found), cvat.read_table(tables[1], found) if valid else None

    data = kept(folder, tables, lambda out, note: _convert(folder, out, note, read))
    return files.read_manifest(data), f"Roboflow's tables ({ROBOFLOW_CSV})"


def _convert(
    folder: Path, out: Path, note: str, read: Callable[[Findings], tuple[list[Annotated], list[Annotated] | None]]
) -> Findings:
    """Annotated images, in two parts or with a share set apart, as a ``.data`` file."""
    found = Findings()
    train, valid = read(found)
    if valid is None:
        if len(train) < 2:
            raise InputError(f"{folder}: {len(train)} images; at least two are needed, to train and to validate on")
        chosen, apart = set_apart([str(item.image) for item in train], VALID, SEED)
        train, valid = [train[i] for i in chosen], [train[i] for i in apart]
        found.split = f"split: no list, so {VALID:.0%} by seed {SEED} to validate on"
    parts = {"train": train, "val": valid}
    write_set(out, parts, class_names(parts, (), folder), found, mark=f"{folder.resolve()} {note}")
    return found


def voc_folder(folder: Path) -> Found | None:
    """A folder of xml files and one of images, whatever they are called, or both in one, in parts or not."""
    if not voc.is_voc(folder):
        return None
    return files.read_manifest(voc.manifest_of_folder(folder)), f"Pascal VOC ({voc.told_places(folder)})"


def yolo_folder(folder: Path) -> Found | None:
    """A folder of images and label files, with a file of names or without."""
    parts, lists = _parts(folder), lists_in(folder)
    images = folder / "images" if (folder / "images").is_dir() else folder
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    names = _names_file(folder, parts)
    labelled = [path for image in found if (path := label_path(image)).is_file()]
    if not found or not (names or labelled):
        return None
    classes = read_names(names) if names else _numbered(labelled)
    words = f"YOLO ({names.relative_to(folder) if names else 'no file of names: classes are numbers'})"
    if parts and not (lists and parts[1].name != "val"):
        return Manifest(folder, len(classes), classes, *parts), words

    def convert(out: Path, note: str) -> str:
        chosen: Split[Path] = split(folder, found, lambda path: _read_here(folder, path), VALID, SEED)
        _publish(out, (chosen.train, chosen.valid), classes, f"{folder.resolve()} {note}")
        return f"{len(chosen.train)} images to train on, {len(chosen.valid)} to validate on, {chosen.told}"

    on = [*found, *([names] if names else labelled), *lists.values()]
    return files.read_manifest(kept(folder, on, convert)), words


def _names_file(folder: Path, parts: tuple[Path, Path] | None) -> Path | None:
    """The one file of names in a folder."""
    found = sorted(folder.glob("*.names"))
    places = (folder, folder / "labels", folder / "images", *(parts or ()))
    found = found or [path for place in places for name in NAMES if (path := place / name).is_file()][:1]
    return found[0] if len(found) == 1 else None


def _numbered(labels: Sequence[Path]) -> tuple[str, ...]:
    """Names for classes that nobody named: their numbers, up to the highest in the label files."""
    rows = (line.split() for path in labels for line in read_text(path).splitlines())
    numbers = [int(row[0]) for row in rows if row and is_whole(row[0])]
    return tuple(str(number) for number in range(max(numbers, default=0) + 1))


def _parts(folder: Path) -> tuple[Path, Path] | None:
    """The folders to train and to validate on, where a folder has both."""
    for pattern in PARTS:
        train = folder / pattern.format("train")
        valid = [path for kind in VALID_PARTS if (path := folder / pattern.format(kind)).is_dir()]
        if train.is_dir() and valid:
            return train, valid[0]
    return None


def _read_here(folder: Path, path: Path) -> list[Path]:
    """A list's images; those of another machine's paths (CVAT's begin with data/) by their last parts in the folder."""

    def there(image: Path) -> Path:
        tails = (folder.joinpath(*image.parts[i:]) for i in range(1, len(image.parts)))
        return image if image.is_file() else next((tail for tail in tails if tail.is_file()), image)

    return [there(image) for image in read_list(path)]


LAYOUTS: tuple[Callable[[Path], Found | None], ...] = (
    recordings_folder,
    yaml_folder,
    coco_folder,
    cvat_folder,
    table_folder,
    voc_folder,
    yolo_folder,
)
