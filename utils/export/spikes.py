"""The same network as integrate-and-fire neurons: a threshold, a start and a cap a layer, and a timetable."""

from __future__ import annotations

from typing import Any

from utils.quantization.integer import IntConv
from utils.spiking.spike_schedule import SpikingNetwork


def describe_spikes(network: SpikingNetwork) -> dict[str, Any]:
    """The timetable, in steps."""
    return {
        "mode": "phase",
        "window": network.window,
        "depth": network.depth,
        "interval_steps": network.interval,
        "latency_steps": network.latency,
    }


def describe_neuron(network: SpikingNetwork, i: int) -> dict[str, Any] | None:
    """The neurons of layer ``i``; None where it only moves spikes or is read out.

    Charge U = acc * m (m_neg where acc < 0), threshold theta = 2^log2_theta, V starts at theta / 2 + U when the input
    window is over; in each step of its own window a neuron fires +1 where V >= theta and fewer than ``hi`` have been
    fired, -1 where V < 0 and more than ``lo``, and V falls by what it fired times theta.
    """
    op = network.integer.ops.get(i)
    if op is None or (isinstance(op, IntConv) and op.requantiser is None):
        return None
    by = op.requantiser
    assert by is not None
    return {"log2_theta": by.shift, "lo": by.qmin, "hi": by.qmax, "fires_in_window": network.start[i]}
