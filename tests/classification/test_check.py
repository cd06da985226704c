"""What a check says of classes and masks, and which of them, or boxes, it takes a set for."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.classification.test_data import write_set
from tests.segmentation.test_scripts import write_set as write_masks
from utils.classification.open_data import open_data as open_classes
from utils.darknet.spec import Segment
from utils.data.__main__ import main
from utils.errors import InputError
from utils.reporting.record import read_record
from utils.segmentation.dataset import MaskDataset
from utils.segmentation.metrics import evaluate
from utils.segmentation.open_data import open_data


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def check(place, capsys) -> tuple[int, str]:
    code = main(["check", str(place)])
    return code, capsys.readouterr().out


def test_a_set_of_classes_is_counted_and_its_blind_answer_told(tmp_path, capsys):
    place = write_set(tmp_path / "set")
    for n in range(2):
        (place / f"val/dog/{n}.png").unlink()
    code, said = check(place, capsys)
    assert code == 0 and "answering each 'cat': top-1 0.4000" in said
    record = read_record(tmp_path / "runs/check-set")
    assert record.metrics["splits"]["valid"]["images"] == 10
    assert record.metrics["splits"]["valid"]["images in the other list too"] == 10
    assert "train and valid share an image (the same bytes)" in said
    assert (record.folder / "samples.jpg").is_file() and (record.folder / "classes.png").is_file()


def test_what_training_would_stop_at_is_an_error(tmp_path, capsys):
    place = write_set(tmp_path / "set")
    (place / "train/cat/0.png").write_bytes(b"no picture")
    shutil.copy(place / "train/dog/1.png", place / "train/eel/9.png")
    shutil.rmtree(place / "val/eel")
    code, said = check(place, capsys)
    assert code == 2 and "train/cat/0.png" in said and "1 errors" in said
    assert "one picture, two classes, dog and eel" in said and "class 2 (eel): no image in valid" in said


def test_a_class_without_an_image_is_told_and_the_rest_are_still_classes(tmp_path, capsys):
    (write_set(tmp_path / "set") / "train/fox").mkdir()
    code, said = check(tmp_path / "set", capsys)
    assert code == 0 and "class 3 (fox): no image in train nor valid" in said


def test_masks_are_counted_by_pixels_and_what_is_no_class_is_told(tmp_path, capsys):
    place = write_masks(tmp_path / "set")
    code, said = check(place, capsys)
    assert code == 0 and "pixels are 7, which is no class" in said and "[segment] ignore=7" in said
    masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((place / "masks/val").glob("*.png"))]
    train = np.concatenate([cv2.imread(str(path), -1).ravel() for path in (place / "masks/train").glob("*.png")])
    common = np.bincount(train[train < 3]).argmax()
    truth = np.concatenate([mask[mask < 3] for mask in masks])
    share = (truth == common).mean()
    assert f"mIoU {share / 3:.4f}, pixel accuracy {share:.4f}" in said
    assert read_record(tmp_path / "runs/check-set").metrics["blind"]["accuracy"] == pytest.approx(share)


def test_two_numbers_that_are_no_class_are_errors_since_a_cfg_ignores_one(tmp_path, capsys):
    place = write_masks(tmp_path / "set")
    path = place / "masks/train/0.png"
    mask = np.array(Image.open(path))
    mask[0, 0] = 9
    Image.fromarray(mask).save(path)
    code, said = check(place, capsys)
    assert code == 2 and "2 errors" in said and f"1 pixels are 9, which is no class, first in {path}" in said


def test_masks_that_are_missing_or_of_another_size_are_errors(tmp_path, capsys):
    place = write_masks(tmp_path / "set")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(place / "masks/train/0.png")
    (place / "masks/val/1.png").unlink()
    code, said = check(place, capsys)
    assert code == 2 and "a mask of 5x5 px for an image of 24x32" in said and "no such mask" in said
    assert "2 errors" in said


def test_boxes_are_still_looked_at_as_boxes(tmp_path, capsys):
    for part in ("train", "val"):
        (tmp_path / f"set/images/{part}").mkdir(parents=True)
        (tmp_path / f"set/labels/{part}").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"set/images/{part}/{part}.png"), np.full((9, 9, 3), len(part), np.uint8))
        (tmp_path / f"set/labels/{part}/{part}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "set/set.names").write_text("thing\n")
    code, said = check(tmp_path / "set", capsys)
    assert code == 0 and "every class's mean training box" in said


def test_a_picture_is_never_its_own_mask(tmp_path):
    place = write_masks(tmp_path / "set")
    (place / "images").rename(place / "pictures")
    (tmp_path / "set.data").write_text(
        "classes=3\ntrain=set/pictures/train\nvalid=set/pictures/val\nnames=set/names.txt\n"
    )
    manifest = open_data(tmp_path / "set.data")
    with pytest.raises(InputError, match="no such mask"):
        MaskDataset(manifest.train, manifest, (32, 32))


def test_two_pictures_with_one_mask_are_an_error_and_are_not_trained_on(tmp_path, capsys):
    place = write_masks(tmp_path / "set")
    cv2.imwrite(str(place / "images/train/0.jpg"), cv2.imread(str(place / "images/train/1.png")))
    code, said = check(place, capsys)
    assert code == 2 and "masks/train/0.png: the mask of 2 pictures, " in said
    with pytest.raises(InputError, match=r"0\.jpg, .*0\.png: both would have the mask of .*masks/train/0\.png"):
        open_data(place)


def test_masks_of_pictures_that_exif_turns_are_named(tmp_path, capsys, caplog):
    place = write_masks(tmp_path / "set", size=(32, 32))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(place / "images/train/0.png").save(place / "images/train/0.jpg", exif=turned)
    (place / "images/train/0.png").unlink()
    assert "images/train/0.jpg: EXIF turns it; its mask must be of the picture as shown" in check(place, capsys)[1]
    open_data(place)
    assert "EXIF turns 1 images, first " in caplog.text and "their mask must be" in caplog.text


@pytest.mark.parametrize("kind", ["classes", "masks"])
def test_pictures_in_both_lists_are_counted_by_content_and_told_once(tmp_path, caplog, kind):
    place = write_set(tmp_path / "set") if kind == "classes" else write_masks(tmp_path / "set")
    opened = open_classes if kind == "classes" else open_data
    opened(place)
    opened(place)
    assert caplog.text.count("images to validate on are trained on too, by content, first ") == 1


def test_masks_of_0_and_255_are_told_by_the_check_and_by_who_measures(tmp_path, capsys, caplog):
    place = write_masks(tmp_path / "set", images=1)
    for path in place.glob("masks/*/*.png"):
        Image.fromarray(np.where(np.arange(32)[None] < 16, np.zeros((24, 1)), 255).astype(np.uint8)).save(path)
    assert "pixels are 255 and do not count; masks of 0 and 255 want 0 and 1" in check(place, capsys)[1]
    dataset = MaskDataset(open_data(place).valid, open_data(place), (32, 32), cache="off")
    output = Segment(line=1, sources=(0,), classes=3)
    answer = lambda images: [torch.zeros(1, 3, 32, 32)]  # noqa: E731
    assert evaluate(answer, [dataset.collate([dataset[0]])], output, ("dark", "grey", "light")).miou == 1.0
    assert "every pixel that counts is 'dark', so the scores say nothing" in caplog.text
