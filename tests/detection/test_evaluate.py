from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from tests.detection.helpers import Batch, head, random_heads, random_truth, shaken
from utils.detection.boxes import xyxy_to_cxcywh
from utils.detection.decode import decode
from utils.detection.evaluate import Detections, Timing, coco_results, confusion_matrix, evaluate, measure
from utils.detection.nms import non_max_suppression

NAMES = ("cat", "dog", "owl")
HEADS = (head((3, 4, 5)), head((0, 1, 2)))
SIZE = (64, 96)


class Recorded:
    """A predictor that gives out fixed heads, batch after batch."""

    def __init__(self, count: int) -> None:
        self.raw = [r * 2 for r in random_heads(((2, 3), (4, 6)), HEADS, batch=count)]
        self.seen: list[torch.Tensor] = []

    def __call__(self, x):
        start = sum(map(len, self.seen))
        self.seen.append(x)
        return [r[start : start + len(x)] for r in self.raw]


def batches(count: int, size: int):
    """Labelled noise; the truth is what Recorded finds, in part."""
    g = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 3, *SIZE), generator=g, dtype=torch.uint8)
    found = non_max_suppression(decode(Recorded(count).raw, HEADS, SIZE), conf=0.3, iou=0.5)
    for start in range(0, count, size):
        rows = []
        for i, boxes in enumerate(found[start : start + size]):
            boxes = boxes[::2]
            shape = xyxy_to_cxcywh(boxes[:, :4]) / torch.tensor([SIZE[1], SIZE[0]] * 2)
            rows.append(torch.cat((torch.full((len(boxes), 1), float(i)), boxes[:, 5:], shape), dim=1))
        n = min(size, count - start)
        yield Batch(images[start : start + n], torch.cat(rows), list(range(start, start + n)), [None] * n)


def run(count=6, size=4, **options):
    return evaluate(Recorded(count), list(batches(count, size)), HEADS, NAMES, progress=False, **options)


def test_batch_size_changes_no_digit():
    one, four = run(size=1), run(size=4)
    assert one.record() == four.record() and 0.1 < one.map50 < 0.9
    for a, b in zip(one.detections, four.detections, strict=True):
        assert torch.equal(a.boxes, b.boxes) and a.index == b.index


def test_record_has_the_names_of_every_record():
    assert list(run().record()) == ["map50", "map", "precision", "recall", "f1"]


def test_images_arrive_as_shares_of_255():
    predictor = Recorded(2)
    loader = list(batches(2, 2))
    evaluate(predictor, loader, HEADS, NAMES, progress=False)
    torch.testing.assert_close(predictor.seen[0], loader[0].images.float() / 255, rtol=0, atol=0)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 24, 16, 16)

    def forward(self, x):
        return [self.conv(self.bn(x))]


def test_a_model_in_training_is_evaluated_with_its_statistics_and_goes_on_training():
    model = Toy().train()
    before = model.bn.running_mean.clone()
    evaluate(model, batches(4, 2), HEADS[:1], NAMES, progress=False)
    assert model.training and torch.equal(model.bn.running_mean, before)


def test_autocast_computes_the_network_in_bf16_and_the_boxes_in_float32():
    kinds = []
    model = Toy()
    model.conv.register_forward_hook(lambda *a: kinds.append(a[2].dtype))
    metrics = evaluate(model, batches(2, 2), HEADS[:1], NAMES, autocast=torch.bfloat16, progress=False)
    assert kinds == [torch.bfloat16] and metrics.detections[0].boxes.dtype is torch.float32


def test_time_is_told_per_image():
    timing = run().timing
    assert timing.total == pytest.approx(timing.forward + timing.nms) and timing.nms > 0


@dataclass
class Border:
    pad: tuple[int, int] = (8, 0)
    scaled: tuple[int, int] = (48, 96)

    def to_original(self, boxes):
        return (boxes - [0, 8, 0, 8]) * 2


def test_no_box_reaches_into_the_border_of_the_letterbox():
    loader = list(batches(4, 4))
    loader[0].letterboxes = [Border()] * 4
    metrics = evaluate(Recorded(4), loader, HEADS, NAMES, progress=False)
    boxes = torch.cat([d.boxes for d in metrics.detections])
    assert boxes[:, 1].min() == 8 and boxes[:, 3].max() == 56 and boxes[:, 2].max() == 96


def test_coco_results_are_in_px_of_the_original():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 50.0, 0.5, 2.0]])
    image = Detections(1, boxes, torch.zeros(0, 5), Border())
    assert coco_results([image], ["a", "b"], [10, 20, 90]) == [
        {"image_id": "b", "category_id": 90, "bbox": [20.0, 24.0, 40.0, 60.0], "score": 0.5}
    ]


def test_confusion_counts_every_box_once():
    truth = random_truth(30, 3)
    found = [f[f[:, 4] >= 0.25] for f in shaken(truth, 3)]
    images = [Detections(i, f, t, None) for i, (f, t) in enumerate(zip(found, truth, strict=True))]
    table = confusion_matrix(images, 3)
    known, seen = torch.cat(truth)[:, 0].long(), torch.cat(found)[:, 5].long()
    np.testing.assert_array_equal(table.sum(axis=0)[:3], known.bincount(minlength=3))
    np.testing.assert_array_equal(table.sum(axis=1)[:3], seen.bincount(minlength=3))
    assert table[3, 3] == 0 and np.diag(table)[:3].min() > 0


def test_confusion_names_what_was_taken_for_what():
    box, other, far = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [50.0, 50, 60, 60]
    truth = torch.tensor([[0, *box], [1, *other]])
    found = torch.tensor([[*box, 0.9, 2], [*far, 0.8, 1], [*other, 0.1, 1]])
    table = confusion_matrix([Detections(0, found, truth, None)], 3)
    expected = np.zeros((4, 4), int)
    expected[2, 0] = expected[1, 3] = expected[3, 1] = 1  # taken for an owl, invented, missed (unsure)
    np.testing.assert_array_equal(table, expected)


def test_measuring_again_gives_the_same_metrics():
    first = run()
    again = measure(first.detections, NAMES, timing=Timing(0, 0, 0))
    assert again.record() == first.record()
    np.testing.assert_array_equal(again.confusion, first.confusion)


def plain_resize(folder, split, size):
    """The protocol's images: resized without a border."""
    for path in sorted((folder / "images" / split).iterdir()):
        picture = cv2.resize(cv2.imread(str(path))[:, :, ::-1], size)
        image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
        file = folder / "labels" / split / f"{path.stem}.txt"
        rows = np.loadtxt(file, ndmin=2) if file.exists() and file.stat().st_size else np.zeros((0, 5))
        yield Batch(image, torch.from_numpy(np.insert(rows, 0, 0, axis=1)), [0], [None])


@pytest.mark.parametrize(("name", "published"), [("yolo-fastest-1.1", 0.306), ("mobilenetv2-yolov3-nano", 0.317)])
def test_pretrained_networks_reach_their_known_ap(shared_data, name, published):
    """AP50 on coco128's val half: 320 px plain resize, NMS 0.45, detections above 0.2.

    The known values were taken from OpenCV's region layer, which drops scores of 0.2 and less before any other
    threshold sees them; at 0.005 the same networks reach 0.370 and 0.380.
    """
    from models import build
    from utils.darknet.cfg import read_cfg
    from utils.darknet.network import Network
    from utils.darknet.weights import read_weights

    folder = shared_data / "darknet" / name
    spec = read_cfg(next(folder.glob("*.cfg")))
    model = build(Network(spec, read_weights(next(folder.glob("*.weights")), spec).state))
    heads = [replace(spec.layers[i], nms_kind="default") for i in spec.heads]  # OpenCV suppresses by IoU alone
    names = (shared_data / "coco128/coco.names").read_text().splitlines()[:80]
    loader = plain_resize(shared_data / "coco128", "val", (320, 320))
    metrics = evaluate(model, loader, heads, names, conf=0.2, iou=0.45, progress=False)
    assert metrics.map50 == pytest.approx(published, abs=0.003)
    assert sum(c.truth for c in metrics.per_class) == 898 and sum(c.truth > 0 for c in metrics.per_class) == 73
