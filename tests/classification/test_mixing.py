"""Two images in one: what the picture is, what its classes are, what its loss is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.classification.test_data import write_set
from tests.classification.test_scripts import CFG, run
from utils.classification.dataset import ClassAugment, ClassDataset, mixed
from utils.classification.open_data import open_data
from utils.darknet.cfg import parse_cfg
from utils.darknet.network import load_checkpoint
from utils.data.dataset import SampleRequest
from utils.detection.task import DetectionTask
from utils.errors import InputError
from utils.segmentation.task import SegmentationTask
from utils.tasks import check_idle, task_of

STILL = {"flip": 0.0, "shift": 0.0, "least": 1.0}
BLACK, WHITE = np.zeros((12, 20, 3), np.uint8), np.full((12, 20, 3), 240, np.uint8)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_share_of_a_class_is_its_share_of_the_picture(kind):
    shares = []
    for seed in range(300):
        image, share = mixed(WHITE, BLACK, ClassAugment(**{kind: 1.0}), np.random.default_rng(seed))
        assert image.mean() / 240 == pytest.approx(share, abs=3e-3)
        if kind == "cutmix":
            assert set(np.unique(image)) <= {0, 240}
        shares.append(share)
    assert min(shares) < 0.1 and max(shares) > 0.9
    if kind == "mixup":
        assert np.mean(shares) == pytest.approx(0.5, abs=0.05)  # Beta(1, 1) is uniform


def test_both_take_turns_by_chance():
    strength = ClassAugment(mixup=1.0, cutmix=1.0)
    grey = [len(np.unique(mixed(WHITE, BLACK, strength, np.random.default_rng(n))[0])) == 1 for n in range(200)]
    assert 60 < sum(grey) < 140


def test_a_mixed_sample_is_of_its_two_images_and_the_same_each_time(tmp_path):
    manifest = open_data(write_set(tmp_path / "set"))
    data, again = (
        ClassDataset(manifest.train, manifest, (12, 12), augment=ClassAugment(**STILL, mixup=1.0), seed=2)
        for _ in range(2)
    )
    seen = set()
    for i in range(12):
        sample = data[SampleRequest(i, 3)]
        assert torch.equal(sample.image, again[SampleRequest(i, 3)].image)
        low, high = (40 + 60 * label for label in (sample.label, sample.other))
        wanted = sample.share * low + (1 - sample.share) * high
        assert float(sample.image.float().mean()) == pytest.approx(wanted, abs=4)
        seen.add(sample.other)
    assert seen == {0, 1, 2}
    batch = data.collate([data[i] for i in range(3)])
    assert batch.others.dtype == torch.int64 and (batch.shares < 1).any()


def test_the_loss_of_a_mixed_image_is_that_of_both_classes_by_their_shares(tmp_path):
    manifest = open_data(write_set(tmp_path / "set"))
    data = ClassDataset(manifest.train, manifest, (12, 12), augment=ClassAugment(**STILL, cutmix=1.0))
    batch = data.collate([data[i] for i in range(8)])
    scores = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    spec = parse_cfg(CFG)
    smooth = torch.full((8, 3), 0.1 / 3)
    soft = smooth + 0.9 * (
        batch.shares[:, None] * F.one_hot(batch.labels, 3) + (1 - batch.shares[:, None]) * F.one_hot(batch.others, 3)
    )
    wanted = -(soft * scores.log_softmax(1)).sum(1).mean()
    found = task_of(spec).loss(spec)([scores[:, :, None, None]], batch)["total"]
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


def test_flags_mix_and_smooth_and_the_network_remembers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "set", size=32)
    (tmp_path / "net.cfg").write_text(CFG)
    run(*"train --cfg net.cfg --data set --epochs 1 --workers 0 --mixup 0.2 --cutmix 1 --label-smoothing 0.25".split())
    spec = load_checkpoint(next((tmp_path / "weights").glob("last*.pt"))).network.spec
    assert [value for key, value in spec.net if key == "label_smooth_eps"] == ["0.25"]


@pytest.mark.parametrize("task", [DetectionTask(), SegmentationTask()], ids=lambda task: task.name)
@pytest.mark.parametrize("name", ["mixup", "cutmix", "label_smoothing"])
def test_tasks_of_many_classes_a_picture_refuse_to_mix(task, name):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')}: cannot act in {task.name}"):
        check_idle(task, (name,))
