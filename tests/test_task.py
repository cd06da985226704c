"""What the rooms ask of a task: a second one fits where boxes fit, and a record tells its words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.conftest import write_set
from utils.darknet.cfg import parse_cfg
from utils.data import transforms
from utils.data.dataset import ImageFiles, SampleRequest
from utils.data.loader import Batch, make_loader
from utils.detection.task import DetectionTask
from utils.errors import InputError
from utils.reporting.facts import Column, TaskChart, TaskFacts
from utils.reporting.html.report import load, render
from utils.reporting.plots import plot_results
from utils.reporting.record import finish_record, read_record, start_record
from utils.reporting.results import write_rows
from utils.reporting.tables import comparison_table, stage_table
from utils.task import task_name

SIZE = (32, 48)
DIGITS = TaskFacts(
    "classification",
    "top1",
    "top1",
    (Column("top1", "top-1", "top-1"), Column("bits", "bits", "bits a pixel", 2, share=False)),
    ("total", "entropy"),
    (TaskChart("confused", "bars", "Share right of each class", "class", "share right", "The classes are", "images"),),
    "predictions",
)


@dataclass(frozen=True)
class LabelledImage:
    image: Tensor
    label: int
    index: int
    gaps: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelBatch(Batch):
    labels: Tensor


class Parity(ImageFiles):
    """Whether an image's number is even: a task without a single box."""

    def __getitem__(self, request: int | SampleRequest) -> LabelledImage:
        request = request if isinstance(request, SampleRequest) else SampleRequest(request)
        gaps: dict[int, str] = {}
        index, image, original = self.fetch(request.index, gaps)
        shown = transforms.letterbox(image, transforms.fit(original, request.size or self.size))
        return LabelledImage(torch.from_numpy(shown).permute(2, 0, 1), index % 2, index, tuple(gaps.items()))

    def collate(self, samples: Sequence[LabelledImage]) -> LabelBatch:
        return LabelBatch(
            images=transforms.stack([each.image for each in samples]),
            labels=torch.tensor([each.label for each in samples]),
            indices=tuple(each.index for each in samples),
            gaps=tuple(gap for each in samples for gap in each.gaps),
        )


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cache", ["ram", "off"])
def test_a_task_without_boxes_runs_through_the_loader(tmp_path, workers, cache):
    manifest = write_set(tmp_path / "set", count=7)
    dataset = Parity(manifest.train, SIZE, seed=3)
    dataset.keep(cache)
    loader = make_loader(dataset, 3, workers=workers, shuffle=True, seed=3, sizes=[(32, 32), (64, 96)])
    loader.set_epoch(1)
    batches = list(loader)
    assert sorted(i for batch in batches for i in batch.indices) == list(range(7)) and len(batches) == len(loader) == 3
    assert {tuple(batch.images.shape[2:]) for batch in batches} <= {(32, 32), (64, 96)}
    for batch in batches:
        assert batch.labels.tolist() == [i % 2 for i in batch.indices]
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    loader.close()


def test_a_task_without_boxes_gets_batches_of_similar_aspect(tmp_path):
    dataset = Parity(write_set(tmp_path / "set", shape=(60, 200)).train, (128, 128))
    batch = next(iter(make_loader(dataset, 6, workers=0, rect=32)))
    assert batch.images.shape == (6, 3, 64, 128)


@pytest.mark.parametrize(("unreadable", "left"), [("drop", 205), ("replace", 206)])
def test_a_task_without_boxes_loses_unreadable_images_as_boxes_do(tmp_path, unreadable, left):
    manifest = write_set(tmp_path / "set", count=206, shape=(8, 8), rectangle=(2, 2, 6, 6))
    (tmp_path / "set/images/4.png").write_bytes(b"no picture")
    loader = make_loader(Parity(manifest.train, (8, 8), unreadable=unreadable), 5, workers=0)
    seen = [i for batch in loader for i in batch.indices]
    assert len(seen) == left and 4 not in seen and set(loader.gaps) == {4}


def test_record_round_trip_with_its_task(tmp_path):
    for number, task in enumerate((DetectionTask(), DIGITS)):
        folder = tmp_path / str(number)
        folder.mkdir()
        record = start_record(folder, script="train", args={}, task=task)
        assert read_record(folder) == record and record.task == TaskFacts.of(task)
        done = finish_record(record, metrics={task.headline: 0.5})
        assert read_record(folder).task == done.task == TaskFacts.of(task)


def test_record_without_a_task_is_written_and_read_as_before(tmp_path):
    start_record(tmp_path, script="train", args={})
    assert "task" not in json.loads((tmp_path / "record.json").read_text())
    assert read_record(tmp_path).task is None


def test_record_of_a_later_version_is_read_and_a_broken_one_is_named(tmp_path):
    start_record(tmp_path, script="train", args={}, task=DIGITS)
    path = tmp_path / "record.json"
    content = json.loads(path.read_text())
    content["task"] |= {"unit": "images"}
    content["task"]["columns"][0] |= {"colour": "red"}
    path.write_text(json.dumps(content))
    assert read_record(tmp_path).task == DIGITS
    del content["task"]["columns"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"record\.json: not a run record"):
        read_record(tmp_path)


def test_tables_speak_the_tasks_words():
    before, after = {"top1": 0.9, "bits": 3.0, "params": 1000}, {"top1": 0.88, "bits": 1.5, "params": 500}
    table = comparison_table("cut", {"before": before, "after": after}, DIGITS).splitlines()
    assert [word in table[3] for word in ("top-1", "0.9000", "-2.0 pt")] == [True] * 3
    assert [word in table[4] for word in ("bits", "3.00", "-50.0 %")] == [True] * 3
    stages = stage_table({"float": before, "pruned": after}, DIGITS).splitlines()
    assert "top-1" in stages[1] and "bits" not in stages[1] and "mAP" not in stages[1] and "-2.0 pt" in stages[4]


def test_curves_of_another_task_are_drawn(tmp_path):
    rows = [{"epoch": e, "total": 1 / e, "entropy": 1 / e, "top1": e / 9, "bits": 9.0 - e} for e in range(1, 8)]
    drawn = plot_results(tmp_path / "results.png", rows, "run", DIGITS.columns)
    assert drawn.stat().st_size > 10_000


def stages_of(folder, *, task):
    folder.mkdir()
    row = {"top1": 0.9, "bits": 3.0, "params": 1000, "bytes": 4000}
    record = start_record(folder, script="compress", args={}, task=task)
    return finish_record(record, metrics={"stages": {"baseline": row, "spiking": row | {"top1": 0.8}}})


def test_a_report_speaks_the_tasks_words(tmp_path):
    stages_of(tmp_path / "run", task=DIGITS)
    write_rows(
        tmp_path / "run/epochs.csv", [{"stage": "baseline", "epoch": 1, "total": 2.0, "entropy": 1.5, "top1": 0.4}]
    )
    write_rows(tmp_path / "run/confused.csv", [{"class": "seven", "images": 3, "baseline": 0.75, "spiking": 0.5}])
    text = render(load(tmp_path / "run"))
    assert "top-1 went from 0.900 to 0.800" in text and "Share right of each class" in text
    assert "baseline, class seven: 0.75" in text and "entropy: 1.5 at the end" in text
    assert "Predictions side by side are left out: this run has no pictures in predictions/" in text
    assert "mAP" not in text and "recall" not in text


def test_a_report_of_a_record_without_a_task_takes_the_one_handed_in_or_the_numbers_names(tmp_path):
    stages_of(tmp_path / "run", task=None)
    assert "top-1 went from 0.900 to 0.800" in render(load(tmp_path / "run", DIGITS))
    assert "top1 went from 0.900 to 0.800" in render(load(tmp_path / "run"))


def test_facts_are_those_of_the_task_and_of_themselves():
    facts = TaskFacts.of(DetectionTask())
    assert TaskFacts.of(facts) == facts and TaskFacts.read(json.loads(json.dumps(dataclasses.asdict(facts)))) == facts
    assert [column.name for column in facts.main] == ["map50", "map"] and facts.score.heading == "mAP@.5"


def test_cfg_says_which_task_it_is():
    head = (
        "[convolutional]\nfilters=14\nsize=1\nactivation=linear\n[yolo]\nmask=0,1\nanchors=1,1,2,2\nclasses=2\nnum=2\n"
    )
    net = "[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters=4\nsize=3\npad=1\nactivation=relu\n"
    assert task_name(parse_cfg(net + head)) == DetectionTask.name
    with pytest.raises(InputError, match=r"a\.cfg: no output section, so nothing says"):
        task_name(parse_cfg(net), "a.cfg")


def test_an_image_that_fits_is_shown_as_it_is(tmp_path):
    dataset = Parity(write_set(tmp_path / "set", count=4).train, (60, 100))
    image = dataset[2].image.permute(1, 2, 0).numpy()
    assert (
        image.shape == (60, 100, 3)
        and (image[20, 30] == 255).all()
        and np.abs(image[2, 2].astype(int) - 114).max() <= 1
    )
