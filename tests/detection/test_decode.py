from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from tests.detection.helpers import ANCHORS, head, random_heads, raw_of
from utils.detection.decode import boxes_px, decode


def darknet_loop(raw, one, size):
    """get_yolo_box and the loops around it, one number at a time."""
    n, _, rows, columns = raw.shape
    found = []
    for image in range(n):
        for a, (aw, ah) in enumerate(one.own_anchors):
            for y in range(rows):
                for x in range(columns):
                    t = raw[image, a * (5 + one.classes) : (a + 1) * (5 + one.classes), y, x].tolist()
                    act = (lambda v: v) if one.new_coords else (lambda v: 1 / (1 + math.exp(-v)))
                    cx = (act(t[0]) * one.scale_x_y - 0.5 * (one.scale_x_y - 1) + x) / columns * size[1]
                    cy = (act(t[1]) * one.scale_x_y - 0.5 * (one.scale_x_y - 1) + y) / rows * size[0]
                    w = t[2] * t[2] * 4 * aw if one.new_coords else math.exp(t[2]) * aw
                    h = t[3] * t[3] * 4 * ah if one.new_coords else math.exp(t[3]) * ah
                    found.append([cx, cy, w, h, *(act(v) for v in t[4:])])
    return torch.tensor(found).view(n, -1, 5 + one.classes)


@pytest.mark.parametrize("scale_x_y", [1.0, 1.05, 2.0])
@pytest.mark.parametrize("new_coords", [False, True])
def test_decode_equals_darknets_formulas_number_by_number(scale_x_y, new_coords):
    heads = (
        head((3, 4, 5), scale_x_y=scale_x_y, new_coords=new_coords),
        head((0, 1), scale_x_y=scale_x_y, new_coords=new_coords),
    )
    raw = random_heads(((2, 3), (4, 6)), heads)
    expected = torch.cat([darknet_loop(r, h, (64, 96)) for r, h in zip(raw, heads, strict=True)], dim=1)
    torch.testing.assert_close(decode(raw, heads, (64, 96)), expected)


def test_order_of_heads_only_reorders_boxes():
    heads = (head((3, 4, 5)), head((0, 1)), head((2,)))
    raw = random_heads(((2, 3), (4, 6), (8, 12)), heads)
    there, back = decode(raw, heads, (64, 96)), decode(raw[::-1], heads[::-1], (64, 96))
    count = [r[0, 0].numel() * len(h.mask) for r, h in zip(raw, heads, strict=True)]
    torch.testing.assert_close(torch.cat(list(there.split(count, 1))[::-1], dim=1), back, rtol=0, atol=0)


def test_bf16_heads_are_decoded_in_float32():
    heads = (head(),)
    raw = [r.bfloat16() for r in random_heads(((4, 4),), heads)]
    decoded = decode(raw, heads, (128, 128))
    assert decoded.dtype is torch.float32
    torch.testing.assert_close(decoded, decode([r.float() for r in raw], heads, (128, 128)), rtol=0, atol=0)


def test_a_wild_network_gives_finite_boxes():
    heads = (head(),)
    assert torch.isfinite(decode([torch.full((1, 24, 2, 2), 1e4)], heads, (64, 64))).all()


def test_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="head has 25 channels, 3 anchors of 3 classes need 24"):
        decode([torch.zeros(1, 25, 2, 2)], (head(),), (64, 64))


@pytest.mark.parametrize(("scale_x_y", "new_coords"), [(1.0, False), (1.1, False), (2.0, True)])
def test_box_formulas_invert(scale_x_y, new_coords):
    one = head(scale_x_y=scale_x_y, new_coords=new_coords)
    box, cell, stride = torch.tensor([70.0, 41.0, 90.0, 60.0]), torch.tensor([2.0, 1.0]), torch.tensor([32.0, 32.0])
    anchor = torch.tensor(ANCHORS[3])
    values = raw_of(box, cell, anchor, stride, one)
    torch.testing.assert_close(boxes_px(values, cell, anchor, stride, one), box)


@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "mobilenetv2-yolov3-nano"])
@pytest.mark.parametrize("size", [(320, 320), (256, 320)])
def test_decode_equals_opencvs_region_layer(shared_data, name, size):
    from utils.darknet.cfg import read_cfg

    folder = shared_data / "darknet" / name
    cfg, weights = next(folder.glob("*.cfg")), next(folder.glob("*.weights"))
    spec = read_cfg(cfg)
    heads = [spec.layers[i] for i in spec.heads]
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    picture = cv2.resize(cv2.imread(str(next((shared_data / "coco128/images/val").iterdir()))), size[::-1])
    net.setInput(cv2.dnn.blobFromImage(picture, 1 / 255, swapRB=True))
    regions = [f"yolo_{i}" for i in spec.heads]
    outputs = net.forward([f"conv_{spec.layers[i].sources[0]}" for i in spec.heads] + regions)
    raw = [torch.from_numpy(np.array(o)) for o in outputs[: len(heads)]]
    ours = decode(raw, heads, size)[0]
    # OpenCV lists cell by cell, then anchor; we anchor by anchor, then cell
    theirs = []
    for tensor, one, region in zip(raw, heads, outputs[len(heads) :], strict=True):
        cells, anchors = tensor[0, 0].numel(), len(one.mask)
        rows = torch.from_numpy(region.reshape(cells, anchors, -1).transpose(1, 0, 2).reshape(cells * anchors, -1))
        theirs.append(rows)
    expected = torch.cat(theirs)
    scale = torch.tensor([size[1], size[0], size[1], size[0]])
    torch.testing.assert_close(ours[:, :4], expected[:, :4] * scale, rtol=1e-4, atol=1e-3)
    scores = ours[:, 4:5] * ours[:, 5:]
    scores[expected[:, 5:] == 0] = 0  # its region layer drops scores of 0.2 and less
    torch.testing.assert_close(scores, expected[:, 5:], rtol=1e-4, atol=1e-5)
    assert (ours[:, 4:5] * ours[:, 5:])[expected[:, 5:] == 0].max() < 0.2001
