from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.scenes import CFG
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.detection import nms
from utils.detection.boxes import cxcywh_to_xyxy
from utils.detection.nms import Suppression, non_max_suppression, suppression_of
from utils.errors import InputError


def random_predictions(seed: int, boxes: int = 150, classes: int = 4, ties: bool = False) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    shape = torch.cat((torch.rand(boxes, 2, generator=g) * 100, torch.rand(boxes, 2, generator=g) * 40 + 4), dim=1)
    scores = torch.rand(boxes, 1 + classes, generator=g)
    return torch.cat((shape, (scores * 8).ceil() / 8 if ties else scores), dim=1)[None]


def greedy(decoded, conf, iou, *, agnostic, multi_label, most):
    """Suppression as in a textbook: best first, each removes those of its class that overlap it too much."""
    rows = decoded[0].numpy()
    boxes = cxcywh_to_xyxy(decoded[0, :, :4]).numpy().astype(np.float64)
    found = []
    for i, row in enumerate(rows):
        scores = row[4] * row[5:]
        labels = np.flatnonzero(scores > np.float32(conf)) if multi_label else [int(scores.argmax())]
        found += [(scores[k], i, k) for k in labels if scores[k] > np.float32(conf)]
    found = sorted(found, key=lambda f: -f[0])[:most]  # sorted() is stable
    kept: list[tuple[float, int, int]] = []
    for score, i, k in found:
        for _, j, other in kept:
            if agnostic or other == k:
                w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
                h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
                inter = max(w, 0) * max(h, 0)
                if inter / (np.prod(boxes[i, 2:] - boxes[i, :2]) + np.prod(boxes[j, 2:] - boxes[j, :2]) - inter) > iou:
                    break
        else:
            kept.append((score, i, k))
    return np.array([[*boxes[i], score, k] for score, i, k in kept], dtype=np.float32).reshape(-1, 6)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_suppression_equals_a_plain_greedy_loop(agnostic, multi_label, ties):
    for seed in range(8):
        decoded = random_predictions(seed, ties=ties)
        options = {"agnostic": agnostic, "multi_label": multi_label}
        ours = non_max_suppression(decoded, conf=0.2, iou=0.453, max_candidates=120, **options)[0]
        expected = greedy(decoded, 0.2, 0.453, most=120, **options)
        np.testing.assert_array_equal(ours.numpy(), expected)
        assert len(expected) > 10


def test_candidates_are_the_best_and_no_more_than_asked_for():
    decoded = random_predictions(0)
    few = non_max_suppression(decoded, conf=0.0, iou=1.0, max_candidates=7, multi_label=True)[0]
    scores = (decoded[0, :, 4:5] * decoded[0, :, 5:]).flatten()
    torch.testing.assert_close(few[:, 4], scores.sort(descending=True).values[:7], rtol=0, atol=0)


def test_no_more_boxes_come_out_than_asked_for():
    decoded = random_predictions(0)
    full = non_max_suppression(decoded, conf=0.1, iou=0.5)[0]
    assert torch.equal(non_max_suppression(decoded, conf=0.1, iou=0.5, max_boxes=5)[0], full[:5])


def test_a_class_filter_keeps_what_the_filtered_classes_would_have_had():
    decoded = random_predictions(3)
    everything = non_max_suppression(decoded, conf=0.1, iou=0.5)[0]
    some = non_max_suppression(decoded, conf=0.1, iou=0.5, classes=[1, 3])[0]
    assert torch.equal(some, everything[(everything[:, 5] == 1) | (everything[:, 5] == 3)])
    assert len(some)


def test_images_of_a_batch_do_not_meet():
    a, b = random_predictions(4), random_predictions(5)
    both = non_max_suppression(torch.cat((a, b)), conf=0.1, iou=0.5)
    for alone, together in zip((a, b), both, strict=True):
        assert torch.equal(non_max_suppression(alone, conf=0.1, iou=0.5)[0], together)


def test_nothing_found_is_an_empty_table():
    (empty,) = non_max_suppression(random_predictions(6), conf=0.999, iou=0.5)
    assert empty.shape == (0, 6)


def test_same_numbers_in_another_memory_layout_give_the_same_list():
    decoded = random_predictions(7, ties=True)
    other = decoded.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(*(non_max_suppression(d, conf=0.1, iou=0.5, multi_label=True)[0] for d in (decoded, other)))


def test_nan_scores_are_no_detections():
    decoded = random_predictions(8)
    decoded[0, ::2, 4] = float("nan")
    found = non_max_suppression(decoded, conf=0.1, iou=0.5, multi_label=True)[0]
    assert len(found) and torch.isfinite(found).all()


def darknet_loop(decoded, conf, limit, power, picture):
    """diounms_sort of Darknet's box.c in words: per class, best first, boxes as centre and size in shares of the picture."""
    height, width = picture
    rows = decoded[0].numpy().astype(np.float64)
    kept = []
    for k in range(rows.shape[1] - 5):
        scores = decoded[0, :, 4] * decoded[0, :, 5 + k]
        order = [i for i in scores.sort(descending=True, stable=True).indices.tolist() if scores[i] > conf]
        alive = dict.fromkeys(order, True)
        for n, i in enumerate(order):
            if not alive[i]:
                continue
            kept.append((float(scores[i]), i, k))
            for j in order[n + 1 :]:
                (ax, ay, aw, ah), (bx, by, bw, bh) = (rows[m, :4] / (width, height, width, height) for m in (i, j))
                w = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
                h = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
                inter = max(w, 0) * max(h, 0)
                overlap = inter / (aw * ah + bw * bh - inter)
                wide = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
                high = max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
                apart = ((ax - bx) ** 2 + (ay - by) ** 2) / (wide**2 + high**2)
                if overlap - apart**power > limit:
                    alive[j] = False
    return {(i, k) for _, i, k in kept}


@pytest.mark.parametrize("picture", [(100, 100), (60, 100), (100, 25)])
@pytest.mark.parametrize("power", [0.6, 1.0])
def test_suppression_by_distance_is_darknets_loop(power, picture):
    for seed in range(4):
        decoded = random_predictions(seed)
        rule = Suppression(power, [picture])
        ours = non_max_suppression(decoded, conf=0.2, iou=0.2, multi_label=True, rule=rule)[0]
        corners = cxcywh_to_xyxy(decoded[0, :, :4])
        found = {(int((corners - row[:4]).abs().sum(1).argmin()), int(row[5])) for row in ours}
        expected = darknet_loop(decoded, 0.2, 0.2, power, picture)
        assert found == expected and len(found) == len(ours)
        plain = non_max_suppression(decoded, conf=0.2, iou=0.2, multi_label=True)[0]
        assert len(ours) > len(plain)  # taking something off an overlap leaves more boxes
        assert (ours[:-1, 4] >= ours[1:, 4]).all()


@pytest.mark.parametrize("limit", [3, 300])
def test_pairs_at_once_and_one_box_after_the_other_leave_the_same_boxes(monkeypatch, limit):
    """Which of both a class takes depends on how many boxes it has."""
    for seed in range(4):
        asked = {"conf": 0.1, "iou": 0.2, "multi_label": True, "rule": Suppression(0.6), "max_boxes": limit}
        decoded = random_predictions(seed, boxes=200, ties=seed % 2 == 0)
        found = []
        for paired in (0, 60, 10**6):
            monkeypatch.setattr(nms, "PAIRED", paired)
            found.append(non_max_suppression(decoded, **asked)[0])
        assert len(found[0]) and all(torch.equal(found[0], other) for other in found[1:])


def test_the_shape_of_the_picture_decides_where_distances_do():
    decoded = random_predictions(0, boxes=300)
    square, flat = (
        non_max_suppression(decoded, conf=0.1, iou=0.2, rule=Suppression(0.6, [picture]))[0]
        for picture in ((100, 100), (100, 10))
    )
    assert square.shape != flat.shape


def heads(*lines: str):
    spec = parse_cfg(CFG.replace("[yolo]\n", "[yolo]\n" + "".join(f"{line}\n" for line in lines)))
    return spec, [spec.layers[i] for i in spec.heads]


@pytest.mark.parametrize(
    ("lines", "power"),
    [
        ([], None),
        (["nms_kind=default"], None),
        (["nms_kind=cornersnms"], None),
        (["nms_kind=greedynms"], 0.6),
        (["nms_kind=greedynms", "beta_nms=0.9"], 0.6),
        (["nms_kind=diounms"], 0.6),
        (["nms_kind=diounms", "beta_nms=0.9"], 0.9),
        (["beta_nms=0.9"], None),
    ],
)
def test_the_cfg_says_how_boxes_are_suppressed(lines, power):
    spec, layers = heads(*lines)
    assert suppression_of(layers).power == power and parse_cfg(write_cfg(spec)) == spec


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nms_kind=diou", "nms_kind=diou is none of default, greedynms, diounms, cornersnms"),
        ("beta_nms=0", "beta_nms=0 must be above 0; Darknet's usual is 0.6"),
        ("beta_nms=-1", "beta_nms=-1 must be above 0"),
        ("beta_nms=nan", "beta_nms"),
    ],
)
def test_a_suppression_that_darknet_does_not_know_is_refused(line, message):
    with pytest.raises(InputError, match=message):
        heads(line)


def test_test_and_detect_follow_the_cfg(tmp_path):
    """One network, two cfgs: what `evaluate` and `postprocess` leave is what their own rule leaves."""
    from types import SimpleNamespace

    from utils.data.transforms import fit
    from utils.detection.decode import decode
    from utils.detection.evaluate import evaluate
    from utils.detection.results import results_of
    from utils.task import Thresholds

    torch.manual_seed(0)
    box = fit((30, 60), (64, 64))
    counts = {}
    for kind in ("default", "greedynms"):
        _, layers = heads(f"nms_kind={kind}")
        g = torch.Generator().manual_seed(1)
        raw = [torch.randn(1, layer.filters, n, n, generator=g) for layer, n in zip(layers, (8, 16), strict=True)]
        options = {"conf": 0.5, "iou": 0.3, "rule": suppression_of(layers, [box.scaled])}
        batch = SimpleNamespace(
            images=torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
            targets=torch.zeros(0, 6),
            indices=(0,),
            letterboxes=(box,),
        )
        metrics = evaluate(lambda _, raw=raw: raw, [batch], layers, ["a", "b"], conf=0.5, iou=0.3, progress=False)
        expected = non_max_suppression(decode(raw, layers, (64, 64)), multi_label=True, **options)[0]
        assert len(metrics.detections[0].boxes) == len(expected)
        (shown,) = results_of(raw, layers, [box], Thresholds(confidence=0.5, overlap=0.3))
        single = non_max_suppression(decode(raw, layers, (64, 64)), **options)[0]
        assert torch.equal(shown.boxes[:, 4:], single[:, 4:])
        counts[kind] = (len(expected), len(single))
    assert counts["greedynms"] > counts["default"]
