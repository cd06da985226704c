"""The words that flags of convert_snn.py may say: of modes, neurons, schedules and resets. Nothing here needs torch."""

from __future__ import annotations

MODES = ("layerwise", "stream", "rate")
LAYERWISE, STREAM, RATE = MODES
NEURONS = ("signed", "st-bif", "unsigned")  # how a neuron of stream mode fires: `stream_neuron.RULES`
# "phase coding" in the field means weighted spikes; the neuron that keeps its spike trace is ST-BIF there
EARLIER_WORDS = {"phase": "layerwise", "traced": "st-bif"}
SCHEDULES = ("spread", "preload")  # how pixels and biases arrive in stream mode
RESETS = ("subtract", "zero")  # what a spike of rate mode takes from the membrane
