"""How many bits weights and activations have where nobody says; the same in every script."""

from __future__ import annotations

W_BIT = 8  # of weights: 4 save bytes and cost a point
A_BIT = 4  # of activations: a spiking window of 15 steps; 8 bits would be 255
PERCENTILE = 99.99  # share of the values that --ranges percentile does not clip, in per cent
W_HELP = "bits of the weights, 2 to 8, or 16; outer and depthwise layers have 8 at least"
A_HELP = "bits of the activations, 2 to 8, or 16"
