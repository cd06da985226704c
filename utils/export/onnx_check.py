"""Running exported models beside the golden network, and counting the elements that differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.darknet.onnx_model import exact_session
from utils.darknet.shapes import channels, granularity, sizes
from utils.errors import InputError
from utils.export.onnx_graph import Array, Model, by_qonnx, library
from utils.export.onnx_qdq import as_levels, feeds, qdq_model, tap_names
from utils.quantization.executor import IntegerExecutor, Trace
from utils.quantization.integer import IntConv, IntegerNetwork, IntPool
from utils.quantization.validate import readouts

HEAD_ERROR = 1e-5  # of the largest value of a head's map: what sums in float32 may be off where scales are no shifts
FLOAT32_BITS = 25  # an accumulator of so many bits, sign included, is exact in float32
LARGEST_COMPARISON = 2**29  # bytes: qonnx compares every element with every threshold at once


@dataclass(frozen=True)
class Count:
    """How many of a layer's elements differ, and the largest difference in levels."""

    layer: int
    elements: int
    differing: int
    worst: int


@dataclass(frozen=True)
class HeadCount:
    """A head's map: differing elements, and the largest difference as a share of the map's largest value."""

    layer: int
    elements: int
    differing: int
    worst: float


@dataclass(frozen=True)
class Comparison:
    """What a run found: every layer on equal inputs, then the whole network from the image, then the heads."""

    alone: tuple[Count, ...]
    chained: tuple[Count, ...]
    heads: tuple[HeadCount, ...]

    @property
    def chain_differs(self) -> bool:
        """Whether the heads read other levels than the golden ones."""
        return any(each.differing for each in self.chained)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def session(model: Model | Path, threads: int = 1, *, optimise: bool = True) -> Any:
    """An onnxruntime session on the CPU."""
    ort = library("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return exact_session(str(model) if isinstance(model, Path) else model.SerializeToString(), options)


def run(runner: Any, given: dict[str, Array]) -> dict[str, Array]:
    """Run a session; inputs it does not have are left out."""
    wanted = {each.name: given[each.name] for each in runner.get_inputs()}
    return dict(zip([each.name for each in runner.get_outputs()], runner.run(None, wanted), strict=True))


def compare_qdq(network: IntegerNetwork, images: Tensor, path: Path) -> Comparison:
    """Run the model of a file, and its layers one by one, on golden images [N,C,H,W] of n / 255."""
    executor, size = IntegerExecutor(network), (images.shape[2], images.shape[3])
    trace, golden = executor.trace(images), executor(images)
    given = {"image": images.numpy()} | feeds(network, trace.levels)
    names = tap_names(network)
    runs = (run(session(qdq_model(network, size, taps=True, loose=loose)), given) for loose in (True, False))
    alone, chained = (
        count_levels(network, trace, {name: as_levels(found[name], network.grids[i]) for i, name in names.items()})
        for found in runs
    )
    return Comparison(alone, chained, count_heads(network, golden, run(session(path), given)))


def count_levels(network: IntegerNetwork, trace: Trace, found: dict[str, Array]) -> tuple[Count, ...]:
    """Levels, int64, against the golden ones, layer by layer."""
    counts = []
    for i, name in tap_names(network).items():
        off = np.abs(found[name] - trace.levels[i].numpy())
        counts.append(Count(i, off.size, int((off > 0).sum()), int(off.max(initial=0))))
    return tuple(counts)


def count_heads(network: IntegerNetwork, golden: list[Tensor], found: dict[str, Array]) -> tuple[HeadCount, ...]:
    """Head maps against the golden ones."""
    counts = []
    for i, tensor in zip(readouts(network.spec), golden, strict=True):
        right, off = tensor.numpy(), found[f"layer{i:03d}_map"] != tensor.numpy()
        worst = np.abs(found[f"layer{i:03d}_map"] - right).max() / max(float(np.abs(right).max()), 1e-30)
        counts.append(HeadCount(i, right.size, int(off.sum()), float(worst)))
    return tuple(counts)


def judge(network: IntegerNetwork, found: Comparison, form: str, *, strict: bool) -> None:
    """Hold a comparison to its rule.

    Args:
        network: what was exported.
        found: what was counted.
        form: for messages.
        strict: no element of any layer may differ; else one by ``allowance`` at most, given equal inputs.

    Raises:
        InputError: it does not hold; names the first layer.
    """
    for each in (*found.alone, *found.chained) if strict else found.alone:
        if each.worst > (0 if strict else allowance(network, each.layer)):
            line = network.spec.layers[each.layer].line if each.layer >= 0 else 0
            raise InputError(
                f"layer {each.layer} (cfg line {line}): {each.differing} of {each.elements} levels differ from the "
                f"integer network's, by up to {each.worst}; nothing was written, please report this network ({form})"
            )
    for head in found.heads:
        if (strict and head.worst > 0) or (not strict and not found.chain_differs and head.worst > HEAD_ERROR):
            raise InputError(
                f"layer {head.layer} (cfg line {network.spec.layers[head.layer].line}): the head's map is off by "
                f"{head.worst:.1e} of its largest value; nothing was written, please report this network ({form})"
            )


def allowance(network: IntegerNetwork, i: int) -> int:
    """How far a level may be off: one, or what a table makes of one before it."""
    table = getattr(network.ops.get(i), "table", None)
    return 1 if table is None else max(1, int(table.diff().abs().max()))


def wide_layers(network: IntegerNetwork) -> list[int]:
    """Layers whose worst accumulator passes float32: that they are equal was seen on the images, not proved."""
    return [i for i, op in network.ops.items() if isinstance(op, IntConv) and op.acc_bits > FLOAT32_BITS]


def affordable(network: IntegerNetwork, size: tuple[int, int]) -> tuple[int, int]:
    """The image size qonnx runs in reasonable memory: ``size``, or a crop of it."""
    if any(isinstance(op, IntPool) for op in network.ops.values()):  # made for one size
        return size
    step = granularity(network.spec)
    wide = channels(network.spec)
    while min(size) > step:
        extent = sizes(network.spec, *size)
        steps = {
            i: op.requantiser.qmax - op.requantiser.qmin for i, op in network.ops.items() if op.requantiser is not None
        }
        if max(wide[i] * extent[i][0] * extent[i][1] * n for i, n in steps.items()) <= LARGEST_COMPARISON:
            break
        size = tuple(max(step, side // 2 // step * step) for side in size)  # type: ignore[assignment]
    return size


def compare_quant(network: IntegerNetwork, images: Tensor, model: Model, size: tuple[int, int]) -> Comparison:
    """Run a qonnx model, one image at a time, on the upper left ``size`` of golden images [N,C,H,W] of n / 255."""
    execute = by_qonnx()
    images = images[:, :, : size[0], : size[1]].contiguous()
    executor = IntegerExecutor(network)
    trace, golden = executor.trace(images), executor(images)
    pixels = np.rint(images.numpy() * 255).astype(np.float32)
    try:
        runs = [execute(model, {"image": each[None]}, return_full_exec_context=True) for each in pixels]
    except RuntimeError as error:  # onnxruntime's; versions that do not go together
        reason = str(error).splitlines()[0]
        raise InputError(
            f"qonnx cannot run its model here: {reason}; pip install -r requirements-export.txt"
        ) from error
    names = [*(tap_names(network).values()), *(f"layer{i:03d}_map" for i in readouts(network.spec))]
    names[0] = "image"
    found = {name: np.concatenate([each[name] for each in runs]) for name in names}
    levels = {tap_names(network)[-1]: found.pop("image")} | found
    counts = count_levels(network, trace, {name: np.rint(value).astype(np.int64) for name, value in levels.items()})
    return Comparison((), counts, count_heads(network, golden, found))
