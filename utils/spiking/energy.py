"""What an operation costs: the one table, and the estimates made from it."""

from __future__ import annotations

from dataclasses import dataclass

from utils.darknet.counts import Counts


@dataclass(frozen=True)
class Constants:
    """Energy of one operation in pJ: a multiply-accumulate, an accumulate."""

    mac: float
    accumulate: float


# 45 nm, 0.9 V: M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, figure 1.1.9.
# fp32: multiply 3.7 + add 0.9; int8: multiply 0.2 + 32-bit integer add 0.1. Memory traffic is not in these numbers.
FP32 = Constants(mac=4.6, accumulate=0.9)
INT8 = Constants(mac=0.3, accumulate=0.1)
OF_KIND = {"float": FP32, "quantised": INT8}  # of a file's kind; spikes and foreign graphs have no energy of structure


@dataclass(frozen=True)
class Energy:
    """Arithmetic energy of one frame, in pJ, of the same network in three forms.

    ``spiking_fp32`` uses the floating-point constants, as most papers do; ``spiking_int8`` the integer ones, which is
    what the integer network really computes with and what is to be compared with ``ann_int8``.
    """

    ann_fp32: float
    ann_int8: float
    spiking_fp32: float
    spiking_int8: float

    @property
    def verdict(self) -> str:
        """Who wins, in one line, int8 included."""
        ratio = self.spiking_int8 / self.ann_int8 if self.ann_int8 else 0.0
        fp32 = self.spiking_fp32 / self.ann_fp32 if self.ann_fp32 else 0.0
        winner = "the spikes win" if ratio < 1 else "int8 wins"
        return f"spikes take {fp32:.2f}x the energy of the fp32 twin and {ratio:.2f}x that of its int8 twin: {winner}"


def dense_energy(counts: Counts, constants: Constants) -> float:
    """Arithmetic of a conventional network's frame, pJ; every table, text and record asks here.

    Structure alone decides it, so that a network has one number, and a reader finds it in the column of MACs. The
    padding's products count, as in an array of multipliers; spikes have none (`spiking_energy`).
    """
    return counts.macs * constants.mac + counts.adds * constants.accumulate


def spiking_energy(multiplications: float, sops: float, constants: Constants) -> float:
    """Arithmetic of a frame in spikes, pJ: an accumulate a synaptic operation, and products where pixels are read."""
    return multiplications * constants.mac + sops * constants.accumulate


def energy(counts: Counts, multiplications: float, sops: float) -> Energy:
    """A network in all forms.

    Args:
        counts: of its structure, for one frame.
        multiplications: what stays multiplied in spikes: pixels are none.
        sops: synaptic operations.
    """
    return Energy(
        ann_fp32=dense_energy(counts, FP32),
        ann_int8=dense_energy(counts, INT8),
        spiking_fp32=spiking_energy(multiplications, sops, FP32),
        spiking_int8=spiking_energy(multiplications, sops, INT8),
    )
