"""The embedded sample set of boxes: scenes composed from real handwritten digits and real photographs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils.data.sample_scenes import JPEG, Material, Recipe, Scene, materials, scenes
from utils.data.sample_set import ROOT, is_sample, prepare_set

__all__ = ["ROOT", "Material", "Recipe", "Scene", "materials", "prepare_digits", "prepare_if_sample", "scenes"]

SAMPLE = ROOT / "digits.data"
RECIPE = Recipe()


def prepare_if_sample(path: Path | str) -> None:
    """Compose the sample set unless it is there, if ``path`` is its manifest; else do nothing."""
    if is_sample(path, SAMPLE.name):
        prepare_digits()


def prepare_digits(root: Path = ROOT, recipe: Recipe = RECIPE, wheel_folder: Path | None = None) -> Path:
    """Compose ``root/digits`` unless it is complete, and say where its manifest is; see ``prepare_set``."""
    stamp = json.dumps(asdict(recipe), sort_keys=True)
    names = SAMPLE.with_suffix(".names").name
    return prepare_set(
        SAMPLE.name, root, stamp, names, lambda build, wheels: _compose(build, recipe, wheels), wheel_folder
    )


def _compose(build: Path, recipe: Recipe, wheels: Path) -> str:
    """Both splits' scenes and labels; a digest of their pixels and boxes."""
    material = materials(recipe, wheels)
    digest = hashlib.sha256()
    bar = {"desc": "composing the sample set", "unit": " scenes", "mininterval": 1, "disable": None}
    with tqdm(total=recipe.train + recipe.valid, **bar) as progress:
        for stream, (split, count) in enumerate((("train", recipe.train), ("valid", recipe.valid))):
            (build / "images" / split).mkdir(parents=True)
            (build / "labels" / split).mkdir(parents=True)
            listed = []
            for i, scene in enumerate(scenes(material[split], count, recipe, stream)):
                digest.update(scene.image.tobytes() + scene.boxes.tobytes())
                listed.append(_write(scene, build, f"{split}/{i:05d}", recipe.size))
                progress.update()
            (build / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return digest.hexdigest()


def _write(scene: Scene, build: Path, name: str, size: int) -> str:
    image = f"images/{name}.jpg"
    cv2.imwrite(str(build / image), scene.image, list(JPEG))
    c, x1, y1, x2, y2 = scene.boxes.T
    rows = np.stack([c, (x1 + x2) / 2 / size, (y1 + y2) / 2 / size, (x2 - x1) / size, (y2 - y1) / size], 1)
    (build / f"labels/{name}.txt").write_text("".join("{:.0f} {:.6f} {:.6f} {:.6f} {:.6f}\n".format(*r) for r in rows))
    return image
