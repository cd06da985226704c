"""Flags that the older compression project has and this one has not: each with what to use instead.

They are no flags here, so that ``--help`` does not show them; where one is typed, its line is the error.
"""

from __future__ import annotations

from collections.abc import Mapping

_GOLDEN = (
    "every layer's levels, packed or in tiles: quantize.py, then export.py fpga --golden 1 --tile 64x8; leave it away"
)
_PRECISION = (
    "bf16 where the processor multiplies it and a measurement finds it faster, fp16 on older GPUs, else fp32: told at "
    "the start; train.py --precision says one; leave it away"
)
_INPUT = (
    "pixels are 0 to 1, in integers their own bytes; for a slope that is a shift: train.py --act leaky-pow2 --FPGA; "
    "leave it away"
)
_SUM = "a sum has a scale of its own, to which every term is brought exactly, so there is one way; leave it away"
_ONCE = (
    "an image is looked at once, so that floats, integers and spikes compare; a larger look: --img-size; leave it away"
)
_CARRIED = "a checkpoint carries its own quantisation; make one with quantize.py or train.py --quantized; leave it away"
_NAMES = "a checkpoint carries its names, and --data X.data has those of .weights; leave it away"

EVERYWHERE: Mapping[str, str] = {
    "-mpt": _PRECISION,
    "--mixedprecision": _PRECISION,
    "-mas": _INPUT,
    "--maxabsscaler": _INPUT,
    "--shortcut_way": _SUM,
    "--augment": _ONCE,
    "--quantizer_output": _GOLDEN,
    "--layer_idx": _GOLDEN,
    "--reorder": _GOLDEN,
    "--TN": _GOLDEN,
    "--TM": _GOLDEN,
    "--names": _NAMES,
}
MEASURED: Mapping[str, str] = {
    **EVERYWHERE,
    **dict.fromkeys(("--quantized", "--FPGA", "--a-bit", "--w-bit", "--a_bit", "--w_bit"), _CARRIED),
}
