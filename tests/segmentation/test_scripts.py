"""Data sets of masks, the section, and the chain from the command line on a few images."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.classification.test_scripts import run
from tests.conftest import ROOT
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.counts import count
from utils.darknet.heads import class_count, rehead
from utils.data.dataset import SampleRequest
from utils.data.transforms import Jitter
from utils.errors import InputError
from utils.segmentation.dataset import MaskDataset, scaled_mask
from utils.segmentation.metrics import enlarged, scores_of
from utils.segmentation.open_data import mask_path, open_data, read_mask
from utils.tasks import check_idle, task_of

CFG = """# masks of three classes
[net]
width=32
height=32
batch=2
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=relu
[convolutional]
filters=3
size=1
activation=linear
[segment]
classes=3
ignore=7
factor=2
"""


def write_set(folder: Path, images: int = 4, size: tuple[int, int] = (24, 32)) -> Path:
    """Stripes of three brightnesses; the mask says which, and 7 along an edge."""
    for part in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / part).mkdir(parents=True)
        for n in range(images):
            mask = np.random.default_rng(n).integers(0, 3, (size[0] // 4, size[1] // 4)).repeat(4, 0).repeat(4, 1)
            picture = np.repeat((50 + 70 * mask)[..., None], 3, 2).astype(np.uint8)
            mask[:, 0] = 7
            cv2.imwrite(str(folder / "images" / part / f"{n}.png"), picture)
            Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / part / f"{n}.png")
    (folder / "names.txt").write_text("dark\ngrey\nlight\n")
    return folder


def test_a_mask_is_changed_as_its_image_is(tmp_path):
    manifest = open_data(write_set(tmp_path))
    strong = Jitter(translate=0.2, scale=0.4, hsv=(0, 0, 0), flip=0.5)
    for augment in (False, strong):
        dataset = MaskDataset(manifest.train, manifest, (32, 32), augment=augment)
        for epoch in range(4):
            sample = dataset[SampleRequest(1, epoch)]
            grey, mask = sample.image[0].int(), sample.mask.int()
            sure = (mask < 3) & (((grey - 50 - 70 * mask).abs() < 12) | ((grey - 50) % 70 > 12))  # no edge between two
            off = (grey - 50 - 70 * mask).abs()[(mask < 3) & sure]
            assert (off < 12).float().mean() > 0.75
            assert 0.2 < (mask == 255).float().mean() < 0.8 or augment
    assert torch.equal(dataset[SampleRequest(1, 2)].mask, dataset[SampleRequest(1, 2)].mask)


def test_the_border_of_a_fitted_picture_is_no_class(tmp_path):
    manifest = open_data(write_set(tmp_path))
    sample = MaskDataset(manifest.valid, manifest, (32, 32))[0]
    assert (sample.mask[:4] == 255).all() and (sample.mask[28:] == 255).all() and not (sample.mask[4:28] == 255).any()


def test_masks_are_found_where_images_is_masks_or_in_the_folder_of_labels(tmp_path):
    manifest = open_data(write_set(tmp_path / "set"))
    assert mask_path(tmp_path / "set/images/val/1.png", manifest) == tmp_path / "set/masks/val/1.png"
    (tmp_path / "x.data").write_text(
        "classes=3\ntrain=set/images/train\nvalid=set/images/val\nlabels=set/masks\nnames=set/names.txt\n"
    )
    manifest = open_data(tmp_path / "x.data")
    assert mask_path(tmp_path / "set/images/val/1.png", manifest) == tmp_path / "set/masks/val/1.png"


def test_masks_that_cannot_be_read_are_refused(tmp_path):
    manifest = open_data(write_set(tmp_path / "set"))
    coloured = tmp_path / "c.png"
    Image.new("RGB", (4, 4)).save(coloured)
    with pytest.raises(InputError, match="a mask of mode RGB; save it as a PNG of 8-bit grey class numbers"):
        read_mask(coloured)
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(InputError, match="a corrupt mask"):
        read_mask(tmp_path / "broken.png")
    with pytest.raises(InputError, match="a mask of 5x5 px for an image of 24x32"):
        scaled_mask(np.zeros((5, 5), np.uint8), (24, 32), (24, 32), coloured)
    (tmp_path / "set/masks/val/2.png").unlink()
    with pytest.raises(InputError, match=r"2\.png: no such mask; put one there"):
        MaskDataset(manifest.valid, manifest, (32, 32))
    (tmp_path / "set/names.txt").unlink()
    with pytest.raises(InputError, match=r"masks are read of images/, masks/ and names\.txt"):
        open_data(tmp_path / "set")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("classes=3\n", ""), r"\[segment\] needs classes="),
        (("classes=3", "classes=4"), r"reads 3 channels but has classes=4; set filters=4"),
        (("ignore=7", "ignore=2"), r"classes=3, ignore=2; there are 255 classes at most"),
        (("ignore=7", "ignore=256"), "but at most 255"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(CFG.replace(*change))


def test_a_network_gets_another_number_of_classes():
    spec = rehead(parse_cfg(CFG), 5)
    assert class_count(spec) == 5 and parse_cfg(write_cfg(spec)) == spec


def test_the_loss_is_torchs_over_the_pixels_that_count():
    spec = parse_cfg(CFG)
    raw, masks = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    masks[:, :3] = 7
    batch = type("B", (), {"masks": masks})()
    wide = torch.nn.functional.interpolate(raw, scale_factor=2, mode="bilinear", align_corners=False)
    expected = torch.nn.functional.cross_entropy(wide[:, :, 3:], masks[:, 3:].long())
    torch.testing.assert_close(task_of(spec).loss(spec)([raw], batch)["total"], expected)


@pytest.mark.parametrize(("factor", "size"), [(8, (23, 30)), (4, (5, 7)), (2, (1, 3)), (1, (4, 4))])
def test_scores_enlarged_for_training_and_their_gradient_are_torchs(factor, size):
    output = s.Segment(sources=(0,), line=1, classes=3, factor=factor)
    raw = torch.randn(2, 3, *size).to(memory_format=torch.channels_last).requires_grad_()
    wide, found = scores_of([raw], output), enlarged([raw], output)
    torch.testing.assert_close(found, wide)
    slope = torch.randn_like(wide)
    expected, back = (torch.autograd.grad(each, raw, slope)[0] for each in (wide, found))
    torch.testing.assert_close(back, expected, rtol=1e-5, atol=1e-5)


def test_shipped_cfgs_have_the_layers_of_their_papers():
    """Multiplied out by hand from the widths; DeepLab v3 reads the same px as what it is made of."""
    widths = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 1024)]
    expected = sum(9 * a * b + 2 * b for a, b in widths) + 1024 * 21 + 21
    assert count(read_cfg(ROOT / "cfg/masks/deeplabv1-vgg9.cfg")).params == expected
    trunk = (
        9408 + 128 + sum(2 * 9 * a * a + 4 * a for a, n in ((64, 3), (128, 3), (256, 5), (512, 2)) for _ in range(n))
    )
    trunk += sum(9 * a * 2 * a + 9 * 4 * a * a + 8 * a + 2 * a * a + 4 * a for a in (64, 128, 256))
    aspp = 2 * (512 * 256 + 512) + 3 * (9 * 512 * 256 + 512) + 5 * 256 * 256 + 512 + 256 * 21 + 21
    assert count(read_cfg(ROOT / "cfg/masks/deeplabv3-resnet34.cfg")).params == trunk + aspp


def test_the_chain_of_scripts_runs_on_masks(tmp_path, monkeypatch):
    write_set(tmp_path / "set")
    (tmp_path / "net.cfg").write_text(CFG)
    monkeypatch.chdir(tmp_path)
    data = ("--data", "set", "--workers", 0)
    trained = run("train", "--cfg", "net.cfg", *data, "--epochs", 6, "--name", "a")
    assert trained.metrics["miou"] > 0.2
    last = trained.paths("last*.pt")[0]
    tested = run("test", "--weights", last, *data, "--save-json")
    rows = json.loads((tested.folder / "masks.json").read_text())
    assert {row["image_id"] for row in rows} == {0, 1, 2, 3} and rows[0]["segmentation"]["size"] == [24, 32]
    table = run("test", "--weights", last, *data, "--task", "benchmark").metrics
    assert table and all(size.replace("x", "").isdigit() for size in table), "no threshold of boxes"
    found = run("detect", "--weights", last, "--source", "set/images/val")
    assert read_mask(found.folder / "0_mask.png").shape == (24, 32)
    pruned = run("slim_prune", "--weights", last, *data, "--percent", 0.2, "--force")
    assert pruned.metrics["silenced"]["miou"] == pruned.metrics["after"]["miou"]
    (integers,) = run("quantize", "--weights", last, *data).paths("*.int.pt")
    converted = run("convert_snn", "--weights", integers, *data)
    assert converted.metrics["spiking"]["miou"] == converted.metrics["quantised"]["miou"]
    streamed = run("convert_snn", "--weights", integers, *data, "--mode", "stream", "--images", 2)
    assert streamed.metrics["spiking"]["miou"] == streamed.metrics["quantised"]["miou"]
    run("export", "c", "--weights", integers, "--data", "set", "--golden", 1)
    assert json.loads(next(tmp_path.glob("export/*/manifest.json")).read_text())["layers"][-1]["factor"] == 2


def test_a_flag_that_cannot_act_on_masks_is_refused():
    with pytest.raises(InputError, match="--conf-thres: cannot act in segmentation: every pixel has one class"):
        check_idle(task_of(parse_cfg(CFG)), ("conf_thres",))


@pytest.mark.parametrize("cfg", ["cifar-resnet20", "camvid-deeplab"])
def test_the_sample_set_of_boxes_is_refused_by_tasks_that_cannot_learn_from_it(cfg):
    task = task_of(read_cfg(ROOT / f"cfg/{cfg}.cfg"))
    with pytest.raises(InputError, match="the sample set has boxes alone; give --data a folder with"):
        task.open_data(ROOT / "data/digits.data")
