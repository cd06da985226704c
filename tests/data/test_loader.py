from __future__ import annotations

import gc
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.data.conftest import write_set
from utils.data.batch_sizes import rect_batches, scales
from utils.data.dataset import SampleRequest
from utils.data.loader import default_workers, make_loader
from utils.detection.augment import Augment
from utils.detection.dataset import DetectionDataset
from utils.errors import InputError

SIZE = (64, 64)


def test_worker_shows_the_epoch_that_was_set(tiny):
    """A persistent worker holds a copy of the dataset; epoch 3 must reach it."""
    dataset = DetectionDataset(tiny.train, tiny, SIZE, augment=True, seed=1)
    kept = make_loader(dataset, 4, workers=1, shuffle=True, seed=1)
    for epoch in range(3):
        kept.set_epoch(epoch)
        list(kept)
    fresh_data = DetectionDataset(tiny.train, tiny, SIZE, augment=True, seed=1, cache="off")
    fresh = make_loader(fresh_data, 4, workers=0, shuffle=True, seed=1)
    for loader in (kept, fresh):
        loader.set_epoch(3)
    for a, b in zip(kept, fresh, strict=True):
        assert a.indices == b.indices
        assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)
        for image, index in zip(a.images, a.indices, strict=True):
            assert torch.equal(image, fresh_data[SampleRequest(index, epoch=3)].image)


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_numbers_alone_that_dropout_draws(tiny, workers):
    """A resumed run starts its workers later than an unbroken one; that must not show in anything random."""
    loader = make_loader(DetectionDataset(tiny.train, tiny, SIZE), 4, workers=workers, shuffle=True)
    before = torch.get_rng_state()
    list(loader), list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_mosaic_closed_reaches_the_worker(tiny):
    dataset = DetectionDataset(tiny.train, tiny, SIZE, augment=replace(Augment.off(), mosaic=1.0))
    loader = make_loader(dataset, 6, workers=1)
    mixed = next(iter(loader)).images.clone()
    loader.set_epoch(0, mosaic=False)
    plain = next(iter(make_loader(DetectionDataset(tiny.train, tiny, SIZE), 6, workers=0)))
    closed = next(iter(loader))
    assert torch.equal(closed.images, plain.images) and torch.equal(closed.targets, plain.targets)
    assert not torch.equal(mixed, plain.images)


@pytest.mark.parametrize("workers", [0, 1])
def test_batch_holds_its_samples_channels_last(tiny, workers):
    dataset = DetectionDataset(tiny.train, tiny, SIZE)
    batches = list(make_loader(dataset, 4, workers=workers))
    assert [len(b.images) for b in batches] == [4, 2] and [b.indices for b in batches] == [(0, 1, 2, 3), (4, 5)]
    assert batches[0].images.dtype == torch.uint8
    assert batches[0].images.is_contiguous(memory_format=torch.channels_last)
    for i, index in enumerate(batches[1].indices):
        assert torch.equal(batches[1].images[i], dataset[index].image)
        rows = batches[1].targets[batches[1].targets[:, 0] == i]
        assert torch.equal(rows[:, 1:], dataset[index].boxes)
        assert batches[1].letterboxes[i] == dataset[index].letterbox


def test_epochs_have_each_image_once_in_another_order(tiny):
    loader = make_loader(DetectionDataset(tiny.train, tiny, SIZE), 4, workers=0, shuffle=True, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        orders.append([i for batch in loader for i in batch.indices])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(6))
    assert orders[0] == orders[2] != orders[1]


def test_images_without_objects_make_no_targets(tiny):
    for path in (tiny.path.parent / "labels").glob("[1-5].txt"):
        path.write_text("")
    batch = next(iter(make_loader(DetectionDataset(tiny.train, tiny, SIZE), 6, workers=0)))
    assert batch.targets.shape == (1, 6) and len(batch.images) == 6


def test_multi_scale_sizes_depend_on_seed_and_epoch(tiny):
    sizes = scales(SIZE, 32)
    assert sizes == [(64, 64), (96, 96)]
    dataset = DetectionDataset(tiny.train, tiny, SIZE, augment=True)
    shapes = []
    for _ in range(2):
        loader = make_loader(dataset, 1, workers=0, sizes=sizes, seed=5)
        loader.set_epoch(1)
        shapes.append([tuple(batch.images.shape[2:]) for batch in loader])
    assert shapes[0] == shapes[1] and set(shapes[0]) == set(sizes)


def test_scales_are_multiples_of_the_stride_and_keep_the_aspect():
    assert scales((320, 320), 32) == [(n, n) for n in range(224, 481, 32)]
    assert all(h % 32 == 0 and w % 32 == 0 and abs(w / h - 1.5) < 0.2 for h, w in scales((320, 480), 32))


def test_rect_batches_are_multiples_of_the_stride_that_hold_every_image():
    rng = np.random.default_rng(0)
    shapes = [(int(h), int(w)) for h, w in rng.integers(80, 800, (50, 2))]
    batches = rect_batches(shapes, (320, 320), 8, 32)
    assert Counter(i for indices, _ in batches for i in indices) == Counter(range(50))
    for indices, (height, width) in batches:
        assert height % 32 == 0 and width % 32 == 0 and max(height, width) <= 320
        for i in indices:
            factor = 320 / max(shapes[i])
            assert shapes[i][0] * factor <= height + 0.5 and shapes[i][1] * factor <= width + 0.5
    assert sum(h * w * len(i) for i, (h, w) in batches) < 0.85 * 50 * 320 * 320


def test_rect_loader_shows_every_image_at_its_usual_scale(tmp_path):
    manifest = write_set(tmp_path / "wide", shape=(60, 200), rectangle=(20, 12, 70, 42))
    dataset = DetectionDataset(manifest.train, manifest, (128, 128))
    batch = next(iter(make_loader(dataset, 6, workers=0, rect=32)))
    assert batch.images.shape == (6, 3, 64, 128)
    assert batch.letterboxes[0].scaled == dataset[0].letterbox.scaled
    corners = batch.letterboxes[0].to_network(np.array([[20, 12, 70, 42]]))[0] / (128, 64, 128, 64)
    _, _, cx, cy, w, h = batch.targets[0].tolist()
    np.testing.assert_allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], corners, atol=0.01)


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_image_in_a_worker_is_one_line(tiny, workers):
    (tiny.path.parent / "images/4.png").write_bytes(b"no picture")
    loader = make_loader(DetectionDataset(tiny.train, tiny, SIZE, cache="off"), 4, workers=workers)
    with pytest.raises(InputError, match=r"4.png: a corrupt image") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_two_cores_get_one_worker_and_processes_share_them(monkeypatch):
    for cores, beside, workers in ((1, 1, 1), (2, 1, 1), (8, 1, 4), (64, 1, 16), (64, 8, 4), (4, 8, 1)):
        monkeypatch.setattr("utils.data.loader.cores", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(beside))
        assert default_workers() == workers


def test_a_closed_loader_has_no_workers_and_starts_again(tiny):
    loader = make_loader(DetectionDataset(tiny.train, tiny, SIZE, cache="off"), 4, workers=1)
    first = [batch.indices for batch in loader]
    worker = loader._inner._iterator._workers[0]
    assert worker.is_alive()
    loader.close()
    assert not worker.is_alive()
    assert [list(a) for a in first] == [list(batch.indices) for batch in loader]
    loader.close()


class _Garbage:
    """In a cycle with itself, so that only the collector ends it; it leaves a file for each process that does."""

    def __init__(self, folder):
        self.me, self.folder = self, folder

    def __del__(self):
        (self.folder / str(os.getpid())).touch()


def test_a_worker_leaves_the_garbage_of_the_run_alone(tiny, tmp_path):
    # onnxruntime's sessions join their threads when they end; in a forked worker, which has none of them, that crashed
    class Collecting(DetectionDataset):
        def __getitem__(self, request):
            gc.collect()
            return super().__getitem__(request)

    left = tmp_path / "left"
    left.mkdir()
    loader = make_loader(Collecting(tiny.train, tiny, SIZE), 2, workers=1)
    gc.disable()  # here; the worker collects by itself
    try:
        _Garbage(left)
        assert len(list(loader)) == len(loader)
        loader.close()
        assert list(left.iterdir()) == []
    finally:
        gc.enable()
    gc.collect()
    assert [file.name for file in left.iterdir()] == [str(os.getpid())]
