"""How far a NIR file of the dialect "if" is from the integer network, under what each importer makes of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.darknet.shapes import channels
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.quantization.validate import readouts
from utils.spiking.nir_check import nir_package
from utils.spiking.nir_simulator import LIF_SEMANTICS, SEMANTICS, NirSimulator
from utils.spiking.spike_schedule import SpikingNetwork

log = logging.getLogger(__name__)

LOOSE = 1e-3  # of the largest value of a map: rounding of floats is below
LIF_README = """# {name}

`{name}.nir`: Conv2d and LIF, for simulators that read NIR. Show an image [C,H,W], a pixel n as n / 255 and the same in every
step (or a frame a step, where `metadata["input"]` says so), for {steps} steps of {dt} s; what the output adds up to over
them is the head's map; {meant}. `r` is 1, so that currents are in the weights. A max pool is a sum and a LIF that forgets all
in a step.

The file, run as its importers run it (`report.json`), beside the network:

{table}

norse: `from_nir(graph, dt={dt})`. snnTorch 1.0.0: set `init_hidden = True` on each of its neurons after loading. sinabs takes
`tau` for steps and not for seconds: it is not for this file.
"""  # noqa: E501
EXACT = "integers (--dialect exact)"
BRANCHES = (
    "layers {layers} join several inputs: sinabs 3.1 and norse 1.1 load that and run it depth first, without part of "
    "the sum (nirtorch.load); snnTorch and whoever uses nirtorch.nir_to_torch runs it whole"
)
HEADS = (
    "importers take one output, so there is a file a head ({files}), each the part of the network that its head needs; "
    "their maps together are the network's"
)
README = """# {name}

{files}: Conv2d, IF and SumPool2d, for simulators that read NIR. Show an image [C,H,W], a pixel n as n / 255 and the
same in every step, for {steps} steps; what the output adds up to over them is the head's map. Every threshold is 1: gains,
scales and thresholds are in the weights. The reset that is meant is by subtraction (`metadata["reset"]`); NIR's IF has no
word for it. {notes}

The file, run in the importers' own ways (`report.json`), beside the integer network it was made of, on {images} images:

{table}

`levels that differ`: spike counts that are not the level they stand for. `map`: the largest difference of the head's map as
a share of its largest value. More steps (`--steps`) settle on the network whose levels are not rounded. sinabs 3.1.3, norse
1.1.0 and snnTorch 1.0.0 give these very numbers on a chain of layers. With snnTorch 1.0.0 set `init_hidden = True` on each
of its neurons after loading: else it leaves their states in its outputs.
"""  # noqa: E501


@dataclass(frozen=True)
class Dialect:
    """What one way of running the file gives: ``differing`` and ``worst`` as README says, ``score`` the task's."""

    name: str
    differing: float
    worst: float
    score: float


class Simulators(nn.Module):
    """A simulator a head: ``forward`` takes images and returns every head's map."""

    def __init__(self, simulators: Sequence[NirSimulator]) -> None:
        super().__init__()
        self.simulators = simulators

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N,C,H,W] in 0..1 -> the maps, in the order of the heads."""
        return [made for simulator in self.simulators for made in simulator(x)]

    def counts(self) -> dict[str, Tensor]:
        """The last run's spikes by node; what two heads need is the same in both."""
        return {node: counts for simulator in self.simulators for node, counts in simulator.counts.items()}


def compare_dialects(
    graphs: Sequence[Any],
    integer: IntegerNetwork,
    images: Tensor,
    steps: int,
    window: int,
    score: Callable[[Any], float],
) -> list[Dialect]:
    """The exact network first, then each importer's way.

    Args:
        graphs: read back from their files, one a head.
        integer: what they were made of.
        images: [N,C,H,W] of n / 255.
        steps: for which they are shown.
        window: L, the rate of level n being n / L.
        score: a predictor's, on the same images.
    """
    executor = IntegerExecutor(integer)
    levels, golden = executor.levels(images), executor(images)
    found = [Dialect(EXACT, 0.0, 0.0, score(executor))]
    for name, semantics in SEMANTICS.items():
        simulator = Simulators([NirSimulator(graph, semantics, steps) for graph in graphs])
        made = simulator(images)
        off = total = 0
        for node, counts in simulator.counts().items():
            wanted = torch.round(levels[int(node.removeprefix("if_"))] * (steps / window))
            off, total = off + int((counts != wanted).sum()), total + counts.numel()
        worst = max(
            float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in zip(made, golden, strict=True)
        )
        found.append(Dialect(name, off / max(total, 1), worst, score(simulator)))
    return found


def measure_nir(
    paths: Sequence[Path],
    network: SpikingNetwork,
    images: Tensor,
    steps: int,
    heading: str,
    score: Callable[[Any], float],
) -> dict[str, Any]:
    """Read the files back, run them in every way, print the table; report.json and README.md go beside them.

    Args:
        paths: of the files, one a head.
        network: what they were made of.
        images: [N,C,H,W] of n / 255.
        steps: for which they are shown.
        heading: the word for the score.
        score: a predictor's, on the same images.

    Returns:
        Numbers for a record.
    """
    graphs = [nir_package().read(str(path)) for path in paths]
    found = compare_dialects(graphs, network.integer, images, steps, network.window, score)
    joined = list(dict.fromkeys(layer for graph in graphs for layer in branches(graph)))
    pools = list(dict.fromkeys(str(graph.metadata["inexact"]) for graph in graphs))
    folder = paths[0].parent
    several = HEADS.format(files=", ".join(path.name for path in paths)) if len(paths) > 1 else ""
    notes = [several, *pools, BRANCHES.format(layers=", ".join(joined)) if joined else ""]
    table = [" | ".join(cells) for cells in rows(found, heading)]
    names = ", ".join(path.name for path in paths)
    log.info("%s, %d images, %d steps each:\n%s", names, len(images), steps, "\n".join(table))
    for note in filter(None, notes):
        log.warning("%s", note)
    report = {"steps": steps, "images": len(images), "notes": [*filter(None, notes)]}
    about = {"dialects": {each.name: asdict(each) for each in found}}
    (folder / "report.json").write_text(json.dumps(report | about, indent=1) + "\n", encoding="utf-8")
    text = nir_readme(paths, steps, len(images), found, heading, notes)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return {"steps": steps, **about}


def stem(paths: Sequence[Path]) -> str:
    """The network's name in the files' names."""
    return paths[0].stem if len(paths) == 1 else paths[0].stem.rpartition(".head")[0]


def measure_nir_lif(
    path: Path, network: Callable[[Tensor], list[Tensor]], images: Tensor, heading: str, score: Callable[[Any], float]
) -> dict[str, Any]:
    """As `measure_nir`, for a file of a network trained as spikes, beside that network.

    Args:
        path: of the file.
        network: images -> [the head's map].
        images: [N,C,H,W] in 0..1, or frames.
        heading: the word for the score.
        score: a predictor's, on the same images.

    Returns:
        Numbers for a record.
    """
    graph = nir_package().read(str(path))
    steps, reset = int(graph.metadata["steps"]), str(graph.metadata["reset"])
    with torch.no_grad():
        golden = network(images)[0]
    found = [Dialect("the network", 0.0, 0.0, score(network))]
    for name, semantics in LIF_SEMANTICS.items():
        simulator = NirSimulator(graph, semantics, steps)
        (made,) = simulator(images)
        off = (made - golden).flatten(1).abs().amax(1) > LOOSE * golden.abs().max()
        worst = float((made - golden).abs().max() / golden.abs().max().clamp(min=1e-30))
        found.append(Dialect(name, float(off.float().mean()), worst, score(simulator)))
    table = [["run as", "images that differ", "map", heading], *rows(found, heading)[1:]]
    meant = f"the reset that is meant is {'by subtraction' if reset == 'subtract' else 'to zero'}"
    lines = "\n".join(" | ".join(cells) for cells in table)
    log.info("%s, %d images, %d steps each; %s:\n%s", path.name, len(images), steps, meant, lines)
    if reset == "subtract":
        log.warning(
            "NIR's LIF resets to a value: no importer that was tried subtracts; train with reset=hard for those"
        )
    about = {"dialects": {each.name: asdict(each) for each in found}}
    report = {"steps": steps, "images": len(images), "reset": reset, **about}
    (path.parent / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = LIF_README.format(name=path.stem, steps=steps, dt=graph.metadata["dt"], meant=meant, table=_markdown(table))
    (path.parent / "README.md").write_text(text, encoding="utf-8")
    return {"steps": steps, **about}


def _markdown(table: Sequence[Sequence[str]]) -> str:
    head, *body = table
    return "\n".join(" | ".join(["", *cells, ""]).strip() for cells in (head, ["---"] * len(head), *body))


def rows(found: Sequence[Dialect], heading: str) -> list[list[str]]:
    """A table of it."""
    table = [["run as", "levels that differ", "map", heading]]
    return table + [[each.name, f"{each.differing:.1%}", f"{each.worst:.1%}", f"{each.score:.4f}"] for each in found]


def branches(graph: Any) -> list[str]:
    """Layers with more than one node that feeds their neuron or output."""
    fed: dict[str, int] = {}
    for _, target in graph.edges:
        fed[target] = fed.get(target, 0) + 1
    return [name.removeprefix("if_") for name, count in fed.items() if count > 1]


def nir_readme(
    paths: Sequence[Path], steps: int, images: int, found: Sequence[Dialect], heading: str, notes: Sequence[str]
) -> str:
    """The text beside the files."""
    files, table = ", ".join(f"`{path.name}`" for path in paths), _markdown(rows(found, heading))
    said = " ".join(f"{note[0].upper()}{note[1:]}." for note in notes if note)
    return README.format(name=stem(paths), files=files, steps=steps, images=images, table=table, notes=said)


EXACT_WORDS = """# {name}

`{name}.nir`: the network in layerwise mode, exact, in nodes of NIR whose meaning is not disputed: Conv2d, I (an
integrator), Threshold, Scale, Delay. NIR's IF is not in it, since importers differ in its reset. {describe}

- Inputs: `image` [C,H,W] = {image}, the pixels' levels 0..255 as they are at step 0 and nothing after; `start`
  [1,H,W], ones at step 0 and nothing after. A step is one unit of `Delay`.
- Outputs: a membrane for each read-out, {outputs}. After {steps} steps it holds the accumulator of
  the integer network; times `metadata["scale_<layer>"]` (one a channel) it is the head's value.
- `fire_<layer>` nodes fire the spikes of a layer, in its own window of {window} steps; its signed spikes add up to the
  integer level.

    import nir
    graph = nir.read("{name}.nir")
    print(graph.metadata["steps"], [name for name in graph.nodes if name.startswith("output_")])
"""


def exact_readme(name: str, network: SpikingNetwork, height: int, width: int) -> str:
    """README.md beside the file."""
    return EXACT_WORDS.format(
        name=name,
        describe=network.describe(),
        image=[channels(network.spec)[-1], height, width],
        outputs=", ".join(f"`output_{i}`" for i in sorted(set(readouts(network.spec)))),
        steps=network.latency,
        window=network.window,
    )
