"""Images that are corrupt or vanish while a run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import pipeline.epoch_report
import pipeline.train
import train
from tests.data.conftest import write_set
from tests.scenes import undrawn_runs, write_scenes
from utils.darknet.network import load_checkpoint
from utils.data.dataset import SampleRequest, Unreadable
from utils.data.images import UnreadableImageError
from utils.data.loader import Batch, Loader, make_loader
from utils.data.manifest import Manifest
from utils.detection.augment import Augment
from utils.detection.dataset import DetectionDataset
from utils.errors import InputError

SIZE = (32, 32)
COUNT = 200  # of which two are 1 %
ALONE = Augment(mosaic=0.0)


@pytest.fixture
def many(tmp_path: Path) -> Manifest:
    """Images as different as their numbers."""
    manifest = write_set(tmp_path / "many", count=COUNT, shape=(32, 32), rectangle=(8, 8, 24, 24))
    for i in range(COUNT):
        picture = np.full((32, 32, 3), (i, 255 - i, i // 2), np.uint8)
        picture[8:24, 8:24] = 255
        cv2.imwrite(str(tmp_path / f"many/images/{i}.png"), picture)
    return manifest


def spoil(manifest: Manifest, *numbers: int) -> None:
    """Every second one vanishes, the others are cut."""
    for n, number in enumerate(numbers):
        path = manifest.path.parent / f"images/{number}.png"
        if n % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:40])


@pytest.fixture
def make() -> Iterator[Callable[..., Loader]]:
    """Loaders of a set in a shuffled order; their workers end with the test."""
    made = []

    def build(
        manifest: Manifest, unreadable: Unreadable, *, workers: int = 0, shuffle: bool = True, batch: int = 8, **options
    ) -> Loader:
        given = {"cache": "off", "augment": ALONE, "seed": 5, "unreadable": unreadable, **options}
        dataset = DetectionDataset(manifest.train, manifest, SIZE, **given)
        made.append(make_loader(dataset, batch, workers=workers, shuffle=shuffle, seed=5))
        return made[-1]

    yield build
    for loader in made:
        loader.close()


def epoch(loader, number: int = 0) -> list[Batch]:
    loader.set_epoch(number)
    return list(loader)


def same(a: list[Batch], b: list[Batch]) -> bool:
    return [x.indices for x in a] == [x.indices for x in b] and all(
        torch.equal(x.images, y.images) and torch.equal(x.targets, y.targets) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", ["off", "ram"])
def test_unreadable_images_are_named_once_counted_and_replaced(many, make, caplog, workers, cache):
    spoil(many, 17, 90)
    with caplog.at_level(logging.WARNING):
        loader = make(many, "replace", workers=workers, cache=cache)
        for number in range(2):
            assert sum(len(batch.images) for batch in epoch(loader, number)) == COUNT
    assert set(loader.gaps) == {17, 90}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and {message.split("; skipped, as ")[1] for message in told} == {
        "1 of 200 images so far",
        "2 of 200 images so far",
    }
    assert sum("17.png: a corrupt image" in message for message in told) == 1
    assert sum("90.png: no such image" in message for message in told) == 1


def test_the_other_images_stay_as_they_were_bit_for_bit(many, make):
    before = epoch(make(many, "replace"))
    spoil(many, 17, 90)
    after = epoch(make(many, "replace"))
    changed = 0
    for a, b in zip(before, after, strict=True):
        for i, (old, new) in enumerate(zip(a.indices, b.indices, strict=True)):
            if old in (17, 90):
                changed += 1
                assert new not in (17, 90)
                assert not torch.equal(a.images[i], b.images[i])
            else:
                assert old == new and torch.equal(a.images[i], b.images[i])
    assert changed == 2


@pytest.mark.parametrize("augment", [ALONE, True])
def test_order_and_replacements_are_the_same_in_workers_in_the_cache_and_after_a_restart(many, make, augment):
    spoil(many, 17, 90)
    going_on = make(many, "replace", augment=augment)
    epoch(going_on, 0)
    expected = epoch(going_on, 1)
    for options in ({"workers": 2}, {}):
        assert same(expected, epoch(make(many, "replace", augment=augment, **options), 1))
    # the cache keeps its own copies, scaled once, but of the same images
    cached = epoch(make(many, "replace", augment=augment, cache="ram"), 1)
    assert [batch.indices for batch in cached] == [batch.indices for batch in expected]


def test_image_that_vanishes_between_epochs_is_replaced_from_then_on(many, make):
    loader = make(many, "replace", workers=2)
    assert {i for batch in epoch(loader, 0) for i in batch.indices} == set(range(COUNT)) and not loader.gaps
    spoil(many, 3)
    assert 3 not in {i for batch in epoch(loader, 1) for i in batch.indices} and set(loader.gaps) == {3}


def test_boxes_are_those_of_the_image_that_is_shown(many):
    spoil(many, 17)
    dataset = DetectionDataset(many.train, many, SIZE, cache="off", unreadable="replace")
    sample = dataset[17]
    other = dataset[sample.index]
    assert sample.index != 17 and torch.equal(sample.image, other.image) and torch.equal(sample.boxes, other.boxes)
    assert [number for number, _ in sample.gaps] == [17] and other.gaps == ()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("unreadable", ["replace", "drop"])
def test_more_than_one_per_cent_stops_with_one_line(many, make, unreadable, workers):
    spoil(many, 17, 90, 140)
    loader = make(many, unreadable, workers=workers)
    with pytest.raises(
        InputError, match=r"(17|90|140)\.png: .*; 3 of 200 images can not be read, more than 1%"
    ) as told:
        epoch(loader)
    assert "\n" not in str(told.value)


def test_more_than_one_per_cent_is_known_at_once_when_images_are_cached(many, make):
    spoil(many, 17, 90, 140)
    with pytest.raises(InputError, match="3 of 200 images can not be read, more than 1%"):
        make(many, "replace", cache="ram")


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_drops_what_it_can_not_read_and_shows_nothing_twice(many, make, workers):
    spoil(many, 8, 9)
    loader = make(many, "drop", workers=workers, shuffle=False, batch=2, augment=False)
    batches = list(loader)  # 8 and 9 are a batch: nothing is left of it
    assert [i for batch in batches for i in batch.indices] == [i for i in range(COUNT) if i not in (8, 9)]
    assert len(batches) == COUNT // 2 - 1
    with pytest.raises(UnreadableImageError, match=r"8\.png"):
        loader.dataset[8]


def test_mosaics_are_made_of_readable_images(many, make):
    spoil(many, 17, 90)
    loader = make(many, "replace", augment=Augment(mosaic=1.0))
    for number in range(3):
        assert not {17, 90} & {i for batch in epoch(loader, number) for i in batch.indices}
    assert set(loader.gaps) == {17, 90}


def test_similar_aspects_are_batched_though_a_head_can_not_be_read(many):
    spoil(many, 17, 90)
    dataset = DetectionDataset(many.train, many, SIZE, cache="off", unreadable="replace")
    loader = make_loader(dataset, 8, workers=0, rect=8)
    assert set(loader.gaps) == {17, 90} and sum(len(batch.images) for batch in loader) == COUNT


def test_strict_sets_still_stop_at_the_first(many, make):
    spoil(many, 17)
    with pytest.raises(UnreadableImageError, match=r"17\.png: a corrupt image"):
        DetectionDataset(many.train, many, SIZE, cache="ram")
    with pytest.raises(InputError, match=r"17\.png: a corrupt image"):
        epoch(make(many, "stop", workers=1))


def test_a_set_without_one_readable_image_ends(tmp_path):
    manifest = write_set(tmp_path / "set", count=2)
    spoil(manifest, 0)
    (tmp_path / "set/images/1.png").unlink()
    dataset = DetectionDataset(manifest.train, manifest, SIZE, cache="off", unreadable="replace")
    with pytest.raises(UnreadableImageError):
        dataset[SampleRequest(0)]


def test_run_that_lost_an_image_and_is_resumed_ends_in_the_weights_of_the_unbroken_one(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    write_scenes(tmp_path, train=101, valid=2)
    (tmp_path / "images/train/7.png").unlink()
    words = ["--data", "set.data", "--cfg", "net.cfg", "--epochs", "2", "--batch-size", "16", "--val-interval", "1"]
    words += ["--device", "cpu", "--workers", "0", "--cache", "off"]
    with caplog.at_level(logging.WARNING):
        train.run(train.parser().parse_args([*words, "--name", "whole"]))
    told = [record.getMessage() for record in caplog.records if "7.png" in record.getMessage()]
    assert len(told) == 1 and told[0].endswith(
        "no such image; correct the list of images; skipped, as 1 of 101 images so far"
    )
    validate, calls = pipeline.train.validate, []

    def cut(job):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(job)

    monkeypatch.setattr(pipeline.train, "validate", cut)
    with pytest.raises(KeyboardInterrupt):
        train.run(train.parser().parse_args([*words, "--name", "cut"]))
    monkeypatch.setattr(pipeline.train, "validate", validate)
    train.run(train.parser().parse_args([*words, "--resume"]))
    whole, resumed = (load_checkpoint(f"weights/last_{name}.pt").network.state for name in ("whole", "cut"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
