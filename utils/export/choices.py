"""What export.py --target and --engine may say. Nothing here needs torch."""

from __future__ import annotations

TARGET_NAMES = ("speck", "vitis-dpu")  # `targets.TARGETS`
SPIKES = "spikes"
ENGINES = ("integer", SPIKES)
