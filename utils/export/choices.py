"""What export.py --target and --engine may say. Nothing here needs torch."""

from __future__ import annotations

DPU, DPU_BITS = "vitis-dpu", 8  # its bytes are signed, so that unsigned levels have 7 bits
TARGET_NAMES = ("speck", DPU)  # `targets.TARGETS`
ENGINES = ("integer", "spikes", "stream")  # spikes: a layer after the other; stream: all of them, step by step
OF_SPIKES = ENGINES[1:]
