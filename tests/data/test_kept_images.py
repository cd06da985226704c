"""Images kept in memory or in a mapped file, and JPEGs that are decoded in part: what samples show, and what is told."""

from __future__ import annotations

import logging
import os
import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from models import load_model
from pipeline.detect import frames_of, open_detector
from pipeline.images import Setting, loaders
from pipeline.session import open_session
from tests.classification.test_scripts import CFG as THREE
from tests.data.conftest import write_set
from tests.pruning.nets import random_network
from utils.classification.dataset import ClassDataset, part_of, smallest_part
from utils.classification.open_data import open_data as open_classes
from utils.config import measure
from utils.config.train import TrainConfig
from utils.darknet.cfg import parse_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.data import transforms
from utils.data.dataset import SampleRequest
from utils.data.event_clips import ClipFrames
from utils.data.event_frames import FrameRule
from utils.data.images import read_image, read_picture, reduction
from utils.detection.dataset import DetectionDataset
from utils.errors import InputError
from utils.segmentation.dataset import MaskDataset
from utils.segmentation.open_data import open_data as open_masks
from utils.tasks import task_of
from utils.training.distributed import Group

SIZE, LARGER = (64, 96), (96, 128)
CFG = THREE.replace("filters=3\n", "filters=2\n")
KINDS = ("boxes", "classes", "masks")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/darkspike"


def photographs(place, names, shape=(150, 219)):
    """JPEGs of soft noise."""
    place.mkdir(parents=True)
    for seed, name in enumerate(names):
        noise = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
        cv2.imwrite(str(place / name), cv2.GaussianBlur(noise, (0, 0), 4))


def data_set(kind, place):
    """Makes data sets of three JPEGs with boxes, classes or masks."""
    names = ["0.jpg", "1.jpg", "2.jpg"]
    if kind == "boxes":
        manifest, make = write_set(place, count=3, shape=(150, 219)), DetectionDataset
        (place / "images").rename(place / "old")
        photographs(place / "images", names)
        (place / "list.txt").write_text("".join(f"images/{name}\n" for name in names))
    elif kind == "classes":
        for part in ("train", "val"):
            for name in ("cat", "dog"):
                photographs(place / part / name, names)
        manifest, make = open_classes(place), ClassDataset
    else:
        for part in ("train", "val"):
            photographs(place / f"images/{part}", names)
            (place / f"masks/{part}").mkdir(parents=True)
            for name in names:
                mask = np.arange(150 * 219).reshape(150, 219) // 5000 % 3
                Image.fromarray(mask.astype(np.uint8)).save(place / f"masks/{part}/{name[0]}.png")
        (place / "names.txt").write_text("a\nb\nc\n")
        manifest, make = open_masks(place), MaskDataset
    return lambda **how: make(manifest.train, manifest, SIZE, **{"augment": True, **how})


def shown(dataset, request):
    """Everything in a sample that has pixels or boxes, and the sizes by which they are mapped back."""
    sample = dataset[request]
    box = sample.letterbox
    sizes = torch.tensor([box.original, box.scaled, box.pad, box.size])
    return [sizes, *(getattr(sample, name) for name in ("image", "mask", "boxes") if hasattr(sample, name))]


@pytest.mark.parametrize("jpeg", ["full", "reduced"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_the_same_to_the_bit_wherever_images_are_kept(tmp_path, kind, jpeg):
    make = data_set(kind, tmp_path / "set")
    for largest in (None, LARGER):
        decoded, *kept = (make(cache=cache, jpeg=jpeg, largest=largest) for cache in ("off", "ram", "disk", "disk"))
        kept[-1] = pickle.loads(pickle.dumps(kept[-1]))  # as a worker that is not forked has it
        assert decoded.whole is (kind == "classes" or largest is not None)
        assert not decoded.cached and all(each.cached for each in kept)
        for request in (
            SampleRequest(0, 1),
            SampleRequest(2, 3),
            SampleRequest(1, 1, LARGER),
            SampleRequest(1, 0, (64, 64)),
        ):
            wanted = shown(decoded, request)
            for each in kept:
                assert all(torch.equal(a, b) for a, b in zip(wanted, shown(each, request), strict=True))


def test_a_reduced_jpeg_is_pillows_draft_and_everything_else_is_whole(tmp_path):
    photographs(tmp_path / "p", ["0.jpg"])
    path, png = tmp_path / "p/0.jpg", tmp_path / "p/0.png"
    with Image.open(path) as drafted:
        drafted.draft("RGB", (219 // 4, 150 // 4))
        expected = np.asarray(drafted)
    image, whole = read_picture(path, 3, lambda size: (size[0] // 4, size[1] // 4))
    assert whole == (150, 219) and image.shape == (38, 55, 3) and np.array_equal(image, expected)
    assert read_picture(path, 1, lambda _: (38, 55))[0].shape == (38, 55, 1)
    assert np.array_equal(read_picture(path, 3, lambda _: (76, 110))[0], read_image(path))  # one px more than a half
    cv2.imwrite(str(png), read_image(path)[..., ::-1])
    assert np.array_equal(read_picture(png, 3, lambda _: (1, 1))[0], read_image(path))
    turned = tmp_path / "p/turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as picture:
        picture.save(turned, exif=exif)
    sizes = []
    image, whole = read_picture(turned, 3, lambda size: sizes.append(size) or (55, 38))
    assert sizes == [whole] == [(219, 150)] and image.shape == (55, 38, 3)


def test_no_side_of_a_reduced_jpeg_is_smaller_than_what_is_shown_and_half_of_it_would_be():
    rng = np.random.default_rng(0)
    for whole, needed in zip(
        rng.integers(1, 900, (200, 2)).tolist(), rng.integers(1, 300, (200, 2)).tolist(), strict=True
    ):
        factor = reduction(tuple(whole), tuple(needed))
        kept, next_ = ([-(-side // f) for side in whole] for f in (factor, 2 * factor))
        assert factor == 1 or all(k >= n for k, n in zip(kept, needed, strict=True))
        assert factor == 8 or any(k < n for k, n in zip(next_, needed, strict=True))


def test_parts_that_are_cut_out_are_decoded_at_no_less_than_they_are_shown_at(tmp_path):
    dataset = data_set("classes", tmp_path / "set")(jpeg="reduced", cache="off")
    given, least = (400, 584), dataset.augment.least
    smallest = smallest_part(given, least)
    for seed in range(300):
        part = part_of(given, least, np.random.default_rng(seed))[1]
        assert all(p >= s - 1 for p, s in zip(part, smallest, strict=True))
    factor = reduction(given, dataset.needed(given))
    assert factor > 1 and all(s // factor >= n for s, n in zip(smallest, SIZE, strict=True))


def test_a_reduced_jpeg_is_scaled_to_what_is_shown_from_there(tmp_path):
    dataset = data_set("boxes", tmp_path / "set")(jpeg="reduced", cache="off", augment=False)
    image, box = read_picture(dataset.images[1], 3, lambda _: SIZE)[0], dataset[1].letterbox
    assert image.shape[0] == 75 and box.original == (150, 219)
    assert torch.equal(dataset[1].image, dataset.as_tensor(transforms.letterbox(image, box)))
    whole = data_set("boxes", tmp_path / "again")(cache="off", augment=False)[1].image
    assert not torch.equal(dataset[1].image, whole) and (dataset[1].image.int() - whole.int()).abs().float().mean() < 4


@pytest.mark.parametrize("change", ["newer", "longer", "cut", "other setting"])
def test_a_file_of_kept_images_is_made_anew_when_it_does_not_fit_them(tmp_path, folder, caplog, change):
    caplog.set_level(logging.INFO)
    make = data_set("boxes", tmp_path / "set")
    content = [path.read_bytes() for path in make(cache="off", augment=False).images]
    for path, own in zip(make(cache="off", augment=False).images, content, strict=True):
        path.write_bytes(own.ljust(max(map(len, content)), b"\0"))  # of one length, so that their time alone differs
    first = make(cache="disk", augment=False)
    (file,) = folder.glob("*.bin")
    before = first[0].image
    assert torch.equal(make(cache="disk", augment=False)[0].image, before) and "as it is" in caplog.text
    path, state = first.images[0], first.images[0].stat()
    if change in ("newer", "longer"):
        path.write_bytes(first.images[1].read_bytes() + b"\0" * (change == "longer"))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + (change == "newer")))
    elif change == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    again = make(cache="disk", augment=False, **({"how": "stretch"} if change == "other setting" else {}))
    wanted = make(cache="off", augment=False, how=again.how)
    assert all(torch.equal(again[i].image, wanted[i].image) for i in range(3))
    assert torch.equal(first[0].image, before), "what a run that goes on has mapped stays as it was"
    assert len(list(folder.glob("*.bin"))) == (2 if change == "other setting" else 1)
    assert ("made anew" in caplog.text) == (change != "other setting")


def test_an_image_that_cannot_be_read_is_told_from_a_file_too_and_is_there_once_it_is_mended(tmp_path):
    make = data_set("boxes", tmp_path / "set")
    good = make(cache="off", augment=False)
    path, whole = good.images[1], good.images[1].read_bytes()
    path.write_bytes(b"no picture")
    for _ in range(2):
        kept = make(cache="disk", augment=False, unreadable="replace")
        assert kept.gaps == {1: f"{path}: a corrupt image, it can not be decoded; replace it or take it from the list"}
        assert kept[1].gaps and kept[1].index != 1
    with pytest.raises(InputError, match="a corrupt image"):
        make(cache="disk", augment=False)
    path.write_bytes(whole)
    assert torch.equal(make(cache="disk", augment=False)[1].image, good[1].image)


def test_what_has_no_room_is_refused_or_told(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    make = data_set("boxes", tmp_path / "set")
    monkeypatch.setattr("utils.data.dataset.free_memory", lambda: 10)
    assert not make(cache="auto").cached and "--cache disk keeps them" in caplog.text
    with pytest.raises(InputError, match=r"--cache ram: 3 images take .* are free; use --cache disk or off"):
        make(cache="ram")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 10}))
    with pytest.raises(
        InputError, match=r"--cache disk: .*list\.txt: 3 images take .* has .* left; set XDG_CACHE_HOME"
    ):
        make(cache="disk")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="Not a directory; set XDG_CACHE_HOME"):
        make(cache="disk")


@pytest.mark.parametrize("jpeg", ["full", "reduced"])
def test_test_and_detect_show_jpegs_as_the_network_was_trained_unless_they_are_told_otherwise(tmp_path, jpeg):
    data_set("classes", tmp_path / "set")
    network = random_network(parse_cfg(CFG))
    meta = {"jpeg": "reduced"} if jpeg == "reduced" else {}
    weights = str(save_checkpoint(tmp_path / "w.pt", Checkpoint(network, ("cat", "dog"), meta=meta)))
    given = {"weights": weights, "data": str(tmp_path / "set"), "device": "cpu", "workers": 0}
    session = open_session(measure.TestConfig.from_given(given, {}))
    assert session.valid.dataset.jpeg == jpeg == session.config.jpeg and session.meta.get("jpeg", "full") == jpeg
    loaded = load_model(weights)
    seen: list[torch.Tensor] = []
    loaded.predictor.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for said in (None, "full", "reduced"):
        config = measure.DetectConfig(
            source=(str(tmp_path / "set/val/cat"),), data=given["data"], jpeg=said, device="cpu"
        )
        detector = open_detector(config, loaded)
        for frame in frames_of(config, detector):
            detector.look(frame)
            assert frame.image.shape == (150, 219, 3), "what is drawn on is the whole picture"
        wanted = open_session(
            measure.TestConfig.from_given({**given, **({"jpeg": said} if said else {})}, {})
        ).valid.dataset
        places = [wanted.images.index(tmp_path / f"set/val/cat/{n}.jpg") for n in range(3)]
        assert wanted.jpeg == (said or jpeg)
        for place, x in zip(places, seen[-3:], strict=True):
            assert torch.equal(x[0], wanted[place].image.float() / 255)
    assert not torch.equal(seen[-1], seen[-4])


def test_dali_and_recordings_have_no_reduced_jpegs(tmp_path):
    with pytest.raises(InputError, match="--jpeg reduced: recordings of events are no JPEGs"):
        ClipFrames([], SIZE, FrameRule.of({}, 1), jpeg="reduced")
    with pytest.raises(InputError, match="--cache disk: recordings are kept in memory or not at all"):
        ClipFrames([], SIZE, FrameRule.of({}, 1), cache="disk")
    setting = Setting(
        config=TrainConfig(loader="dali", jpeg="reduced"),
        task=task_of(parse_cfg(CFG)),
        manifest=None,
        size=SIZE,
        precision=None,
        group=Group(0, 1, ""),
    )
    with pytest.raises(InputError, match="--jpeg reduced: DALI decodes whole images; add --jpeg full"):
        loaders(setting, parse_cfg(CFG))
