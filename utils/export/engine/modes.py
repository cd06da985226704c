"""What the README of an engine of events says of its mode."""

from __future__ import annotations

LAYERWISE = {
    "mode": "A layer at a time",
    "order": """\
- A layer waits for its window, then its neurons fire n spikes in the first n steps of their own (mode "layerwise" of
  convert_snn.py); so the order of a window's spikes changes no membrane, and they are taken as they lie in memory:
  [block][y][x][lane].""",
    "firing": """\
  `fire` lets each neuron of a word fire a spike a clock, minus one threshold each, until none is left; the counts are
  written.""",
}
STREAM = {
    "mode": "All layers in every step",
    "order": """\
- Mode "stream" of convert_snn.py (neurons "st-bif", schedule "preload"): pixels and biases charge in the first step;
  from then on layers send each other spikes of -1, 0 and 1, a byte a neuron and step in memory, until none can fire any
  more, whatever the image: the `steps` of `report.json`. The membranes of all layers stay on the chip. A last pass
  writes the counts, which are those of golden/; `build/clocks.csv` has all steps in the layer that it shows first.""",
    "firing": """\
  `counter` has, beside each membrane, what its neuron has fired: below what the membrane wants it fires +1, above it
  -1. A max pool counts what came in by neurons of its own, and fires when the largest count is another one.""",
}
LEAKY = {
    "mode": "Leaky neurons, all layers in every step",
    "order": """\
- A network that was trained as spikes: the same image in each of the `steps` of `report.json`, layers one after the
  other on what fired in the same step. The membranes of all layers stay on the chip. Of golden/ the last step is
  compared, and the sums that the heads read.""",
    "firing": """\
  Before a tile's events `membranes` goes over its words: v >>> f, or v - (v >>> f), and the bias. After them it reads
  u out: a spike where u > 2^k (k in the place of m), which takes 2^k off u, or all of it.""",
}
WORDS = {"spikes": LAYERWISE, "stream": STREAM, "leaky": LEAKY}
