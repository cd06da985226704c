"""A recipe on a handful of made-up images: every command runs and every expected number appears, in seconds.

What is typed is the recipe's own; in a folder of its own its paths name thin copies: cfgs with a sixteenth of the
channels, data of twelve images. Flags behind the others make an epoch of small images of it. One process does it all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.data.events import Events
from utils.data.prophesee import BOX, boxes_path, write_boxes, write_dat
from utils.recipes.recipe import PublishedRow

THIN = 16  # of so many channels one is left
LEAST = 8
SIDE = 64  # px
HEADS = ("yolo", "region", "Gaussian_yolo", "yolo_bdp", "softmax", "segment")  # their convolution keeps its channels
IMAGES = {"train": 12, "val": 4}
HERE = ("--batch-size", "4", "--device", "cpu", "--workers", "0")
LESS = {"--finetune": "1", "--search": "2", "--images": "4", "--timesteps": "8"}  # where a recipe gives them


def prepare(recipe: PublishedRow, root: Path, place: Path, weigh: Callable[[Path, Path], object]) -> None:
    """Write thin cfgs, data and weights where the recipe's paths point.

    Args:
        recipe: to be followed in ``place``.
        root: of the checkout, which has the real ones.
        place: a folder.
        weigh: writes Darknet weights of a cfg.
    """
    for step in recipe.steps:
        cfgs = [Path(word) for word in step.words if word.endswith(".cfg") and (root / word).is_file()]
        for path in cfgs:
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(thinner((root / path).read_text(encoding="utf-8")), encoding="utf-8")
        for path in (Path(word) for word in step.words if word in recipe.needs):
            weigh(place / cfgs[0], place / path)
    write_data(recipe, root, place)


def brief(words: Sequence[str]) -> list[str]:
    """What makes a command short, behind its own words."""
    script, added = words[0], [*HERE]
    if script == "-m":
        return []
    if script.endswith("_prune.py"):
        added += ["--force", "--recalibrate", "0"]
    if script == "train.py":
        added += ["--epochs", "4" if "--progressive" in words else "1"]  # at least one a stage
    for flag, value in LESS.items():
        added += [flag, value] if flag in words and script != "train.py" else []
    return [*added, "--img-size", str(SIDE)]


def thinner(text: str) -> str:
    """The cfg with a sixteenth of the channels, for small images; depthwise convolutions stay such."""
    parts = re.split(r"(?m)^(?=\[)", text)
    kinds = [match[1] if (match := re.match(r"\[(\w+)\]", part)) else "" for part in parts]
    for i, part in enumerate(parts):
        read = {key: int(value) for key, value in re.findall(r"(?m)^(\w+)\s*=\s*(\d+)\s*$", part)}
        if kinds[i] == "net":
            for side in ("width", "height"):
                parts[i] = _with(parts[i], side, SIDE)
        last = next((kind for kind in kinds[i + 1 :] if kind not in ("avgpool", "dropout")), "") in HEADS
        for key in ("filters", "output"):
            if key in read and not last:
                parts[i] = _with(parts[i], key, _thin(read[key]))
                if read.get("groups", 1) == read[key]:
                    parts[i] = _with(parts[i], "groups", _thin(read[key]))
    return "".join(parts)


def write_data(recipe: PublishedRow, root: Path, place: Path) -> None:
    """Twelve training and four validation images of what the recipe learns."""
    path, rng = place / recipe.data, np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not recipe.data.endswith(".data"):
        writers = {"": _write_classes, "events": _write_gestures, "event-boxes": _write_traffic}
        writers[recipe.layout](path, recipe.classes, rng)
        return
    known = (root / recipe.data).is_file()  # else the set was never published
    names = _names(root / recipe.data) if known else [f"class{number}" for number in range(recipe.classes)]
    folder = path.with_suffix("")
    for split, count in IMAGES.items():
        for number in range(count):
            image = folder / f"images/{split}/{number}.png"
            picture, row = _scene(number % len(names), rng)
            _write_image(image, picture)
            label = folder / f"labels/{split}/{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(row, encoding="utf-8")
        rows = "".join(f"{folder.resolve()}/images/{split}/{number}.png\n" for number in range(count))
        (folder / f"{split}.txt").write_text(rows, encoding="utf-8")
    (folder / "set.names").write_text("\n".join(names) + "\n", encoding="utf-8")
    lists = f"train={folder.name}/train.txt\nvalid={folder.name}/val.txt\nnames={folder.name}/set.names\n"
    path.write_text(f"classes={len(names)}\n{lists}", encoding="utf-8")


def _write_classes(folder: Path, classes: int, rng: np.random.Generator) -> None:
    """A folder a class, most of them empty."""
    for label in range(classes):
        (folder / f"train/class{label:04}").mkdir(parents=True)
    for split, count in IMAGES.items():
        for number in range(count):
            picture = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            _write_image(folder / split / f"class{number % classes:04}" / f"{number}.png", picture)


def _write_gestures(folder: Path, classes: int, rng: np.random.Generator) -> None:
    """Recordings of a DVS128, a folder a class."""
    for part, count in (("Train", 1), ("Test", 1)):
        for label in range(classes):
            place = folder / part / f"class{label:04}"
            place.mkdir(parents=True)
            for number in range(count):
                write_dat(place / f"{number}.dat", _events(3000, 100_000, (128, 128), rng), (128, 128))


def _write_traffic(folder: Path, classes: int, rng: np.random.Generator) -> None:
    """Recordings of Gen1's sensor with boxes, four of each a second after the beginning."""
    for part in ("train", "val"):
        (folder / part).mkdir(parents=True)
        for number in range(2):
            path = folder / part / f"{number}_td.dat"
            write_dat(path, _events(20_000, 2_000_000, (240, 304), rng), (240, 304))
            boxes = np.zeros(4, BOX)
            for i in range(4):
                boxes[i] = (1_000_000 + 200_000 * i, 40 + 20 * i, 60, 60, 50, i % classes, 1.0, i)
            write_boxes(boxes_path(path), boxes)


def _events(count: int, end: int, size: tuple[int, int], rng: np.random.Generator) -> Events:
    """Noise over a time, us, on a sensor of (height, width)."""
    times = np.sort(rng.integers(0, end, count))
    return Events(times, rng.integers(0, size[1], count), rng.integers(0, size[0], count), rng.integers(0, 2, count))


def _scene(label: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], str]:
    """Noise with a bright square of 20 px; its row of labels."""
    image = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    x, y = (int(v) for v in rng.integers(2, SIDE - 22, 2))
    image[y : y + 20, x : x + 20, label % 3] = 250
    return image, f"{label} {(x + 10) / SIDE:.5f} {(y + 10) / SIDE:.5f} {20 / SIDE:.5f} {20 / SIDE:.5f}\n"


def _write_image(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def _names(data: Path) -> list[str]:
    found = re.search(r"(?m)^names\s*=\s*(\S+)", data.read_text(encoding="utf-8"))
    assert found is not None, f"{data} has names"
    lines = (data.parent / found[1]).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line]


def _thin(width: int) -> int:
    return width if width <= LEAST else max(LEAST, width // THIN // 4 * 4)


def _with(part: str, key: str, value: int) -> str:
    return re.sub(rf"(?m)^{key}\s*=\s*\d+", f"{key}={value}", part)
