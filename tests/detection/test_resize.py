"""How pictures are fitted into a network's image: letterboxed or stretched, everywhere as the weights were trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import convert_snn
import detect
import export
import quantize
import slim_prune
import test as measure
import train
from models import Darknet, load_model, network_of
from pipeline.detect import open_detector
from tests.scenes import CFG, undrawn_runs, write_scenes
from utils.config.measure import DetectConfig
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.darknet.weights import write_weights
from utils.data import transforms
from utils.data.__main__ import main as cli
from utils.data.sources import load_images
from utils.detection.anchors import box_sizes
from utils.detection.augment import Augment
from utils.detection.dataset import DetectionDataset
from utils.detection.open_data import read_manifest
from utils.errors import InputError
from utils.spiking.stateful_video import CarriedStream

SIZE = (64, 64)
HERE = ["--data", "set.data", "--device", "cpu", "--workers", "0"]
SIDES = st.integers(8, 700)
BOXED = CFG.replace("channels=3", "channels=3\nletter_box=1")
STRETCHED = CFG.replace("channels=3", "channels=3\nletter_box=0")


@pytest.fixture
def wide(tmp_path, monkeypatch) -> Path:
    """Pictures twice as wide as high."""
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path, train=4, valid=4, shape=(48, 96))
    return tmp_path


def darknet_files(folder: Path, cfg: str = CFG, name: str = "net") -> list[str]:
    """Weights as Darknet leaves them, and the flags that open them."""
    torch.manual_seed(0)
    network = network_of(Darknet(parse_cfg(cfg)))
    write_weights(folder / f"{name}.weights", network)
    (folder / f"{name}.cfg").write_text(cfg)
    return ["--weights", f"{name}.weights", "--cfg", f"{name}.cfg"]


def run(script: object, *words: str):
    here = HERE[:-2] if script is detect else HERE  # it reads one picture after the other
    return script.run(script.parser().parse_args([*here, *words]))  # type: ignore[attr-defined]


def bright(image: np.ndarray, channel: int) -> np.ndarray:
    """The box (x1, y1, x2, y2 px) of a scene's square, seen in the pixels alone."""
    rows, columns = np.nonzero(image[channel] > 170)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@given(h=SIDES, w=SIDES, to_h=SIDES, to_w=SIDES)
@settings(max_examples=60, deadline=None)
def test_a_stretched_box_mapped_back_is_the_original(h, w, to_h, to_w):
    box = transforms.fit((h, w), (to_h, to_w), "stretch")
    corners = np.array([[0, 0, w, h], [w / 4, h / 3, w / 2, h / 2]], np.float32)
    there = box.to_network(corners)
    np.testing.assert_allclose(there[0], [0, 0, to_w, to_h], rtol=1e-5)
    np.testing.assert_allclose(box.to_original(there), corners, atol=1e-2)


@pytest.mark.parametrize("how", ["letterbox", "stretch"])
@pytest.mark.parametrize("cache", ["off", "ram"])
def test_labels_lie_on_their_pixels_and_nothing_else_is_border(wide, how, cache):
    manifest = read_manifest(wide / "set.data")
    dataset = DetectionDataset(manifest.valid, manifest, SIZE, how=how, cache=cache)
    for i in range(len(dataset)):
        sample = dataset[i]
        image = sample.image.numpy()
        label, cx, cy, w, h = sample.boxes[0].tolist()
        found = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * 64
        np.testing.assert_allclose(bright(image, 2 - int(label)), found, atol=1.01)
        assert (image == transforms.GREY).all((0, 2)).sum() == (32 if how == "letterbox" else 0)


def test_a_cached_picture_is_the_decoded_one_stretched(wide):
    manifest = read_manifest(wide / "set.data")
    kept, read = (DetectionDataset(manifest.train, manifest, SIZE, how="stretch", cache=c) for c in ("ram", "off"))
    for i in range(len(kept)):
        assert torch.equal(kept[i].image, read[i].image)


@pytest.mark.parametrize("augment", [False, True, Augment(mosaic=0.0, degrees=10)])
def test_where_the_aspects_agree_stretched_and_letterboxed_are_one(wide, augment):
    manifest = read_manifest(wide / "set.data")
    boxed, stretched = (
        DetectionDataset(manifest.train, manifest, (32, 64), augment=augment, how=how, seed=3)
        for how in ("letterbox", "stretch")
    )
    square = DetectionDataset(manifest.train, manifest, SIZE, augment=augment, how="stretch", seed=3)
    for i in range(len(boxed)):
        a, b = boxed[i], stretched[i]
        assert torch.equal(a.image, b.image) and torch.equal(a.boxes, b.boxes)
        assert square[i].image.shape[1:] == SIZE


@pytest.mark.parametrize("seed", range(6))
def test_each_box_of_a_stretched_mosaic_fits_its_pixels(wide, seed):
    manifest = read_manifest(wide / "set.data")
    strength = replace(Augment.off(), mosaic=1.0)
    (sample,) = [DetectionDataset(manifest.train, manifest, (96, 96), augment=strength, how="stretch", seed=seed)[1]]
    shown = sample.image.numpy()
    assert len(sample.boxes)
    for label, cx, cy, w, h in sample.boxes.tolist():
        x1, y1, x2, y2 = (round(v * 96) for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
        inside = shown[2 - int(label), y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
        assert (inside > 130).mean() > 0.8


def test_anchors_are_fitted_to_boxes_as_they_are_shown(wide):
    manifest = read_manifest(wide / "set.data")
    boxed, stretched = (
        box_sizes(DetectionDataset(manifest.train, manifest, SIZE, how=how)) for how in ("letterbox", "stretch")
    )
    np.testing.assert_allclose(boxed, 20 * 64 / 96, atol=0.1)
    np.testing.assert_allclose(stretched, [[20 * 64 / 96, 20 * 64 / 48]] * 4, atol=0.1)


def test_sides_that_shrink_are_averaged_also_where_the_other_one_grows():
    stripes = np.zeros((8, 90, 3), np.uint8)
    stripes[:, ::3] = 255  # every third column: a filter that picks columns sees black or white, an average a third
    shown = transforms.resize(stripes, (64, 30))
    np.testing.assert_allclose(shown, 85, atol=1)


@pytest.mark.parametrize("how", ["letterbox", "stretch"])
def test_detect_looks_at_what_test_and_train_look_at(wide, how):
    manifest = read_manifest(wide / "set.data")
    words = darknet_files(wide)
    loaded = load_model(words[1], words[3])
    seen: list[torch.Tensor] = []
    loaded.predictor.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    detector = open_detector(DetectConfig(resize=how, img_size=SIZE, device="cpu"), loaded)
    for i, path in enumerate(sorted((wide / "images/valid").iterdir())):
        detector.find(next(iter(load_images(path))).image)
        shown = DetectionDataset(manifest.valid, manifest, SIZE, how=how)[i].image
        assert torch.equal(seen[-1][0], shown.float() / 255)


def test_every_box_that_detect_finds_of_a_stretched_picture_is_testpys_mapped_back(wide, monkeypatch):
    words = darknet_files(wide)
    common = ["--conf-thres", "0.05", "--iou-thres", "0.5", "--save-json"]
    found = run(detect, *words, *common, "--source", "images/valid")
    rows = json.loads((found.folder / "detections.json").read_text())
    assert rows and {row["image_id"] for row in rows} == {f"images/valid/{n}.png" for n in range(4)}
    loaded = load_model("net.weights", "net.cfg")
    detector = open_detector(DetectConfig(conf_thres=0.05, iou_thres=0.5, device="cpu"), loaded)
    assert detector.how == "stretch"
    boxes = np.array([row["bbox"] for row in rows])
    assert (boxes[:, 0] + boxes[:, 2] <= 96.01).all() and (boxes[:, 1] + boxes[:, 3] <= 48.01).all()
    assert (boxes[:, 0] + boxes[:, 2] > 64).any()  # px of the picture, not of the network


def test_a_video_is_stretched_like_a_picture(wide):
    frames = [cv2.imread(f"images/valid/{n}.png") for n in range(3)]
    film = cv2.VideoWriter("film.avi", cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (96, 48))
    for frame in frames:
        film.write(frame)
    film.release()
    words = darknet_files(wide)
    whole = run(detect, *words, "--conf-thres", "0.01", "--save-json", "--source", "film.avi")
    pictures = Path("frames")
    pictures.mkdir()
    for n, frame in enumerate(load_images("film.avi")):
        cv2.imwrite(f"frames/{n}.png", frame.image[..., ::-1])
    single = run(detect, *words, "--conf-thres", "0.01", "--save-json", "--source", "frames")
    a, b = (json.loads((record.folder / "detections.json").read_text()) for record in (whole, single))
    assert a and [row["bbox"] for row in a] == [row["bbox"] for row in b]


@pytest.mark.parametrize(("cfg", "how"), [(CFG, "stretch"), (BOXED, "letterbox")])
def test_darknet_weights_are_shown_what_their_cfg_says(wide, cfg, how):
    words = darknet_files(wide, cfg)
    assert load_model(words[1], words[3]).resize == how
    told = run(measure, *words)
    assert told.args["resize"] == how
    both = {
        rule: run(measure, *words, "--resize", rule, "--name", rule).metrics["map"] for rule in ("letterbox", "stretch")
    }
    assert told.metrics["map"] == both[how]


def test_checkpoints_of_before_are_letterboxed(wide):
    network = network_of(Darknet(parse_cfg(CFG)))
    path = save_checkpoint(wide / "weights/old.pt", Checkpoint(network, ("blue", "green")))
    assert load_model(path).resize == "letterbox"


@pytest.mark.parametrize(
    ("cfg", "how"),
    [(CFG, "letterbox"), (BOXED, "letterbox"), (STRETCHED, "stretch")],
)
def test_a_network_from_scratch_is_letterboxed_unless_its_cfg_says_otherwise(wide, monkeypatch, cfg, how):
    undrawn_runs(monkeypatch)
    (wide / "net.cfg").write_text(cfg)
    record = run(train, "--cfg", "net.cfg", "--epochs", "1")
    assert record.args["resize"] == how and load_model("weights/last.pt").resize == how


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Iterator[Path]:
    """Stretched weights of Darknet, trained, pruned, quantised, converted and handed off, never told how."""
    folder = tmp_path_factory.mktemp("chain")
    write_scenes(folder, train=4, valid=4, shape=(48, 96))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        undrawn_runs(patch)
        words = darknet_files(folder)
        run(train, *words, "--epochs", "2", "--lr", "0.01")
        run(slim_prune, "--weights", "weights/last.pt", "--percent", "0.1", "--force", "--name", "small")
        run(quantize, "--weights", "weights/last.pt", "--calibration", "4")
        run(convert_snn, "--weights", "weights/last.int.pt", "--mode", "layerwise")
        run(convert_snn, "--weights", "weights/last.int.pt", "--mode", "stream", "--name", "flow")
        run(export, "fpga", "--weights", "weights/last.int.pt", "--golden", "2", "--out", "out")
    yield folder


def test_every_checkpoint_of_a_chain_remembers_that_pictures_are_stretched(chain):
    made = sorted(chain.glob("weights/*.pt"))
    assert len(made) == 6 and {"last.int.pt", "last.snn.pt"} < {path.name for path in made}
    assert {load_model(path).resize for path in made} == {"stretch"}


def test_pruned_weights_are_shown_what_their_checkpoint_is(chain, monkeypatch):
    monkeypatch.chdir(chain)
    (small,) = chain.glob("weights/slim*.pt")
    (cfg,) = chain.glob("cfg/pruned/*.cfg")
    assert "letter_box" not in cfg.read_text() and read_cfg(cfg).resize == "stretch"
    undrawn_runs(monkeypatch)
    run(
        slim_prune,
        "--weights",
        "weights/last.pt",
        "--resize",
        "letterbox",
        "--percent",
        "0.1",
        "--force",
        "--name",
        "l",
    )
    boxed = next(chain.glob("cfg/pruned/*_l.cfg"))
    assert read_cfg(boxed).resize == "letterbox" == load_model(next(chain.glob("weights/slim*_l.pt"))).resize
    assert load_model(small, cfg).resize == "stretch"


def test_a_stream_that_carries_its_state_is_shown_stretched_frames(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(chain)
    (path,) = chain.glob("weights/*flow*.snn.pt")
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (96, 48))
    for n in range(3):
        film.write(cv2.imread(f"images/valid/{n}.png"))
    film.release()
    loaded = load_model(path)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(CarriedStream, "__call__", lambda self, x: seen.append(x) or self.forward(x))
    detector = open_detector(DetectConfig(carry=True, device="cpu"), loaded)
    assert detector.how == "stretch"
    for frame in load_images(tmp_path / "film.avi"):
        detector.find(frame.image)
        shown = transforms.resize(frame.image, SIZE).transpose(2, 0, 1).astype(np.float32) / 255
        assert torch.equal(seen[-1][0].contiguous(), torch.from_numpy(np.ascontiguousarray(shown)))
    assert len(seen) == 3


def test_darknets_own_files_are_shown_what_their_checkpoint_is(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(chain)
    for how in ("stretch", "letterbox"):
        run(export, "darknet", "--weights", "weights/last.pt", "--resize", how, "--out", str(tmp_path / how))
        (cfg,), (weights,) = ((tmp_path / how).glob(f"*.{kind}") for kind in ("cfg", "weights"))
        assert load_model(weights, cfg).resize == how


def test_a_handed_off_picture_is_prepared_as_ours_within_a_level(chain, tmp_path):
    from utils.export import prepare

    manifest = json.loads((chain / "out/manifest.json").read_text())
    assert manifest["image"]["resize"] == "stretch" and "**stretched" in (chain / "out/README.md").read_text()
    assert (chain / "out/prepare.py").read_text() == Path(prepare.__file__).read_text()
    rng = np.random.default_rng(0)
    for how in ("stretch", "letterbox"):
        manifest["image"]["resize"] = how
        for shape in ((48, 96), (200, 90), (64, 64), (33, 65), (150, 20), (20, 21)):
            picture = cv2.GaussianBlur(rng.integers(0, 256, (*shape, 3), dtype=np.uint8), (5, 5), 2)
            box = transforms.fit(shape, SIZE, how)
            ours = transforms.letterbox(picture, box).transpose(2, 0, 1)
            theirs = prepare.prepare(picture, manifest)
            assert abs(theirs.astype(int) - ours).max() <= 1 and prepare.BORDER == transforms.GREY
            corners = np.array([[3.0, 4.0, 30.0, 20.0], [-5, 0, 70, 64]], np.float32)
            back = prepare.boxes_back(corners, shape, manifest)
            np.testing.assert_allclose(back, box.to_original(corners), atol=1e-3)


def test_golden_images_are_what_the_hand_offs_own_script_prepares(chain, tmp_path, monkeypatch, capsys):
    from utils.export import prepare

    copy = shutil.copytree(chain / "out", tmp_path / "out")
    monkeypatch.setattr(prepare, "__file__", str(copy / "prepare.py"))
    photo = cv2.cvtColor(cv2.imread(str(chain / "images/valid/0.png")), cv2.COLOR_BGR2RGB)
    np.save(tmp_path / "photo.npy", photo)
    (tmp_path / "photo.ppm").write_bytes(b"P6\n96 48\n255\n" + photo.tobytes())
    for name in ("photo.npy", "photo.ppm"):
        assert prepare.main([str(tmp_path / name), str(tmp_path / "image.npy")]) == 0
        golden = np.load(copy / "golden/0/image.npy").astype(int)
        assert abs(np.load(tmp_path / "image.npy").astype(int) - golden).max() <= 1
    assert "3x64x64, stretch" in capsys.readouterr().out
    assert prepare.main([str(tmp_path / "none.npy"), "x.npy"]) == 2
    np.save(tmp_path / "photo.npy", photo.astype(np.float32))
    assert prepare.main([str(tmp_path / "photo.npy"), "x.npy"]) == 2
    assert "a picture is uint8" in capsys.readouterr().err


def test_a_cfg_says_how_and_is_written_back_so():
    for text in (CFG, BOXED):
        spec = parse_cfg(text)
        for how in ("letterbox", "stretch"):
            again = parse_cfg(write_cfg(spec.saying(how)))
            assert again.resize == how and again == spec.saying(how)
        assert spec.saying(spec.resize) is spec


def test_a_word_for_letter_box_is_refused(wide):
    with pytest.raises(InputError, match="letter_box=yes must be"):
        parse_cfg(CFG.replace("channels=3", "channels=3\nletter_box=yes"))


def test_rect_is_refused_where_pictures_are_stretched(wide):
    words = darknet_files(wide)
    with pytest.raises(InputError, match=r"--rect: stretched images have no border.*add --resize letterbox"):
        run(measure, *words, "--rect")
    assert run(measure, *words, "--rect", "--resize", "letterbox").finished


def test_anchors_on_the_command_line_are_those_of_pictures_as_training_shows_them(wide):
    for number, share in enumerate((0.1, 0.2, 0.5, 0.7)):  # of the picture: in it a box is twice as wide as high
        (wide / f"labels/train/{number}.txt").write_text(f"0 0.5 0.5 {share} {share}\n")
    cases = [(CFG, [], 2), (BOXED, [], 2), (CFG, ["--resize", "stretch"], 1), (STRETCHED, [], 1)]
    for number, (text, words, aspect) in enumerate(cases):
        (wide / "net.cfg").write_text(text)
        assert cli(["anchors", "set.data", "--cfg", "net.cfg", "--out", f"{number}.cfg", *words]) == 0
        anchors = np.array(read_cfg(f"{number}.cfg").layers[-1].anchors)
        np.testing.assert_allclose(anchors[:, 0] / anchors[:, 1], aspect, rtol=0.03)
