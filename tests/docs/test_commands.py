"""Every command that README and docs show: its flags exist, and what small data can show is run in full.

A page's commands run one after the other in one folder, as a reader would type them, with fewer epochs and images:
flags at the end stand in for those before. Marked ones (see shell.py) are parsed alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import cv2
import pytest
import torch
from matplotlib.figure import Figure

from docs import parsers
from models import Darknet, network_of
from tests.conftest import ROOT
from tests.docs.shell import Command, commands
from tests.scenes import CFG, write_scenes
from utils.darknet.cfg import parse_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.darknet.weights import write_weights

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = [command for page in PAGES for command in commands(page)]
RUNNING = list(dict.fromkeys(command.page for command in SHOWN if command.runs and command.words[0] == "python3"))
BEGINS = {"README.md", "own-photographs.md", "darknet-network.md"}  # pages that start without a network of ours
BRIEF = ["--img-size", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0"]
IDLE = {
    "convert.py": {"--img-size", "--batch-size", "--device", "--workers"},
    "export.py": {"--batch-size"},
    "detect.py": {"--batch-size", "--workers"},
}  # refused: they would do nothing
EPOCHS = {"--progressive": "2"}
LESS = {
    "train.py": [],
    "slim_prune.py": ["--force", "--recalibrate", "0"],  # a network of an epoch has gammas that would not survive
    "quantize.py": ["--calibration", "8"],
    "convert_snn.py": ["--calibration", "8"],
}


def parse(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Fail with the parser's own words where a flag, a choice or a number is none."""
    words = list(command.words)
    if words[0] == "torchrun":
        words = ["python3", *words[words.index("--") + 1 :]]
    name, rest = (f"-m {words[2]}", words[3:]) if words[1] == "-m" else (words[1], words[2:])
    if name in ("-m venv", "-m pytest") or name.endswith("verify.py"):
        return  # Python's own, pytest's, and one that an export writes
    known = parsers.commands()
    assert name in known, f"{command}: there is no such command; known are {', '.join(known)}"
    try:
        parsers.parser_of(known[name]).parse_args([word for word in rest if word != "…"])
    except SystemExit as ended:
        pytest.fail(f"{command}: {capsys.readouterr().err}") if ended.code else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_shown_exists(page, capsys):
    made = [ROOT / "Makefile", *(ROOT / "utils/export").rglob("Makefile")]  # ours, and those of an exported folder
    targets = [name for path in made for name in re.findall(r"^(\w+):", path.read_text(), re.MULTILINE)]
    for command in (each for each in SHOWN if each.page == page):
        if command.words[0] == "make":
            assert set(command.words[1:]) <= set(targets), command
        elif len(command.words) > 1:
            parse(command, capsys)


@pytest.mark.parametrize("name", parsers.scripts())
def test_the_commands_of_a_docstring_parse(name, capsys):
    page, doc = parsers.scripts()[name], parsers.load(parsers.scripts()[name]).__doc__ or ""
    shown = re.findall(r"^  (python3 .*|torchrun .*)$", doc, re.MULTILINE)
    assert shown
    for line in shown:
        words = re.split(r"  |\s\(", line)[0].replace("'", "").split()
        parse(Command(page, 0, tuple(words)), capsys)


def test_a_flag_or_a_script_that_is_not_there_is_found(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(
        "Type\n\n    python3 train.py --epoch 3\n    python3 tain.py\n\nor `python3 test.py --conf-thres 2`.\n"
    )
    flag, script, number = commands(page)
    with pytest.raises(pytest.fail.Exception, match=r"page\.md:3: .*unrecognized arguments: --epoch"):
        parse(flag, capsys)
    with pytest.raises(AssertionError, match="there is no such command"):
        parse(script, capsys)
    with pytest.raises(pytest.fail.Exception, match="must be a number from 0 up to, but not, 1, got 2"):
        parse(number, capsys)


def test_commands_are_read_as_a_shell_would(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        """
<!-- takes: an hour -->

    N=mine
    T="python3 train.py -sr"
    $T --cfg $N.cfg \\
        --epochs 3      # explained
        what it prints, mAP 0.9

```bash
python3 test.py && make test
```

```python
python3 = 1
```

=== "A tab"

    <!-- photos: coco -->

        python3 quantize.py    0.9
"""
    )
    first, test, make, tab = commands(page)
    assert first.words == ("python3", "train.py", "-sr", "--cfg", "mine.cfg", "--epochs", "3") and not first.runs
    assert (test.words, make.words) == (("python3", "test.py"), ("make", "test")) and test.runs
    assert tab.words == ("python3", "quantize.py") and tab.photos == "coco" and tab.runs


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Photographs in three forms, a Darknet network for them, and networks of ours."""
    folder = tmp_path_factory.mktemp("reader")
    scenes = folder / "scenes"
    write_scenes(scenes, train=12, valid=4)
    for form in ("yolo", "voc", "coco"):
        WRITERS[form](scenes, folder / form / "photos")
    place = folder / "place"
    shutil.copytree(ROOT / "cfg", place / "cfg", ignore=shutil.ignore_patterns("pruned"))
    (place / "mine.cfg").write_text(CFG)
    torch.manual_seed(0)
    network = network_of(Darknet(parse_cfg(CFG)))
    write_weights(place / "mine.weights", network)
    shutil.copyfile(scenes / "images/valid/0.png", place / "photo.jpg")
    for name in ("last", "best", "last_sparse", "slim_prune_0.5"):
        save_checkpoint(folder / f"weights/{name}.pt", Checkpoint(network, ("blue", "green")))
    return folder


def write_yolo(scenes: Path, photos: Path) -> None:
    for kind in ("images", "labels"):
        shutil.copytree(scenes / kind / "train", photos / kind / "train")
        shutil.copytree(scenes / kind / "valid", photos / kind / "val")
    shutil.copyfile(scenes / "set.names", photos / "mine.names")
    for number, label in enumerate(sorted(photos.glob("labels/*/*.txt"))):  # boxes of several sizes, for anchors
        label.write_text(label.read_text().replace(" 0.31250 0.31250", f" {0.31250 - number / 100:.5f} 0.31250"))


def corners(label: Path) -> list[tuple[int, int, int, int, int]]:
    """(class, x1, y1, x2, y2) in px of a 64 x 64 image."""
    rows = [[float(word) for word in line.split()] for line in label.read_text().splitlines()]
    boxes = [[64 * v for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)] for _, cx, cy, w, h in rows]
    return [(int(row[0]), *map(round, box)) for row, box in zip(rows, boxes, strict=True)]


def write_voc(scenes: Path, photos: Path) -> None:
    for sub in ("Annotations", "JPEGImages"):
        (photos / sub).mkdir(parents=True)
    for image in sorted(scenes.glob("images/*/*.png")):
        stem = f"{image.parent.name}{image.stem}"
        cv2.imwrite(str(photos / f"JPEGImages/{stem}.jpg"), cv2.imread(str(image)))
        objects = "".join(
            f"<object><name>{('blue', 'green')[c]}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object>"
            for c, x1, y1, x2, y2 in corners(scenes / f"labels/{image.parent.name}/{image.stem}.txt")
        )
        size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
        (photos / f"Annotations/{stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def write_coco(scenes: Path, photos: Path) -> None:
    shutil.copytree(scenes / "images/train", photos / "train")
    images, boxes = [], []
    for number, image in enumerate(sorted((photos / "train").glob("*.png"))):
        images.append({"id": number, "file_name": image.name, "width": 64, "height": 64})
        for c, x1, y1, x2, y2 in corners(scenes / f"labels/train/{image.stem}.txt"):
            boxes.append({"id": len(boxes), "image_id": number, "category_id": c, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    categories = [{"id": 0, "name": "blue"}, {"id": 1, "name": "green"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (photos / "train.json").write_text(json.dumps(content))


WRITERS = {"yolo": write_yolo, "voc": write_voc, "coco": write_coco}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Curves and tables as empty files: other tests look at them, and they are half of the time."""

    def save(figure: Figure, target: Path | str | IO[bytes], **_: object) -> None:
        if isinstance(target, Path | str):
            Path(target).write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.name)
def test_what_a_page_shows_runs_from_its_first_line_to_its_last(page, template, tmp_path, monkeypatch):
    place = tmp_path / "place"
    shutil.copytree(template / "place", place)
    if page.name not in BEGINS:
        shutil.copytree(template / "weights", place / "weights")
    monkeypatch.chdir(place)
    for command in (each for each in SHOWN if each.page == page and each.runs and each.words[0] == "python3"):
        if Path("photos").is_symlink():
            Path("photos").unlink()
        Path("photos").symlink_to(template / command.photos / "photos")
        run(command)


@pytest.mark.parametrize("form", WRITERS)
def test_a_detector_is_trained_on_photographs_labelled_in_each_form(form, template, tmp_path, monkeypatch):
    """The first page alone: its conversion where there is one, its training, its measurement."""
    shown = [each for each in commands(ROOT / "README.md") if each.words[0] == "python3"]
    convert = next(each for each in shown if each.photos == "coco")
    train = next(each for each in shown if each.words[1] == "train.py" and each.runs)
    shutil.copytree(template / "place", tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    Path("photos").symlink_to(template / form / "photos")
    if form == "coco":
        run(convert)
    data = "data/mine.data" if form == "coco" else "photos"
    run(dataclasses.replace(train, words=tuple(data if word == "photos" else word for word in train.words)))
    assert Path("weights/last.pt").is_file() and Path("weights/best.pt").is_file()
    run(Command(train.page, 0, ("python3", "test.py", "--weights", "weights/best.pt", "--data", data)))


def run(command: Command) -> None:
    """Run a command here; it has to end well."""
    words = list(command.words[1:])
    if Path(words[0]).name == "verify.py":
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return
    known = parsers.commands()
    if words[0] == "-m":
        assert parsers.load(known[" ".join(words[:2])]).main(words[2:]) in (0, None) or words[1] != "utils.data", (
            command
        )
        return
    script, given = words[0], words[1:]
    pairs = zip(BRIEF[::2], BRIEF[1::2], strict=True)
    usual = [word for pair in pairs if pair[0] not in IDLE.get(script, ()) for word in pair]
    brief = [*usual, *LESS.get(script, [])]
    if "--sensitivity" in given:  # it recalibrates nothing
        brief = [*usual]
    if script == "train.py":
        brief += ["--epochs", next((n for flag, n in EPOCHS.items() if flag in given), "1")]
    if "--finetune" in given and script.endswith("prune.py"):
        brief += ["--finetune", "1"]
    module = parsers.load(known[script])
    record = module.run(module.parser().parse_args([*given, *brief]))
    assert record.finished, command
