"""What export.py is told."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from utils import cli
from utils.cli import flag
from utils.config.run import RunConfig
from utils.export.choices import ENGINES, TARGET_NAMES
from utils.export.engine.target import part_names
from utils.numbers import is_whole

FORMS = ("aer", "c", "darknet", "fpga", "nir", "onnx", "qonnx")

COMPARED = 32  # images that a NIR file is run on: a metric of two says nothing


def tile(text: str) -> tuple[int, int]:
    """``64x8`` -> (64, 8)."""
    numbers = text.lower().split("x")
    if len(numbers) != 2 or not all(is_whole(number) and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"must be TMxTN, such as 64x8, got {text}")
    return int(numbers[0]), int(numbers[1])


def target(text: str) -> str:
    """The name of hardware, or a file that describes a part or an engine."""
    if text not in TARGET_NAMES:
        return part(text)
    return text


def part(text: str) -> str:
    """The name of a part that the engine may be put on, or a file that describes one."""
    if text not in part_names() and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(
            f"must be {', '.join((*TARGET_NAMES, *part_names()))} or a part's FILE.json, got {text}"
        )
    return text


@dataclass(frozen=True, kw_only=True)
class ExportConfig(RunConfig):
    """The flags of export.py."""

    form: str = flag("fpga", "what to write (default: fpga)", "form", nargs="?", choices=FORMS)
    weights: str = flag(
        "", ".int.pt or .snn.pt; for darknet and --float a float .pt or .weights (default: the newest made here)"
    )
    cfg: str | None = flag(None, "structure of .weights; a .pt carries its own")
    float_network: bool = flag(False, "onnx: the float network, for tools that quantise by themselves", "--float")
    dynamic: bool = flag(False, "onnx --float: images of any size that the network's strides divide")
    decode: bool = flag(False, "onnx --float: boxes and scores instead of the heads' maps")
    golden: int = flag(2, "validation images for golden vectors, or to compare on (nir: 32)", type=int)
    dialect: str = flag("if", "nir: nodes that simulators import, or exact ones", choices=["if", "exact"])
    steps: int | None = flag(None, "nir: how long an image is shown (default: the window)", type=cli.positive)
    tile: tuple[int, int] | None = flag(None, "TMxTN: weights in tiles of outputs x inputs too", type=tile)
    engine: str = flag(
        "", "with the whole network in SystemVerilog: an array, or events in windows or streams", choices=ENGINES
    )
    target: str = flag(
        "",
        "refuse what this hardware cannot run: vitis-dpu, speck; or size the engine for a part: "
        f"{', '.join(part_names())}, FILE.json",
        type=target,
    )
    target_fps: float | None = flag(
        None, "the smallest engine on the --target that is so fast, frames a second", type=cli.above_zero
    )
    client: str = flag("", "qonnx: the folder that hls4ml or FINN opens", "--for", choices=["hls4ml", "finn"])
    layers: int | None = flag(None, "qonnx --for: the first so many layers alone", type=cli.positive)
    out: str = flag("", "the new folder (default: export/ and the network's name)")

    @property
    def images(self) -> int:
        """How many validation images an export looks at, where nobody says."""
        return COMPARED if self.form == "nir" else self.golden

    @property
    def takes_floats(self) -> bool:
        """Whether the form is made of a float network."""
        return self.float_network or self.form == "darknet"
