"""DALI behind the loader: told by its absence, and by a stand-in that knows DALI's words and computes what they say."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.classification.test_data import write_set
from utils.classification.dataset import ClassDataset
from utils.classification.open_data import open_data
from utils.data import dali, transforms
from utils.data.loader import RequestSampler
from utils.errors import InputError
from utils.segmentation.dataset import MaskDataset

WORDS = {  # of DALI 2.4's operators, those that are used
    "decoders.image": {"device", "output_type"},
    "slice": {"start", "shape", "axes", "out_of_bounds_policy", "fill_values"},
    "resize": {"size"},
    "flip": {"horizontal"},
    "cast": {"dtype"},
    "external_source": {"name", "dtype", "ndim"},
}


class Pipeline:
    """As nvidia.dali.pipeline.Pipeline: outputs come in the order in which runs were scheduled, no more than its depth."""

    made: list[Pipeline] = []  # noqa: RUF012

    def __init__(self, *, batch_size: int, num_threads: int, device_id: int | None, prefetch_queue_depth: int) -> None:
        assert num_threads > 0 and prefetch_queue_depth == 1  # the first run of a deeper one takes as many feeds
        self.batch_size, self.device_id, self.depth = batch_size, device_id, prefetch_queue_depth
        self.fed: dict[str, list[Any]] = {}
        self.ready: deque[list[np.ndarray]] = deque()
        self.built, self.runs = False, 0
        Pipeline.made.append(self)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None: ...

    def set_outputs(self, node: Any) -> None:
        self.node = node

    def build(self) -> None:
        self.built = True

    def feed_input(self, name: str, values: list[Any]) -> None:
        assert self.built and name not in self.fed and 0 < len(values) <= self.batch_size
        assert all(isinstance(value, np.ndarray) for value in values)
        self.fed[name] = values

    def schedule_run(self) -> None:
        assert len(self.ready) < self.depth, "more is asked for than the queue holds"
        count = {len(values) for values in self.fed.values()}
        assert len(count) == 1
        self.ready.append([self.node(self.fed, k) for k in range(count.pop())])
        self.fed, self.runs = {}, self.runs + 1

    def share_outputs(self) -> tuple[Any]:
        dense = np.stack(self.ready[0])
        tensor = SimpleNamespace(shape=lambda: list(dense.shape), value=dense)
        return (SimpleNamespace(as_tensor=lambda: tensor),)

    def release_outputs(self) -> None:
        self.ready.popleft()


def source(*, name: str, dtype: str, ndim: int) -> Any:
    def value(fed: dict[str, list[Any]], k: int) -> np.ndarray:
        found = fed[name][k]
        assert (found.dtype.name, found.ndim) == (dtype, ndim)
        return found

    return value


def decoded(coded: Any, *, device: str, output_type: str) -> Any:
    assert device == "cpu"
    flag = cv2.IMREAD_COLOR_RGB if output_type == "RGB" else cv2.IMREAD_GRAYSCALE
    return lambda *at: np.atleast_3d(cv2.imdecode(coded(*at), flag))


def cut(
    image: Any, *, start: Any, shape: Any, axes: list[int], out_of_bounds_policy: str = "error", **rest: Any
) -> Any:
    def value(*at: Any) -> np.ndarray:
        x, (y0, x0), (h, w) = image(*at), start(*at).tolist(), shape(*at).tolist()
        assert axes == [0, 1] and (out_of_bounds_policy == "pad" or (y0 >= 0 and y0 + h <= x.shape[0]))
        out = np.full((h, w, x.shape[2]), *rest.get("fill_values", [0]), np.uint8)
        for r, c in itertools.product(range(max(0, -y0), min(h, x.shape[0] - y0)), [slice(max(0, -x0), w)]):
            row = x[y0 + r, max(0, x0) : max(0, x0 + w)]
            out[r, c][: len(row)] = row
        return out

    return value


def stand_in() -> dict[str, Any]:
    operations = {
        "external_source": source,
        "slice": cut,
        "decoders.image": decoded,
        "cast": lambda x, *, dtype: lambda *at: x(*at).astype(dtype),
        "resize": lambda x, *, size: lambda *at: transforms.resize(x(*at), tuple(int(n) for n in size(*at))),
        "flip": lambda x, *, horizontal: lambda *at: x(*at)[:, ::-1] if horizontal(*at) else x(*at),
    }

    def checked(name: str) -> Any:
        def operation(*inputs: Any, **words: Any) -> Any:
            assert set(words) <= WORDS[name], name
            return operations[name](*inputs, **words)

        return operation

    fn, types, pipeline, plugin, torch_plugin, package = (ModuleType(name) for name in "abcdef")
    for name in WORDS:
        setattr(fn, name, checked(name))
    fn.decoders = SimpleNamespace(image=checked("decoders.image"))  # type: ignore[attr-defined]
    types.__dict__.update(UINT8="uint8", INT32="int32", FLOAT="float32", RGB="RGB", GRAY="GRAY")
    pipeline.Pipeline = Pipeline  # type: ignore[attr-defined]
    torch_plugin.feed_ndarray = lambda dense, into: into.copy_(torch.from_numpy(dense.value))  # type: ignore[attr-defined]
    plugin.pytorch = torch_plugin  # type: ignore[attr-defined]
    package.__dict__.update(fn=fn, types=types, pipeline=pipeline, plugin=plugin)
    nvidia = ModuleType("nvidia")
    nvidia.__path__ = package.__path__ = plugin.__path__ = []  # type: ignore[attr-defined]
    parts = {"fn": fn, "types": types, "pipeline": pipeline, "plugin": plugin, "plugin.pytorch": torch_plugin}
    return {"nvidia": nvidia, "nvidia.dali": package, **{f"nvidia.dali.{name}": part for name, part in parts.items()}}


@pytest.fixture
def installed(monkeypatch):
    for name, module in stand_in().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Pipeline, "made", [])


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)


def loader_of(dataset: Any, batch: int = 3) -> dali.DaliLoader[Any]:
    requests = RequestSampler(dataset, batch, shuffle=True, seed=5)
    return dali.DaliLoader(dataset, requests, torch.device("cpu"))


@pytest.mark.parametrize(("side", "size"), [(40, (32, 32)), (90, (80, 96)), (90, (32, 48))])
@pytest.mark.parametrize("channels", [3, 1])
def test_its_batches_are_those_of_torchs_loader(installed, tmp_path, side, size, channels):
    manifest = open_data(write_set(tmp_path, size=side))
    dataset = ClassDataset(manifest.train, manifest, size, augment=True, cache="off", seed=2, channels=channels)
    loader = loader_of(dataset)
    for epoch in range(3):
        loader.set_epoch(epoch)
        requests = list(loader._requests)
        batches = list(loader)
        assert len(batches) == len(loader)
        for asked, batch in zip(requests, batches, strict=True):
            wanted = dataset.collate([dataset[request] for request in asked])
            assert torch.equal(batch.images, wanted.images) and torch.equal(batch.labels, wanted.labels)
            assert batch.indices == wanted.indices and batch.images.is_contiguous(memory_format=torch.channels_last)


def test_its_pipeline_is_made_at_the_first_batch_and_once(installed, tmp_path):
    manifest = open_data(write_set(tmp_path, size=40))
    loader = loader_of(ClassDataset(manifest.train, manifest, (32, 32), augment=True, cache="off"), 2)
    assert not Pipeline.made
    first = next(iter(loader))  # and stops: what was begun must not be the next epoch's first batch
    again = next(iter(loader))
    assert len(Pipeline.made) == 1 and torch.equal(first.images, again.images)
    assert (Pipeline.made[0].device_id, Pipeline.made[0].batch_size, len(Pipeline.made[0].ready)) == (None, 2, 0)
    loader.close()
    list(loader)
    assert len(Pipeline.made) == 2


def test_where_it_is_not_installed_the_flag_is_refused_with_what_to_install(absent, tmp_path):
    manifest = open_data(write_set(tmp_path, size=40))
    with pytest.raises(InputError, match=r"--loader dali: no NVIDIA DALI \(.*nvidia.dali.*\); pip install nvidia-dali"):
        loader_of(ClassDataset(manifest.train, manifest, (32, 32)))


def test_labels_that_move_with_the_image_are_refused(installed, tmp_path):
    masks = MaskDataset.__new__(MaskDataset)
    with pytest.raises(InputError, match="--loader dali: makes the images of classes alone"):
        dali.DaliLoader(masks, SimpleNamespace(batch_size=1), torch.device("cpu"))  # type: ignore[arg-type]


def test_an_image_that_cannot_be_decoded_is_one_of_those_that_are_named(installed, tmp_path, monkeypatch):
    manifest = open_data(write_set(tmp_path, size=40))
    loader = loader_of(ClassDataset(manifest.train, manifest, (32, 32), cache="off"), 2)

    def fail(self: Pipeline) -> None:
        raise RuntimeError("Critical error in pipeline:\nunrecognised image")

    monkeypatch.setattr(Pipeline, "share_outputs", fail)
    with pytest.raises(InputError, match=r"cannot decode one of .*\.png, .*\.png \(unrecognised image\); use --loader"):
        list(loader)
