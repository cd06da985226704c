"""Where the numbers are computed and in which precision."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import InputError
from utils.numbers import is_whole

NAMES = {"fp32": None, "bf16": torch.bfloat16}
GAIN = 1.15  # what bf16 must bring


@dataclass(frozen=True)
class Precision:
    """A device and the autocast dtype on it; None computes in fp32.

    Parameters, batch norm statistics, the loss, the L1 step and the optimizer stay in fp32 whatever the dtype.
    """

    device: torch.device
    dtype: torch.dtype | None = None

    def autocast(self) -> AbstractContextManager[None]:
        """The context the forward pass runs in."""
        return torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def scaler(self) -> torch.amp.GradScaler | None:
        """A gradient scaler where the dtype needs one: fp16 underflows, bf16 does not."""
        return torch.amp.GradScaler(self.device.type) if self.dtype is torch.float16 else None

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, in channels_last: 1.9x on small networks on a CPU, tensor cores on a GPU."""
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __str__(self) -> str:
        return f"{self.device} {str(self.dtype or torch.float32).removeprefix('torch.')}"


def select_device(text: str = "") -> torch.device:
    """``"cpu"``, a CUDA device number such as ``"0"`` (or ``"cuda:0"``), ``""`` for the first GPU or else the CPU.

    Raises:
        InputError: the device is not there, or several are named.
    """
    name = text.strip().lower().removeprefix("cuda").removeprefix(":")
    if name == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "":
        if text and not found:
            raise InputError(f"--device {text}: this machine has no CUDA device; use --device cpu")
        return torch.device("cuda", 0) if found else torch.device("cpu")
    if not is_whole(name):
        raise InputError(f"--device {text}: not a device; use cpu, or the number of one CUDA device")
    if int(name) >= found:
        raise InputError(
            f"--device {text}: this machine has {found} CUDA devices; use --device cpu or a smaller number"
        )
    return torch.device("cuda", int(name))


def select_precision(device: torch.device, asked: str = "auto") -> Precision:
    """What is ``asked`` ("fp32", "bf16"); else bf16 where the hardware multiplies it, fp16 on older GPUs, or fp32."""
    if asked in NAMES:
        return Precision(device, NAMES[asked])
    if device.type == "cuda":
        return Precision(device, torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16)
    return Precision(device, torch.bfloat16 if cpu_multiplies_bf16() else None)


def as_float(outputs: Any) -> Any:
    """Outputs in fp32: a loss summed in bf16 would lose small terms."""
    return outputs.float() if isinstance(outputs, Tensor) else [as_float(item) for item in outputs]


def trial_step(model: nn.Module, images: Tensor, precision: Precision) -> None:
    """Forward and backward of some images without labels, for the clock; the gradients of the step before are gone."""
    model.zero_grad(set_to_none=True)
    with precision.autocast():
        outputs = as_float(model(images))
    heads = [outputs] if isinstance(outputs, Tensor) else outputs
    torch.stack([values.square().mean() for values in heads]).sum().backward()


@dataclass(frozen=True)
class Chosen:
    """A name of `NAMES` and what was measured, in words."""

    name: str
    words: str


def faster_precision(step: Callable[[Precision], object], *, seconds: float = 1.0) -> Chosen:
    """fp32 or bf16 on this CPU, by steps of both in turns.

    bf16 has 8 bits of a number, and is taken where it brings `GAIN`: of what is as fast a run repeats itself sooner
    with the other one.

    Args:
        step: forward and backward in a precision.
        seconds: to spend, about; each has at least one step that is warm.
    """
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    began = time.perf_counter()
    while len(times["fp32"]) < 1 + 1 or time.perf_counter() - began < seconds:
        for name, dtype in NAMES.items():
            start = time.perf_counter()
            step(Precision(torch.device("cpu"), dtype))
            times[name].append(time.perf_counter() - start)
    # The first builds kernels; the least of the others is the one that nothing else on the machine held up.
    taken = {name: 1000 * min(each[1:]) for name, each in times.items()}
    words = ", ".join(f"{name} {value:.3g} ms" for name, value in taken.items())
    return Chosen("bf16" if taken["bf16"] * GAIN < taken["fp32"] else "fp32", words)


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 products (AVX512_BF16 or AMX); emulated ones are slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
