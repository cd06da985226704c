"""The integer network in plain numpy int64, written from the definition and sharing no code with the executors."""

from __future__ import annotations

import numpy as np

from utils.darknet import spec as s
from utils.quantization.integer import IntConv, IntegerNetwork, IntGate, IntPool, IntShortcut, Requantiser


def run(network: IntegerNetwork, pixels: np.ndarray) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Pixels int64 [N,C,H,W] -> levels of every edge, accumulators of every convolution."""
    levels = {-1: pixels.astype(np.int64)}
    accumulators: dict[int, np.ndarray] = {}
    for i, layer in enumerate(network.spec.layers):
        if isinstance(layer, s.Output):
            continue
        given = [levels[j] for j in layer.sources]
        op = network.ops.get(i)
        if isinstance(op, IntConv):
            assert isinstance(layer, s.Conv)
            accumulators[i] = convolve(layer, op.weight.numpy(), op.bias.numpy(), given[0])
            if op.requantiser is not None:
                levels[i] = activate(requantise(accumulators[i], op.requantiser), op)
        elif isinstance(op, IntShortcut):
            total = sum(
                n * gain[:, None, None] for n, gain in zip(given, op.gains.numpy().astype(np.int64), strict=True)
            )
            levels[i] = activate(requantise(total, op.requantiser), op)
        elif isinstance(op, IntGate):
            levels[i] = activate(requantise(given[0] * given[1], op.requantiser), op)
        elif isinstance(op, IntPool):
            assert given[0].shape[2] * given[0].shape[3] == op.count
            levels[i] = requantise(given[0].sum((2, 3), keepdims=True), op.requantiser)
        else:
            levels[i] = _move(layer, given, network.grids[i].qmin)
    return levels, accumulators


def convolve(layer: s.Conv, weight: np.ndarray, bias: np.ndarray, n: np.ndarray) -> np.ndarray:
    weight, bias = weight.astype(np.int64), bias.astype(np.int64)
    p, d, k = layer.pad, layer.dilation, layer.size
    padded = np.pad(n, ((0, 0), (0, 0), (p, p), (p, p)))
    height = (padded.shape[2] - d * (k - 1) - 1) // layer.stride[0] + 1
    width = (padded.shape[3] - d * (k - 1) - 1) // layer.stride[1] + 1
    acc = np.zeros((len(n), layer.filters, height, width), np.int64) + bias[:, None, None]
    each_in, each_out = weight.shape[1], layer.filters // layer.groups
    for group in range(layer.groups):
        inputs = padded[:, group * each_in : (group + 1) * each_in]
        outputs = slice(group * each_out, (group + 1) * each_out)
        for dy in range(k):
            for dx in range(k):
                rows = slice(dy * d, dy * d + height * layer.stride[0], layer.stride[0])
                columns = slice(dx * d, dx * d + width * layer.stride[1], layer.stride[1])
                tap = inputs[:, :, rows, columns][:, :, :height, :width]
                acc[:, outputs] += np.einsum("oc,nchw->nohw", weight[outputs, :, dy, dx], tap)
    return acc


def activate(level: np.ndarray, op: IntConv | IntShortcut | IntGate) -> np.ndarray:
    """Each level's entry of the table, looked up one after the other."""
    if op.table is None:
        return level
    table, qmin = op.table.tolist(), op.requantiser.qmin
    return np.array([table[n - qmin] for n in level.ravel().tolist()], np.int64).reshape(level.shape)


def requantise(acc: np.ndarray, by: Requantiser) -> np.ndarray:
    """floor(acc * m / 2^f + 1/2) by floor division, clipped."""
    m, m_neg = (gain.numpy().astype(np.int64)[None, :, None, None] for gain in (by.multiplier, by.multiplier_neg))
    numerator = 2 * acc * np.where(acc < 0, m_neg, m)
    level = (numerator + 2**by.shift) // 2 ** (by.shift + 1) if by.shift >= 0 else numerator * 2**-by.shift // 2
    return np.clip(level, by.qmin, by.qmax)


def _move(layer: s.Layer, given: list[np.ndarray], lowest: int) -> np.ndarray:
    match layer:
        case s.MaxPool():
            before, after = layer.pad // 2, layer.pad - layer.pad // 2
            x = np.pad(given[0], ((0, 0), (0, 0), (before, after), (before, after)), constant_values=lowest)
            windows = np.lib.stride_tricks.sliding_window_view(x, (layer.size, layer.size), (2, 3))
            return windows[:, :, :: layer.stride, :: layer.stride].max((4, 5))
        case s.Reorg():
            return np.stack([_reorg_cpu(x, layer.stride) for x in given[0]])
        case s.Reorg3d():
            k = layer.stride
            return np.concatenate([given[0][:, :, y::k, x::k] for y in range(k) for x in range(k)], 1)
        case s.Upsample() if layer.zeros:
            spread = np.zeros((*given[0].shape[:2], *(side * layer.stride for side in given[0].shape[2:])), np.int64)
            spread[:, :, :: layer.stride, :: layer.stride] = given[0]
            return spread
        case s.Upsample():
            return np.kron(given[0], np.ones((1, 1, layer.stride, layer.stride), np.int64))
        case s.Fitted():
            n, c, h, w = given[0].shape
            side = [edge // layer.stride * layer.spread for edge in (h, w)]
            fitted = np.zeros((n, layer.filters, *side), np.int64)
            for k in range(min(c, layer.filters)):
                for y in range(0, side[0], layer.spread):
                    for x in range(0, side[1], layer.spread):
                        at = (y // layer.spread * layer.stride, x // layer.spread * layer.stride)
                        fitted[:, k, y, x] = given[0][:, k, at[0], at[1]]
            return fitted
        case s.Route():
            return np.concatenate([np.split(x, layer.groups, 1)[layer.group_id] for x in given], 1)
    return given[0]


def _reorg_cpu(x: np.ndarray, stride: int) -> np.ndarray:
    """Darknet's loops over flat memory, one element at a time."""
    c, h, w = x.shape
    flat, out, inner = x.ravel(), np.zeros(x.size, np.int64), c // stride**2
    for k in range(c):
        for j in range(h):
            for i in range(w):
                offset = k // inner
                down, right = j * stride + offset // stride, i * stride + offset % stride
                out[i + w * (j + h * k)] = flat[right + w * stride * (down + h * stride * (k % inner))]
    return out.reshape(c * stride**2, h // stride, w // stride)
