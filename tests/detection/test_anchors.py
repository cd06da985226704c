from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.data.conftest import write_set
from tests.scenes import CFG
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg
from utils.darknet.shapes import channels, strides
from utils.data.__main__ import main
from utils.detection.anchors import box_sizes, find_anchors, k_means, measure, overlaps
from utils.detection.dataset import DetectionDataset
from utils.detection.fit_anchors import anchors_of, refit, with_anchors
from utils.detection.open_data import read_manifest
from utils.detection.voc import convert
from utils.errors import InputError

CLUSTERS = np.array([[10, 13], [33, 23], [30, 61], [59, 119], [156, 90], [373, 326]], float)


def planted(count: int = 600, spread: float = 0.05, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return CLUSTERS[rng.integers(len(CLUSTERS), size=count)] * np.exp(rng.normal(0, spread, (count, 2)))


def brute_force(boxes: np.ndarray, anchors: np.ndarray, ratio: float) -> tuple[float, float, float]:
    """Rectangles round the origin, one pair after the other."""
    best, near = [], []
    for w, h in boxes:
        ious, times = [], []
        for a, b in anchors:
            left, right, low, high = max(-w, -a) / 2, min(w, a) / 2, max(-h, -b) / 2, min(h, b) / 2
            inter = (right - left) * (high - low)
            ious.append(inter / (w * h + a * b - inter))
            times.append(max(w / a, a / w, h / b, b / h))
        best.append(max(ious))
        near.append(min(times))
    return float(np.mean(best)), float(np.mean(np.array(near) < ratio)), float(np.mean(np.array(best) > 0.5))


def test_recall_and_mean_iou_are_those_of_a_brute_force_search():
    rng = np.random.default_rng(1)
    boxes, anchors = rng.uniform(3, 300, (150, 2)), rng.uniform(5, 250, (5, 2))
    found = measure(boxes, anchors, 2.5)
    expected = brute_force(boxes, anchors, 2.5)
    np.testing.assert_allclose((found.mean_iou, found.recall, found.recall_iou), expected, rtol=1e-12)
    assert 0.1 < found.recall < 0.9 and 0.1 < found.recall_iou < 0.95


@pytest.mark.parametrize("seed", range(4))
def test_planted_clusters_are_found(seed):
    found = find_anchors(planted(), len(CLUSTERS), generations=300, seed=seed)
    np.testing.assert_allclose(found, CLUSTERS, rtol=0.06)


def test_refinement_never_loses_and_beats_k_means_on_boxes_without_clusters():
    boxes = np.exp(np.random.default_rng(2).normal(3.5, 0.8, (800, 2)))
    rough = find_anchors(boxes, 6, generations=0)
    fine = find_anchors(boxes, 6, generations=400)
    assert overlaps(boxes, fine).max(1).mean() > overlaps(boxes, rough).max(1).mean() + 0.003


def test_means_of_k_means_are_the_means_of_their_own_boxes():
    boxes = planted(spread=0.3)
    means = k_means(boxes, 6, np.random.default_rng(0))
    nearest = overlaps(boxes, means).argmax(1)
    np.testing.assert_allclose(means, [boxes[nearest == i].mean(0) for i in range(6)])


def test_search_depends_on_its_seed_alone():
    boxes = planted(spread=0.4)
    first, again, other = (find_anchors(boxes, 6, generations=50, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_known_anchors_that_fit_better_are_not_lost():
    boxes = planted(spread=0.01)
    found = find_anchors(boxes, 6, generations=0, known=[tuple(row) for row in CLUSTERS])
    assert overlaps(boxes, found).max(1).mean() >= overlaps(boxes, CLUSTERS).max(1).mean() - 1e-3


def test_too_few_boxes_are_refused():
    with pytest.raises(InputError, match="4 boxes, fewer than 6 of different size; 6 anchors need more boxes"):
        find_anchors(CLUSTERS[:4], 6)


def test_sizes_are_those_of_the_letterboxed_image(tmp_path):
    manifest = write_set(tmp_path / "set", shape=(60, 100), rectangle=(20, 12, 70, 42))
    dataset = DetectionDataset(manifest.train, manifest, (128, 96), cache="off")
    np.testing.assert_allclose(
        box_sizes(dataset), np.tile([48.0, 29.0], (6, 1)), atol=0.3
    )  # 50 x 30 px, scaled by 0.96


@pytest.mark.parametrize("name", ["yolov3", "yolov3-tiny", "yolov4", "yolov4-tiny", "yolo-fastest", "yolov2-tiny"])
def test_large_anchors_go_to_the_heads_of_large_stride(name):
    spec = read_cfg(ROOT / f"cfg/{name}.cfg")
    count, stride = len(anchors_of(spec)), strides(spec)
    anchors = np.sort(np.random.default_rng(0).uniform(4, 300, (count, 2)), axis=0).round(1)
    changed = with_anchors(spec, anchors)
    np.testing.assert_allclose(anchors_of(changed), anchors, atol=0.01)  # a [region] is in cells, of four digits
    areas = {
        stride[i]: [w * h for w, h in head.own_anchors]
        for i in changed.heads
        if isinstance(head := changed.layers[i], s.Detect)
    }
    order = [area for key in sorted(areas) for area in areas[key]]
    assert order == sorted(order) and channels(changed) == channels(spec)
    unchanged = [i for i, layer in enumerate(spec.layers) if not isinstance(layer, s.Detect)]
    assert all(changed.layers[i] == spec.layers[i] for i in unchanged) and changed.net == spec.net


def scenes(folder: Path) -> Path:
    """Two sizes of boxes, on images as large as the network's."""
    manifest = write_set(folder, count=8, shape=(64, 64), rectangle=(0, 0, 30, 30))
    for i in range(8):
        w, h = (0.5 + 0.01 * i, 0.6) if i % 2 else (0.1, 0.2 + 0.01 * i)
        (folder / f"labels/{i}.txt").write_text(f"0 0.5 0.5 {w} {h}\n1 0.5 0.5 {h} {w}\n")
    return manifest.path


def test_command_writes_a_cfg_that_fits_better_and_never_overwrites(tmp_path, capsys):
    data, cfg, out = scenes(tmp_path / "set"), tmp_path / "net.cfg", tmp_path / "new/net.cfg"
    cfg.write_text(CFG)
    words = ["anchors", str(data), "--cfg", str(cfg), "--out", str(out), "--generations", "100"]
    assert main(words) == 0
    message, before, after = capsys.readouterr().out, read_cfg(cfg), read_cfg(out)
    assert cfg.read_text() == CFG and anchors_of(after) != anchors_of(before)
    dataset = DetectionDataset(data.parent / "list.txt", read_manifest(data), (64, 64))
    for spec in (before, after):
        iou, recall, _ = brute_force(box_sizes(dataset), np.array(anchors_of(spec)), 2.5)
        assert f"{iou:.4f}" in message and f"{recall:.4f}" in message
    assert brute_force(box_sizes(dataset), np.array(anchors_of(after)), 2.5)[0] > 0.9
    assert main(words) == 2 and f"{out}: exists already" in capsys.readouterr().err


def test_cfg_without_heads_is_refused(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text("[net]\nwidth=64\nheight=64\nchannels=3\n[convolutional]\nfilters=4\nsize=1\n")
    with pytest.raises(InputError, match=r"net\.cfg: no \[yolo\] or \[region\] layer, so no anchors"):
        refit(scenes(tmp_path / "set"), cfg, None, generations=1, seed=0)


def test_cells_are_fitted_better_than_by_anchors_made_for_coco(shared_data, tmp_path):
    out = tmp_path / "out.cfg"
    cfg = shared_data / "darknet/mobilenetv2-yolov3-nano/MobileNetV2-YOLOv3-Nano-coco.cfg"
    convert(shared_data / "bccd", tmp_path / "bccd")
    refit(tmp_path / "bccd.data", cfg, out, generations=100, seed=0)
    manifest, spec = read_manifest(tmp_path / "bccd.data"), read_cfg(out)
    boxes = box_sizes(DetectionDataset(manifest.train, manifest, (spec.height, spec.width), cache="off"))
    old, new = (brute_force(boxes, np.array(anchors_of(read_cfg(path))), 2.5)[0] for path in (cfg, out))
    assert len(boxes) > 100 and new > old + 0.05
