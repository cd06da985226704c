"""What spikes cost, in words, in rows of a table and in the numbers of a record."""

from __future__ import annotations

from typing import Any

from utils.quantization.integer import IntegerNetwork
from utils.spiking.synops import LayerCost, SpikeCost


def cost_lines(cost: SpikeCost) -> list[str]:
    """Spikes, operations and energy in words, with what speaks against them."""
    e = cost.energy
    micro = [f"{value / 1e6:.3g}" for value in (e.ann_fp32, e.ann_int8, e.spiking_fp32, e.spiking_int8)]
    return [
        f"{cost.spikes_per_neuron:.2f} spikes a neuron, {cost.spikes:,.0f} a frame; {cost.sops:,.0f} accumulates"
        f" and {cost.multiplications:,} multiplications a frame (means of {cost.frames} validation images)",
        f"state {cost.state_bytes:,} bytes, weights {cost.weight_bytes:,} bytes",
        "energy of the arithmetic, uJ a frame, 45 nm (Horowitz, ISSCC 2014): dense fp32 {} and int8 {}, "
        "spikes with fp32 constants {} and with integer ones {}".format(*micro),
        cost.verdict,
        heaviest(cost),
    ]


def heaviest(cost: SpikeCost) -> str:
    """The layers in which half of the accumulates are done."""
    order, seen, found = sorted(cost.layers, key=lambda i: -cost.layers[i].sops), 0.0, []
    while order and seen < cost.sops / 2:
        found.append(order.pop(0))
        seen += cost.layers[found[-1]].sops
    share = seen / max(1.0, cost.sops)
    which = ", ".join(f"{i} ({ratio(cost.layers[i])} a synapse)" for i in found)
    pixels = cost.input_macs / max(1, cost.macs)
    where = f"{share:.0%} of the accumulates are in layers {which}" if found else "nothing is accumulated"
    return f"{where}; {pixels:.0%} of the dense MACs read no spikes"


def ratio(layer: LayerCost) -> str:
    """Spikes a synapse of a layer; of one that has none that spikes reach, a dash."""
    return f"{layer.sops / (layer.macs - layer.input_macs):.2f}" if layer.macs > layer.input_macs else "-"


def operations_rows(cost: SpikeCost) -> list[list[str]]:
    """Which layers the synaptic operations are done in, a heading first."""
    heading = ["layer", "neurons", "spikes a neuron", "kSOPs in it", "share", "kMACs", "of pixels", "SOP/MAC"]
    lines = [
        [
            str(i),
            f"{c.neurons:,}",
            f"{c.spikes / c.neurons:.2f}" if c.neurons else "reads out",
            f"{c.sops / 1e3:.1f}",
            f"{c.sops / max(1.0, cost.sops):.1%}",
            f"{c.macs / 1e3:.1f}",
            f"{c.input_macs / 1e3:.1f}",
            ratio(c),
        ]
        for i, c in cost.layers.items()
    ]
    return [heading, *lines]


def cost_numbers(cost: SpikeCost) -> dict[str, float]:
    """The numbers of a record."""
    return {
        "spikes": cost.spikes,
        "sops": cost.sops,
        "sops_per_mac": cost.sops_per_mac,
        "spikes_per_neuron": cost.spikes_per_neuron,
        "state_bytes": cost.state_bytes,
        "energy_pj": cost.energy.spiking_int8,
        "energy_ann_fp32_pj": cost.energy.ann_fp32,
        "energy_ann_int8_pj": cost.energy.ann_int8,
        "energy_spiking_fp32_pj": cost.energy.spiking_fp32,
    }


def layer_rows(integer: IntegerNetwork, cost: SpikeCost | None) -> list[dict[str, Any]]:
    """A row a layer that computes: bits of weights and activations; neurons, spikes and accumulates of a frame."""
    rows = []
    for i, op in integer.ops.items():
        grid, spent = integer.grids.get(i), cost.layers.get(i) if cost else None
        fires = grid is not None and spent is not None
        rows.append(
            {
                "layer": i,
                "kind": type(integer.spec.layers[i]).__name__.lower(),
                "w_bit": getattr(op, "w_bit", None),
                "a_bit": (grid.qmax - grid.qmin).bit_length() if grid else None,
                "neurons": spent.neurons if fires and spent else None,
                "spikes": spent.spikes if fires and spent else None,
                "sops": spent.sops if spent else None,
            }
        )
    return rows
