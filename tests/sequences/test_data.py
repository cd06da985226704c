"""What --data may name for sequences, and how pictures and sums become sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sequences.nets import as_idx, net, write_idx_set
from utils.data.event_frames import FrameRule
from utils.data.idx import read_idx
from utils.data.loader import make_loader
from utils.errors import InputError
from utils.sequences import open_data as sets
from utils.sequences.dataset import SequenceDataset
from utils.sequences.task import SequenceTask

PICTURES = "order={}\n"


def dataset(place, order: str = "", *, split: str = "train", seed: int = 0, **network) -> SequenceDataset:
    """The sequences of a set as the loader has them."""
    spec = net("ltc", end=PICTURES.format(order), **network) if order else net("ltc", **network)
    task = SequenceTask.of(spec)
    manifest = task.open_data(place)
    part = manifest.train if split == "train" else manifest.valid
    return task.dataset(manifest, part, (1, 1), frames=FrameRule(spec.timesteps), channels=spec.channels, seed=seed)


def test_the_adding_task_is_the_sum_of_one_marked_value_of_each_half():
    found = dataset("adding", steps=11)
    for n in range(200):
        values, marks = found[n].values.T
        assert values.min() >= 0 and values.max() < 1
        where = marks.nonzero().flatten().tolist()
        assert len(where) == 2 and where[0] < 5 <= where[1]
        assert found[n].truth == pytest.approx(float(values[where].sum()))
    truths = torch.tensor([found[n].truth for n in range(2000)])
    assert float(truths.var()) == pytest.approx(2 / 12, rel=0.1) and float(truths.mean()) == pytest.approx(1, abs=0.03)


def test_sums_to_train_on_are_others_each_epoch_and_seed_and_those_to_measure_on_never():
    first, again, other = dataset("adding"), dataset("adding"), dataset("adding", seed=1)
    assert torch.equal(first[3].values, again[3].values) and not torch.equal(first[3].values, other[3].values)
    again.set_epoch(1)
    assert not torch.equal(first[3].values, again[3].values)
    kept, same = dataset("adding", split="valid"), dataset("adding", split="valid", seed=7)
    same.set_epoch(5)
    assert torch.equal(kept[3].values, same[3].values) and not torch.equal(kept[3].values, first[3].values)
    assert (len(first), len(kept)) == (sets.TRAINED_ON, sets.VALIDATED_ON)


def test_no_seed_and_no_epoch_trains_on_a_sum_that_is_measured():
    """A seed's words of 32 bits are one row with those of epoch and index: 2^32 + 1 is 1, 1, as seed 1 in epoch 1."""
    held = dataset("adding", split="valid")
    measured = {held[n].values.numpy().tobytes() for n in range(50)}
    assert len(measured) == 50
    for seed in (*range(4), 2**31, 2**32 + 1):
        found = dataset("adding", seed=seed)
        for epoch in range(4):
            found.set_epoch(epoch)
            assert not measured & {found[n].values.numpy().tobytes() for n in range(50)}, (seed, epoch)


def test_sums_may_be_measured_at_another_length_and_not_trained_on():
    assert dataset("adding:12", split="valid")[0].values.shape == (12, 2)
    with pytest.raises(InputError, match="--data adding:12: a network is trained on as many steps as its cfg says, 10"):
        dataset("adding:12")


def test_pictures_become_pixels_rows_and_one_permutation_of_the_pixels(tmp_path):
    place = write_idx_set(tmp_path / "idx")
    images = read_idx(place / "t10k-images-idx3-ubyte", 3)
    rows = dataset(place, "rows", split="valid", steps=4, channels=4)
    pixels = dataset(place, "pixels", split="valid", steps=16, channels=1)
    mixed = dataset(place, "permuted", split="valid", steps=16, channels=1)
    train = dataset(place, "permuted", steps=16, channels=1)
    for n in range(6):
        assert (rows[n].values * 255).round().numpy().tolist() == images[n].tolist()
        assert (pixels[n].values * 255).round().flatten().tolist() == images[n].flatten().tolist()
        assert rows[n].truth == n % 3
    order = [int(np.flatnonzero((column == images.reshape(6, -1).T).all(1))[0])
             for column in (mixed.pixels.numpy()[:, :, 0].T)]  # fmt: skip
    assert sorted(order) == list(range(16)) and order != list(range(16)), "all of them, and in another order"
    plain = dataset(place, "pixels", steps=16, channels=1)
    assert torch.equal(train.pixels, plain.pixels[:, order]), "the same order for every picture of both splits"


def test_batches_are_frames_of_one_px_with_their_truth(tmp_path):
    found = dataset(write_idx_set(tmp_path / "idx"), "rows", steps=4, channels=4)
    batch = next(iter(make_loader(found, 5, workers=0)))
    assert batch.images.shape == (5, 4, 4, 1, 1) and batch.images.dtype == torch.float32
    assert batch.truth.tolist() == [0, 1, 2, 0, 1] and batch.truth.dtype == torch.int64
    part = batch.between(1, 3).between(1, 2)
    assert torch.equal(part.images, batch.images[:, 2:3]) and (part.begin, part.whole) == (2, 4)


def test_digits_of_both_splits_are_the_wheels_and_of_all_classes_in_turn(monkeypatch):
    images = np.arange(50, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    monkeypatch.setattr(sets, "read_digits", lambda folder: (images, np.arange(50, dtype=np.uint8) // 5))
    train, valid = (sets._digits(part) for part in ("train", "valid"))
    assert valid.labels.tolist() == list(range(10)) and train.labels.tolist() == list(range(10)) * 4
    both = [*train.images[:, 0, 0].tolist(), *valid.images[:, 0, 0].tolist()]
    assert sorted(both) == list(range(50)) and (train.images[:, 0, 0] // 5 == train.labels).all()


def test_the_packaged_fashion_set_has_its_names(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "DEBIAN", write_idx_set(tmp_path / "fashion-mnist"))
    assert sets.open_data("fashion-mnist").names == ("0", "1", "2"), "three classes are not its ten"
    labels = tmp_path / "fashion-mnist" / "train-labels-idx1-ubyte"
    (tmp_path / "fashion-mnist" / "train-labels-idx1-ubyte").write_bytes(as_idx(np.arange(10)))
    assert sets.open_data("fashion-mnist").names[9] == "Ankle boot" and labels.exists()


@pytest.mark.parametrize(
    ("content", "axes", "message"),
    [
        (as_idx(np.zeros((2, 3, 3))), 1, "has 3 axes, not 1; images have 3 and labels 1"),
        (as_idx(np.zeros((2, 3, 3)))[:-1], 3, "17 values, 18 are announced; fetch it again"),
        (as_idx(np.zeros((2, 3, 3))) + bytes(9), 3, "19 or more values, 18 are announced"),
        (as_idx(np.zeros((2, 3, 3)))[:4] + b"\x7f\xff\xff\xff" * 3, 3, "memory: announces over 1,000,000,000 GB"),
        (b"\0\0\x0d\x01" + bytes(8), 1, "does not begin as an IDX file of bytes"),
        (b"\0", 1, "does not begin as an IDX file of bytes"),
        (None, 1, "no such file; give one of MNIST's layout"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, content, axes, message):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_idx(path, axes)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("adding:many", "many is no number of steps; adding:200 has 200"),
        ("adding:1", "1 is no number of steps"),
        ("digits:3", "digits takes no :3"),
        ("nowhere", "nowhere is no folder; give adding, adding:STEPS, digits, fashion-mnist or a folder of IDX"),
        (".", "no train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz; put MNIST's four files there"),
    ],
)
def test_a_set_that_is_not_there_is_refused(tmp_path, monkeypatch, place, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        sets.open_data(place)


def test_sequences_that_are_not_the_networks_are_refused_with_the_keys_to_set(tmp_path):
    place = write_idx_set(tmp_path / "idx")
    with pytest.raises(
        InputError, match=r"16 steps of 1 values, 4x4 px as order=pixels, the network takes 4 of 4; set"
    ):
        dataset(place, "pixels", steps=4, channels=4)
    with pytest.raises(InputError, match="the network predicts a value, which these sequences have not"):
        dataset(place)
    Path(place / "t10k-labels-idx1-ubyte").write_bytes(as_idx(np.zeros(5)))
    sets.pictures_of.cache_clear()
    with pytest.raises(InputError, match="6 images and 5 labels of t10k-"):
        dataset(place, "rows", split="valid", steps=4, channels=4)
