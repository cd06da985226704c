"""Networks trained on COCO by others, in 8 bits without training: what the heads say stays what it was.

The mAP of all validation images is a matter of a minute: benchmarks/quantisation.py --coco.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models import load_model
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme

NETS = {
    "mobilenetv2-yolov3-nano": "MobileNetV2-YOLOv3-Nano-coco",
    "yolo-fastest-1.1": "yolo-fastest-1.1",
}
SIDE = 256


def pictures(folder, count: int) -> Tensor:
    found = [cv2.imread(str(path))[:, :, ::-1] for path in sorted(folder.iterdir())[:count]]
    small = [cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in found]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).contiguous().float() / 255


@pytest.mark.parametrize("name", NETS)
def test_eight_bits_without_training_keep_what_a_coco_network_says(shared_data, name):
    stem = shared_data / "darknet" / name / NETS[name]
    loaded = load_model(f"{stem}.weights", f"{stem}.cfg")
    images = shared_data / "coco128" / "images"
    assert loaded.network is not None
    # with 128 images for the ranges instead of 12 a third of the error is left
    integer = lower(calibrate(loaded.network, [pictures(images / "train", 12)], Scheme(w_bit=8, a_bit=8)))
    x = pictures(images / "val", 4)
    with torch.no_grad():
        exact = loaded.predictor(x)
    for made, wanted in zip(IntegerExecutor(integer)(x), exact, strict=True):
        error = float((made - wanted).square().mean() / wanted.var())
        assert error < 0.15, f"{error:.4f} of the heads' variance"
