"""The front of a network that does not learn: Darknet's ``stopbackward``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from torch import nn

from utils.errors import InputError

LAYER = re.compile(r"^layers\.(\d+)\.")
ALWAYS = 1
Hook = Callable[[int], None]
Stops = Sequence[tuple[int, int]]  # (layer, steps); of 1 step: for good


def front(stops: Stops, step: float = math.inf) -> int:
    """The last layer that does not learn at an optimizer step, -1 if all do; without a step: that never learns.

    ``stopbackward=1`` stops the gradient for good, a larger number for so many steps; the layer that says so is frozen
    with all before it (backward_network of Darknet's network.c).
    """
    return max((i for i, steps in stops if steps == ALWAYS or steps > step), default=-1)


def freeze(model: nn.Module, stops: Stops, step: float = math.inf) -> int:
    """Take the front's parameters out of the gradient's way, and let its batch norm be that of inference.

    Returns:
        As `front`.
    """
    last = front(stops, step)
    for name, parameter in model.named_parameters():
        match = LAYER.match(name)
        if match and last >= 0:
            parameter.requires_grad_(int(match[1]) > last)
    _rest(model, last)
    return last


def thawing(model: nn.Module, stops: Stops, hook: Hook | None, processes: int, step: int = 0) -> Hook | None:
    """A hook of every step that also lets the front learn when its time comes; call it once the optimizer is made.

    ``step`` is the one that comes next.

    Raises:
        InputError: several processes would have to thaw together.
    """
    last = freeze(model, stops, step)
    if last < 0:
        return hook
    if last == front(stops):
        return hook
    if processes > 1:
        raise InputError(
            f"cfg layer {last}: stopbackward of several iterations trains in one process only; "
            "set stopbackward=1, or run without torchrun"
        )

    def each(step: int) -> None:
        nonlocal last
        if last != (now := front(stops, step + 1)):
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            last = freeze(model, stops, step + 1)
            assert last == now
        if hook:
            hook(step)

    return each


def _rest(model: nn.Module, last: int) -> None:
    """Batch norm of the layers up to ``last`` keeps its statistics: it is back in eval mode at every forward pass."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (match := LAYER.match(f"{name}.")):
            _hold(module, held=int(match[1]) <= last)


def _hold(norm: nn.Module, *, held: bool) -> None:
    for hook in norm.__dict__.pop("_held", ()):
        hook.remove()
    if held:
        norm.__dict__["_held"] = (norm.register_forward_pre_hook(lambda module, given: _eval(module)),)


def _eval(module: nn.Module) -> None:
    module.eval()
