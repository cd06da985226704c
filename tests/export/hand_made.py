"""An integer network of every operation there is, its numbers made by hand: as wild as the definitions allow."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.quantization.random_nets import cfg_text
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg
from utils.darknet.shapes import channels
from utils.quantization.activation_qparams import QParams
from utils.quantization.exact_conv import accumulator_bounds
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp, IntGate, IntPool, IntShortcut, Requantiser
from utils.quantization.scheme import Scheme

SECTIONS = (
    ("convolutional", {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "mish"}),
    ("reorg", {"stride": 2}),
    ("convolutional", {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "leaky"}),
    ("avgpool", {}),
    ("convolutional", {"filters": 8, "size": 1, "stride": 1, "pad": 1, "activation": "hard_sigmoid"}),
    ("scale_channels", {"from": -3, "activation": "swish"}),
    ("shortcut", {"from": -4, "activation": "mish", "weights_type": "per_channel", "weights_normalization": "softmax"}),
    ("shortcut", {"from": "-2,-5", "activation": "leaky", "weights_type": "per_feature"}),
)
SIGNED, UNSIGNED = QParams(0.5, -128, 127), QParams(0.5, 0, 200)
GRIDS = {-1: QParams(1 / 255, 0, 255), 0: UNSIGNED, 1: UNSIGNED, 2: SIGNED, 3: SIGNED, 4: UNSIGNED} | dict.fromkeys(
    range(5, 8), SIGNED
)


class _Maker:
    """Random integers of each operation."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=self.generator).to(torch.int32)

    def requantiser(self, count: int, bound: int, qmin: int, qmax: int, *, bent: bool = False) -> Requantiser:
        """Gains that take a quarter of ``bound`` to ``hi``, so that some levels clip and some do not."""
        m = self.integers(2**14, 2**16 - 1, count)
        m_neg = m // 7 if bent else m
        return Requantiser(
            multiplier=m,
            multiplier_neg=m_neg,
            shift=(bound * 2**15 // (4 * qmax)).bit_length() - 1,
            qmin=qmin,
            qmax=qmax,
        )

    def table(self, qmin: int, qmax: int, target: QParams) -> Tensor:
        """No function that anybody would use: every entry matters."""
        return self.integers(target.qmin, target.qmax, qmax - qmin + 1)


def hand_made(seed: int = 0) -> IntegerNetwork:
    """A table behind a convolution, a sum and a gate; a reorg, an average, gains by channel, negative ones."""
    spec = parse_cfg(cfg_text(*SECTIONS), "hand-made")
    make, wide, ops = _Maker(seed), channels(spec), {}
    count = 8 * 8  # the map behind the reorg
    for i, layer in enumerate(spec.layers):
        reach = [GRIDS[j].reach for j in layer.sources if j in GRIDS]
        op: IntegerOp | None = None
        match layer:
            case s.Conv():
                weight = make.integers(-127, 127, layer.filters, wide[layer.sources[0]], layer.size, layer.size)
                bias = make.integers(-5000, 5000, layer.filters)
                bound = int(accumulator_bounds(weight, bias, reach[0]).max())
                op = IntConv(
                    weight=weight.to(torch.int8),
                    bias=bias,
                    w_bit=8,
                    acc_bits=bound.bit_length() + 1,
                    **_behind_conv(make, i, layer, bound),
                )
            case s.AvgPool():
                op = IntPool(count=count, requantiser=make.requantiser(1, count * reach[0], -128, 127))
            case s.ScaleChannels():
                by = make.requantiser(1, reach[0] * reach[1], -90, 90)
                op = IntGate(requantiser=by, table=make.table(-90, 90, GRIDS[i]))
            case s.Shortcut():
                gains = make.integers(
                    -(2**15), 2**15, len(layer.sources), 8 if layer.weights_type == "per_channel" else 1
                )
                tabled, bound = layer.activation == "mish", 2**15 * sum(reach)
                by = make.requantiser(1, bound, -128, 127, bent=not tabled)
                op = IntShortcut(gains=gains, requantiser=by, table=make.table(-128, 127, GRIDS[i]) if tabled else None)
        if op is not None:
            ops[i] = op
    return IntegerNetwork(spec, Scheme(a_bit=8), ops, GRIDS)


def _behind_conv(make: _Maker, i: int, layer: s.Conv, bound: int) -> dict:
    if i not in GRIDS:
        return {"scale": torch.full((layer.filters,), 0.01, dtype=torch.float64)}
    if layer.activation == "leaky":
        return {"requantiser": make.requantiser(layer.filters, bound, -128, 127, bent=True)}
    return {"requantiser": make.requantiser(layer.filters, bound, -128, 127), "table": make.table(-128, 127, GRIDS[i])}
