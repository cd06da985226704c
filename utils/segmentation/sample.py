"""The embedded sample set of masks: handwritten digits on photographs, and which pixels each has inked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import cv2
from tqdm import tqdm

from utils.data.sample_scenes import JPEG, Recipe, materials, scenes
from utils.data.sample_set import ROOT, prepare_set

NAME, NAMES = "digit-masks.data", "digit-masks.names"
RECIPE = Recipe(version=1, train=400, valid=100)  # a mask teaches a class a pixel: a tenth of the scenes will do


def prepare_sample(root: Path = ROOT, recipe: Recipe = RECIPE, wheels: Path | None = None) -> Path:
    """Compose ``root/digit-masks`` unless it is complete, and say where its manifest is; see ``prepare_set``."""
    stamp = json.dumps(asdict(recipe), sort_keys=True)
    return prepare_set(NAME, root, stamp, NAMES, lambda build, place: _compose(build, recipe, place), wheels)


def _compose(build: Path, recipe: Recipe, wheels: Path) -> str:
    """Both splits' scenes and masks; a digest of their pixels."""
    material, digest = materials(recipe, wheels), hashlib.sha256()
    bar = {"desc": "composing the sample set", "unit": " scenes", "mininterval": 1, "disable": None}
    with tqdm(total=recipe.train + recipe.valid, **bar) as progress:
        for stream, (split, count) in enumerate((("train", recipe.train), ("valid", recipe.valid))):
            images, masks = build / "images" / split, build / "masks" / split
            images.mkdir(parents=True)
            masks.mkdir(parents=True)
            for i, scene in enumerate(scenes(material[split], count, recipe, stream)):
                digest.update(scene.image.tobytes() + scene.mask.tobytes())
                cv2.imwrite(str(images / f"{i:05d}.jpg"), scene.image, list(JPEG))
                cv2.imwrite(str(masks / f"{i:05d}.png"), scene.mask)
                progress.update()
    return digest.hexdigest()
