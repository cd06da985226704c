"""What a user sees at the command line: help that shows commands, and of a mistake one line, code 2, nothing lost.

Most scripts run in this process, through the same last line of the file that Python runs from a shell; stderr is taken
from the file descriptor, so that what C libraries and worker processes write there counts too.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import Darknet, network_of
from pipeline.prune import STRATEGIES as PRUNE_SCRIPTS
from tests.conftest import ROOT
from tests.scenes import CFG, head, section, write_scenes
from utils.config.prune import FLAGS
from utils.darknet import choices as darknet
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.darknet.weights import write_weights
from utils.export import choices as export
from utils.export.targets import TARGETS
from utils.pruning import choices as pruning
from utils.pruning.criteria import CRITERIA
from utils.quantization.calibrate import calibrate
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking import choices as spiking
from utils.spiking.snn_checkpoint import ExecutionMode, save_integers
from utils.spiking.stream_neuron import RULES

MEASURED = ["test", "slim_prune", "convert_snn", "quantize"]  # scripts that take a network and measure it on images
SCRIPTS = ["train", *MEASURED, "detect", "compress"]
ALL = sorted({path.stem for path in ROOT.glob("*.py")} - {"models"})
HERE = ["--device", "cpu", "--workers", "0"]
NET = ["--weights", "weights/net.pt"]
DARKNET = ["--cfg", "net.cfg", "--weights", "net.weights"]
SHORT = {"train": ["--cfg", "net.cfg", "--epochs", "1"], "compress": ["--cfg", "net.cfg", "--epochs", "1"]}
WORDS = {
    **SHORT,
    "slim_prune": [*NET, "--percent", "0.1", "--force"],
    **dict.fromkeys(["test", "convert_snn", "quantize"], NET),
}


def here(script: str) -> list[str]:
    """On this machine; detect.py reads one picture after the other and has no workers."""
    return HERE[:2] if script == "detect" else HERE


JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffdb00430008")  # a JPEG's first bytes


def corrupt(path: Path, share: float = 0.4) -> None:
    """As a download that was cut: the head is good."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def break_label(folder: Path, split: str) -> None:
    (folder / "labels" / split / "1.txt").write_text("1 0.5 1.5 0.1 0.1\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A set, its damaged copies, a network in every form, and results of an earlier day."""
    folder = tmp_path_factory.mktemp("line")
    write_scenes(folder)
    for fault, damage in {
        "corrupt": lambda at, split: corrupt(at / f"images/{split}/1.png"),
        "gone": lambda at, split: (at / f"images/{split}/1.png").unlink(),
        "label": break_label,
        "class": lambda at, split: (at / f"labels/{split}/1.txt").write_text("7 0.5 0.5 0.1 0.1\n"),
    }.items():
        for splits in (("train", "valid"), ("train",), ("valid",)):
            copy = folder / "-".join([fault, *(splits if len(splits) == 1 else ())])
            write_scenes(copy, train=4, valid=2)
            for split in splits:
                damage(copy, split)
    write_scenes(folder / "three", train=4, valid=2)
    (folder / "three/set.names").write_text("blue\ngreen\nred\n")
    (folder / "three/set.data").write_text("classes=3\ntrain=train.txt\nvalid=valid.txt\nnames=set.names\n")
    (folder / "disagree.data").write_text("classes=3\ntrain=train.txt\nvalid=valid.txt\nnames=set.names\n")
    for path, content in {"junk.jpg": JPEG + bytes(range(256)), "junk.mp4": bytes(5000), "empty.png": b""}.items():
        (folder / path).write_bytes(content)
    (folder / "dangling.cfg").write_text(CFG + section("route", layers="-1,60") + head())
    network = network_of(Darknet(read_cfg(folder / "net.cfg")))
    save_checkpoint(folder / "weights/net.pt", Checkpoint(network, ("blue", "green")))
    save_checkpoint(folder / "weights/cut.pt", Checkpoint(network, ("blue", "green")))
    corrupt(folder / "weights/cut.pt")
    write_weights(folder / "net.weights", network)
    (folder / "cut.weights").write_bytes((folder / "net.weights").read_bytes()[:-400])
    for path in ("weights/last.pt", "cfg/pruned/slim_prune_0.1.cfg", "runs/train/record.json", "runs/detect/1.jpg"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("of an earlier day")
    return folder


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file's size and time."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def typed(place, monkeypatch, capfd):
    """Type a command; returns its exit code, stdout and stderr, once it is sure that nothing was lost or left."""

    def run(script: str, *words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", [str(ROOT / f"{script}.py"), *words])
        before = tree(place)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
        nothing_lost(before, tree(place))
        return ended.value.code, *capfd.readouterr()

    return run


def nothing_lost(before: dict, after: dict) -> None:
    """Files that were there are as they were; new ones only log the run that failed."""
    assert {name: after.get(name) for name in before} == before
    assert all(name.startswith("runs/") and name.endswith((".json", ".csv", ".jpg")) for name in after.keys() - before)


def one_line(script: str, code: int, err: str, message: str) -> None:
    assert code == 2, err
    assert len(err.splitlines()) == 1 and err.startswith(f"{script}.py: "), err
    assert re.search(message, err), err


def test_help_and_the_library_as_such_need_no_torch():
    """In one fresh process: what the parsers and `import darkspike` load; torch alone takes seconds."""
    words = f"""
import importlib, sys
for name in {[*ALL, "darkspike", "darkspike.__main__", "darkspike.recipe", "utils.data.__main__"]!r}:
    module = importlib.import_module(name)
    if name in {ALL!r}:
        module.parser().format_help()
print(*sorted({{"torch", "numpy", "cv2"}} & set(sys.modules)))
importlib.import_module("darkspike.dashboard")  # draws its pages' pictures small
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\nFalse\n"


def test_the_flags_offer_what_the_rooms_have():
    """Words that flags may say stand in modules without torch; these are the rooms' own."""
    assert set(spiking.NEURONS) == set(RULES)
    assert set(export.TARGET_NAMES) == set(TARGETS)
    assert {*darknet.WORDS, "linear"} == set(ACTIVATIONS) >= {*darknet.TO_HAVE.values()}
    assert set(pruning.SCORES) == {*CRITERIA, "taylor", "random"}
    assert all(strategy.flags is FLAGS[name] for name, strategy in PRUNE_SCRIPTS.items())


@pytest.mark.parametrize("script", ALL)
def test_help_shows_real_commands(typed, script):
    code, out, err = typed(script, "--help")
    assert code == 0 and err == ""
    shown = re.findall(rf"^  python3 {script}\.py(.*)$", out, re.MULTILINE)
    assert len(shown) >= 2
    typed_after = [re.split(r"  |\(", rest)[0] for rest in shown]  # what follows two blanks explains
    for flag in re.findall(r"(?<= )--?[a-z][a-z-]*", "".join(typed_after)):
        assert re.search(rf"^  .*{flag}\b", out.split("options:")[1], re.MULTILINE), flag


@pytest.mark.parametrize("script", ALL)
def test_an_unknown_flag_is_one_line(typed, script):
    code, _, err = typed(script, "--wieghts=net.pt")
    one_line(script, code, err, "unrecognized arguments: --wieghts=net.pt; see --help")


NO_DATA = r"nowhere\.data: no such \.data file; pass --data"
GONE = r"gone[-a-z]*/images/{}/1\.png: no such image; correct the list of images"
CORRUPT = r"corrupt[-a-z]*/images/{}/1\.png: a corrupt image, .*; replace it or take it from the list"
LABEL = r"label[-a-z]*/labels/{}/1\.txt:1: cy = 1\.5 is outside 0\.\.1; labels are shares of the image"
CLASS = r"class[-a-z]*/labels/{}/1\.txt:1: class 7 of 2 \(0 to 1\): wrong class count; check classes="
FAULTS = {"gone": GONE, "corrupt": CORRUPT, "label": LABEL, "class": CLASS}
CUT_WEIGHTS = r"cut\.weights: too short by 400 bytes, ends inside layer 12 \(cfg line \d+\); use the cfg"
CUT_CHECKPOINT = r"weights/cut\.pt: cannot be read as a checkpoint; it is damaged"
DANGLING = r"dangling\.cfg line \d+: \[route\] reads layer 60, but only layers 0 to 13 come before it"
NO_CFG = r"nowhere\.cfg: .*; check "


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "nowhere.pt"], r"nowhere\.pt: no such .*; check"),
        (["--weights", "weights/cut.pt"], CUT_CHECKPOINT),
        (["--cfg", "net.cfg", "--weights", "nowhere.weights"], r"nowhere\.weights: .*; check"),
        (["--cfg", "nowhere.cfg", "--weights", "net.weights"], NO_CFG),
        (["--cfg", "dangling.cfg", "--weights", "net.weights"], DANGLING),
        (["--cfg", "net.cfg", "--weights", "cut.weights"], CUT_WEIGHTS),
    ],
    ids=["no weights", "cut checkpoint", "no .weights", "no cfg", "dangling route", "cut .weights"],
)
def test_a_network_that_is_not_there_or_damaged(typed, script, words, message):
    if script == "compress" and message == CUT_WEIGHTS:
        pytest.skip("by chance as long as weights for one class, whose heads it would replace")
    source = ["--source", "images/valid/1.png"] if script == "detect" else []
    code, _, err = typed(script, "--data", "set.data", *here(script), *words, *source)
    one_line(script, code, err, message)


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "detect"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_in_the_data(typed, script, fault):
    code, _, err = typed(script, "--data", f"{fault}/set.data", *HERE, *WORDS[script])
    one_line(script, code, err, FAULTS[fault].format("train" if script in SHORT else "valid"))


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "detect"])
def test_data_that_is_not_there_or_contradicts_itself(typed, script):
    code, _, err = typed(script, "--data", "nowhere.data", *HERE, *WORDS[script])
    one_line(script, code, err, NO_DATA)
    code, _, err = typed(script, "--data", "disagree.data", *HERE, *WORDS[script])
    one_line(script, code, err, r"disagree\.data:1: classes = 3, but set\.names names 2; make them agree")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_network_for_another_number_of_classes(typed, script):
    words = {"detect": [*DARKNET, "--source", "images/valid/1.png"], **WORDS}[script]
    code, _, err = typed(script, "--data", "three/set.data", *here(script), *words)
    one_line(script, code, err, r"net\.(cfg|pt|weights): .* 2 classes, .*set\.data has 3; (add -pt|give the --data)")


@pytest.mark.parametrize("script", ["train", "slim_prune", "convert_snn", "quantize"])
def test_a_corrupt_training_image_found_late_leaves_no_network(typed, script):
    code, _, err = typed(script, "--data", "corrupt-train/set.data", "--cache", "off", *HERE, *WORDS[script])
    one_line(script, code, err, CORRUPT.format("train"))


@pytest.mark.parametrize("source", ["nowhere.jpg", "nowhere/*.jpg", "weights", "corrupt/images/valid/1.png"])
def test_a_source_without_a_picture(typed, source):
    code, _, err = typed("detect", *NET, *here("detect"), "--source", source)
    one_line(
        "detect", code, err, "no such file or folder; give|fits this pattern; quote|in this folder; known|a corrupt"
    )


def test_pictures_found_before_a_corrupt_one_are_kept(typed, place):
    code, _, err = typed(
        "detect", *NET, *here("detect"), "--source", "corrupt/images/valid", "--save-json", "--name", "kept"
    )
    one_line("detect", code, err, CORRUPT.format("valid"))
    assert {path.name for path in (place / "runs/detect-kept").iterdir()} == {"0.jpg", "detections.json", "record.json"}


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("train", ["--lr", "abc"], "argument --lr: must be a number above 0, got abc; see --help"),
        ("train", ["--img-size", "30"], "--img-size: 30x30 px do not divide by"),
        ("test", [*NET, "--conf-thres", "2"], "argument --conf-thres: must be a number from 0 up to, but not, 1"),
        ("slim_prune", [*NET, "--percent", "1.2"], "argument --percent: must be a number from 0 up to, but not, 1"),
        ("convert_snn", [*NET, "--a-bit", "9"], "a_bit=9|--a-bit"),
        ("quantize", [*NET, "--w-bit", "1"], "w_bit=1|--w-bit"),
    ],
)
def test_a_number_out_of_range(typed, script, words, message):
    code, _, err = typed(script, "--data", "set.data", *HERE, *SHORT.get(script, []), *words)
    one_line(script, code, err, message)


@pytest.mark.parametrize("script", SCRIPTS)
def test_from_a_shell_a_corrupt_image_in_a_worker_is_one_line(place, script):
    """The latest moment there is: the image is not cached, and another process meets it while the network is measured."""
    words = {"detect": [*NET, "--source", "corrupt/images/valid"], **WORDS}[script]
    data = ["--data", "corrupt-valid/set.data", "--device", "cpu"]
    data += ["--cache", "off", "--workers", "1"] if script != "detect" else []
    before = tree(place)
    command = [sys.executable, str(ROOT / f"{script}.py"), *data, *words, "--name", "shell"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    one_line(script, done.returncode, done.stderr, CORRUPT.format("valid"))
    nothing_lost(before, tree(place))


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("detect", ["--classes", "1", "99"], r"--classes: 99; weights/net\.pt detects 2 classes, 0 to 1"),
        ("quantize", ["--percentile", "99"], "--percentile: acts only with --ranges percentile; add that, or leave"),
        ("test", ["--task", "benchmark", "--rect"], "--task benchmark and --rect: its table is over sizes"),
    ],
)
def test_a_flag_that_cannot_act(typed, script, words, message):
    source = ["--source", "images/valid/1.png"] if script == "detect" else []
    code, _, err = typed(script, "--data", "set.data", *here(script), *NET, *source, *words)
    one_line(script, code, err, message)


@pytest.mark.parametrize("script", ["quantize", "convert_snn"])
def test_a_network_that_has_integers_takes_no_flags_of_calibration(place, typed, script):
    spiking = place / "weights/whole.snn.pt"
    if not spiking.exists():
        integer = lower(
            calibrate(network_of(Darknet(read_cfg(place / "net.cfg"))), [torch.rand(1, 3, 64, 64)], Scheme())
        )
        save_integers(spiking, integer, "spiking", names=("blue", "green"), run=ExecutionMode("layerwise"))
    code, _, err = typed(script, "--data", "set.data", *HERE, "--weights", "weights/whole.snn.pt", "--a-bit", "8")
    one_line(script, code, err, r"--a-bit: weights/whole\.snn\.pt is quantised already and keeps its own bits")
