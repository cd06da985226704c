"""Sequences: forward propagation through time against backpropagation, for LTC and LIF units and an LSTM.

  python3 benchmarks/sequences.py --bytes                                    what is kept for gradients, by T
  python3 benchmarks/sequences.py --tasks adding100 --epochs 10 --seeds 0 1 2
  python3 benchmarks/sequences.py --tasks adding200 --rows ltc:fptt lstm:bptt --epochs 16
  python3 benchmarks/sequences.py --tasks smnist permuted rows fashion       the whole table; hours

Every row of a task sees the same sequences in the same order, batch by batch; FPTT makes K steps of the optimizer of a
batch, backpropagation one. Numbers are those of test.py on what training never saw; firing is spikes a unit and step
there. A run that is in runs/ already is taken from there.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import torch

from benchmarks.pruning import run_script, spread
from models import Darknet
from utils.reporting.runs import output_of
from utils.tasks import task_of
from utils.cli import above_zero, positive, whole
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.files import write_text
from utils.reporting.tables import plain_table
from utils.sequences.dataset import SequenceBatch
from utils.training.fptt import FpttOptions

CFGS = Path(__file__).parent.parent / "cfg" / "sequences"
VARIANTS = Path("runs") / "sequence-cfgs"  # what is made of the shipped ones
LENGTHS = (50, 100, 200, 400)
NETS, TRAINERS = ("ltc", "lif", "lstm"), ("fptt", "bptt")


@dataclass(frozen=True)
class Kind:
    """A task: the stem of its cfgs, what is replaced in them, FPTT's segments of a batch, and --data."""

    stem: str
    segments: int
    change: tuple[str, str] = ("", "")
    data: str = ""


TASKS = {
    "adding100": Kind("adding", 10),
    "adding200": Kind("adding", 10, ("timesteps=100", "timesteps=200")),
    "smnist": Kind("smnist", 28),
    "permuted": Kind("smnist", 28, ("order=pixels", "order=permuted")),
    "rows": Kind("rows", 28),
    "fashion": Kind("rows", 28, data="fashion-mnist"),
}


def saved_bytes(spec: ModelSpec, *, steps: int, segments: int, batch: int) -> int:
    """The most that autograd holds at once of a batch: what is saved for the backward pass of a segment's loss.

    Args:
        spec: a network of sequences.
        steps: T, whatever its cfg says.
        segments: parts of a batch, each with a backward pass of its own; 1: backpropagation.
        batch: sequences.
    """
    torch.manual_seed(0)
    model, loss, most = Darknet(spec).train(), task_of(spec).loss(spec), 0
    x = torch.rand(batch, steps, spec.channels, 1, 1)
    whole_batch = SequenceBatch(images=x, indices=(), truth=_truth(spec, batch), whole=steps)
    memory: dict[int, tuple[torch.Tensor, ...]] = {}
    for begin, end in FpttOptions(timesteps=steps, segments=segments).parts():
        saved: dict[int, int] = {}
        with _counted(saved):
            out, found = model.advance(x[:, begin:end], memory, end - begin)
            loss(out, whole_batch.between(begin, end))["total"].backward()
        most = max(most, sum(saved.values()))
        memory = {i: tuple(value.detach() for value in values) for i, values in found.items()}
    return most


def _counted(saved: dict[int, int]) -> torch.autograd.graph.saved_tensors_hooks:
    """The bytes of what is saved meanwhile, each place in memory once."""

    def keep(value: torch.Tensor) -> torch.Tensor:
        saved[value.data_ptr()] = value.nbytes
        return value

    return torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)


def _truth(spec: ModelSpec, batch: int) -> torch.Tensor:
    return torch.ones(batch) if getattr(spec.layers[-1], "predicts", "") == "value" else torch.zeros(batch).long()


def bytes_table(batch: int) -> str:
    """Saved bytes of the adding task's networks, by trainer and T."""
    rows = [["network, trainer", *(f"T = {steps}" for steps in LENGTHS)]]
    for net in NETS:
        spec = read_cfg(CFGS / f"adding-{net}.cfg")
        for name, segments in (("bptt", 1), ("fptt, K = 10", 10), ("fptt, K = T", 0)):
            found = [saved_bytes(spec, steps=t, segments=segments or t, batch=batch) for t in LENGTHS]
            rows.append([f"{net}, {name}", *(f"{value / 1e6:.2f} MB" for value in found)])
    return plain_table(f"saved for gradients, batches of {batch}", rows)


def row_of(args: argparse.Namespace, task: str, net: str, trainer: str) -> list[str]:
    """A row of a task's table, over the seeds."""
    kind, found = TASKS[task], []
    for seed in args.seeds:
        name = f"seq-{task}-{net}-{trainer}-{args.epochs}-{args.lr:g}-{args.alpha:g}-{seed}"
        words = ["--cfg", str(_cfg(task, net)), "--epochs", str(args.epochs), "--adam", "--lr", f"{args.lr:g}"]
        words += ["--notest", "--nosave", "--seed", str(seed), "--device", "cpu", "--workers", "0", "--name", name]
        words += ["--data", kind.data] if kind.data else []
        if trainer == "fptt":
            words += ["--trainer", "fptt", "--fptt-k", str(kind.segments), "--fptt-alpha", f"{args.alpha:g}"]
        weights = output_of(run_script("train", words), "last*.pt")
        if weights is None:
            raise InputError(f"{name}: its network is gone; delete its folder in runs/")
        measured = run_script("test", ["--weights", str(weights), "--device", "cpu", "--name", name]).metrics
        found.append(measured)
    headline = "mse" if "mse" in found[0] else "top1"
    batches = args.epochs * batches_of(task, net)
    firing = spread([each["firing"] for each in found], "{:.3f}") if "firing" in found[0] else "-"
    steps = batches * (kind.segments if trainer == "fptt" else 1)
    score = spread([each[headline] for each in found], "{:.4f}")
    return [f"{net}, {trainer}", score, firing, f"{batches:,}", f"{steps:,}"]


def batches_of(task: str, net: str) -> int:
    """Batches of an epoch."""
    spec = read_cfg(_cfg(task, net))
    sequences = task_of(spec)
    manifest = sequences.open_data(TASKS[task].data or sequences.sample)
    return -(-len(sequences.listed(manifest.train)) // spec.batch)


def _cfg(task: str, net: str) -> Path:
    """The cfg of a row: a shipped one, or what is made of it."""
    kind = TASKS[task]
    shipped = CFGS / f"{kind.stem}-{net}.cfg"
    if not kind.change[0]:
        return shipped
    text = shipped.read_text().replace(*kind.change)
    parse_cfg(text, f"{task}-{net}")
    return write_text(VARIANTS / f"{task}-{net}.cfg", text)


def main() -> None:
    """Print the tables."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--bytes", action="store_true", help="what is kept for gradients, and nothing trained")
    flags.add_argument("--batch", type=positive, default=100, help="sequences a batch, of --bytes")
    flags.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    flags.add_argument("--rows", nargs="+", default=[f"{net}:{trainer}" for net in NETS for trainer in TRAINERS])
    flags.add_argument("--epochs", type=positive, default=10)
    flags.add_argument("--lr", type=above_zero, default=0.003)
    flags.add_argument("--alpha", type=above_zero, default=0.1, help="of FPTT")
    flags.add_argument("--seeds", type=whole, nargs="+", default=[0])
    args = flags.parse_args()
    if args.bytes:
        print(bytes_table(args.batch))
        return
    for task in args.tasks:
        rows = [row_of(args, task, *row.split(":")) for row in args.rows]
        score = "MSE" if TASKS[task].stem == "adding" else "top-1"
        print(plain_table(task, [["", score, "firing", "batches", "optimizer steps"], *rows]))


if __name__ == "__main__":
    main()
