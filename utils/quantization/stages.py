"""Progressive quantised training: a run in stages of ever fewer bits, each starting from the network of the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import free_path, shown
from utils.quantization.lower import ACC_BITS
from utils.quantization.scheme import BITS, Scheme
from utils.task import Task, main_columns

STAGES = (8, 4, 3, 2)
FLOAT = 32  # bits of the stage that comes before all others: the float network that a run starts from


@dataclass(frozen=True)
class BitStage:
    """Epochs ``begin`` to ``end``, the end not included, of a run.

    ``bits``: (the stage's name, of weights, of activations); None in a run that has no stages. Accumulators are wider
    before the last stage by as many bits as the levels and weights are. Its learning rate, its freezing and its average
    of the weights are those of a run of its length.
    """

    begin: int
    end: int
    bits: tuple[int, int, int] | None = None
    acc_bits: int | None = None

    def scheme(self, wanted: Scheme) -> Scheme:
        """What the run wants in the end, with the bits of this stage."""
        return (
            wanted
            if self.bits is None
            else replace(wanted, w_bit=self.bits[1], a_bit=self.bits[2], acc_bits=self.acc_bits)
        )

    def own(self, path: Path | str) -> Path:
        """A checkpoint's name with the stage's bits in it: last_X.pt is last_X-8.pt."""
        assert self.bits is not None
        return Path(path).with_name(f"{Path(path).stem}-{self.bits[0]}.pt")


def stages_of(epochs: int, progressive: Sequence[int] | None, wanted: Scheme | None) -> tuple[BitStage, ...]:
    """The stages of a run; one where none are asked for.

    At a stage of b bits weights and activations have b, neither fewer than it is to have in the end; a stage that
    changes nothing is left out, and the wanted bits are the last one. The epochs are dealt out evenly, what is left
    over to the last stages, which are the hardest.

    Args:
        epochs: of the whole run.
        progressive: the stages' bits; empty: ``STAGES``; None: no stages.
        wanted: the scheme of the end; None where floats are trained.

    Raises:
        InputError: the stages do not fall, there is only one, or there are more of them than epochs.
    """
    if progressive is None or wanted is None:
        return (BitStage(0, epochs),)
    found = _falling(_below_float(progressive) or STAGES, wanted)
    if len(found) == 1:
        raise InputError(
            f"--progressive: {wanted.w_bit}-bit weights, {wanted.a_bit}-bit activations are its first stage already; "
            "ask for fewer --w-bit or --a-bit, or leave it away"
        )
    if epochs < len(found):
        names = ", ".join(str(bits[0]) for bits in found)
        raise InputError(
            f"--epochs: {epochs} for the {len(found)} stages of --progressive ({names} bits); "
            "use at least one for each, or name fewer stages"
        )
    each, over = divmod(epochs, len(found))
    ends = list(accumulate(each + (n >= len(found) - over) for n in range(len(found))))
    wide = [_widened(wanted, w, a) for _, w, a in found]
    return tuple(BitStage(*each) for each in zip([0, *ends[:-1]], ends, found, wide, strict=True))


def wanted_bits(
    w_bit: int | None, a_bit: int | None, progressive: Sequence[int] | None, usual: tuple[int, int]
) -> tuple[int, int]:
    """Bits of weights and activations in the end; those that nobody names are the last stage's, or as ``usual``."""
    if progressive is not None and w_bit is None and a_bit is None:
        last = (_below_float(progressive) or STAGES)[-1]
        usual = (last, last)
    return (usual[0] if w_bit is None else w_bit, usual[1] if a_bit is None else a_bit)


def stage_names(stages: Sequence[BitStage], last: Path, best: Path) -> dict[str, str]:
    """Free names for the checkpoints of all stages but the last, whose names are the run's."""
    kinds = {"last": last, "best": best}
    own = [(f"{kind}-{s.bits[0]}", s.own(path)) for s in stages[:-1] if s.bits for kind, path in kinds.items()]
    return {key: str(free_path(path)) for key, path in own}


def stage_line(stage: BitStage, stages: Sequence[BitStage]) -> str:
    """A stage in words."""
    assert stage.bits is not None
    _, w, a = stage.bits
    place = f"stage {stages.index(stage) + 1} of {len(stages)}"
    return f"{place}: {w}-bit weights, {a}-bit activations, epochs {stage.begin + 1} to {stage.end}"


def stage_results(
    stages: Sequence[BitStage], rows: Sequence[Mapping[str, Any]], files: Mapping[str, str], task: Task
) -> list[dict[str, Any]]:
    """What each stage came to, for the record: bits, epochs, its last validation, the best one, its checkpoint.

    Args:
        stages: of the run.
        rows: an epoch each, as results.csv has them.
        files: the run's checkpoints: "last", and "last-8" of a stage.
        task: whose numbers the rows hold.
    """
    found = []
    for stage in stages:
        assert stage.bits is not None
        name, w, a = stage.bits
        own = [row for row in rows if stage.begin < row["epoch"] <= stage.end]
        best = max(row[task.primary] for row in own if row[task.primary] is not None)
        result = {"stage": name, "w_bit": w, "a_bit": a, "epochs": stage.end - stage.begin}
        result |= {column.name: own[-1][column.name] for column in task.columns} | {f"best_{task.primary}": best}
        found.append(result | {"weights": shown(files.get(f"last-{name}", files["last"]))})
    return found


def stage_rows(results: Sequence[Mapping[str, Any]], task: Task) -> list[list[str]]:
    """The same as the rows of a table, the heading first."""
    told = main_columns(task)
    rows = [["stage", "weights", "activations", "epochs", *(column.heading for column in told), "checkpoint"]]
    for n, row in enumerate(results):
        bits = (row["w_bit"], row["a_bit"], row["epochs"])
        scores = [f"{row[column.name]:.{column.digits}f}" for column in told]
        rows.append([str(n + 1), *map(str, bits), *scores, row["weights"]])
    return rows


def _below_float(asked: Sequence[int]) -> Sequence[int]:
    """The stages behind a first one of 32 bits, which is the float network that a run starts from."""
    if list(asked) == [FLOAT]:
        raise InputError("--progressive 32: no stage behind the floats; say which, as 32 4 3 2, or leave 32 away")
    return asked[1:] if asked and asked[0] == FLOAT else asked


def _falling(asked: Sequence[int], wanted: Scheme) -> list[tuple[int, int, int]]:
    """(name, weight bits, activation bits) of each stage."""
    wrong = next((bits for bits in asked if bits not in BITS), None)
    if wrong is not None:
        raise InputError(f"--progressive: {wrong} bits; use 2 to 8, or 16")
    if list(asked) != sorted(set(asked), reverse=True):
        raise InputError(f"--progressive: {' '.join(map(str, asked))} does not fall; each stage has fewer bits")
    found: list[tuple[int, int, int]] = []
    for bits in (*asked, min(wanted.w_bit, wanted.a_bit)):
        both = (max(bits, wanted.w_bit), max(bits, wanted.a_bit))
        if not found or found[-1][1:] != both:
            found.append((bits, *both))
    return found


def _widened(wanted: Scheme, w_bit: int, a_bit: int) -> int | None:
    """Accumulator bits of a stage: each bit of a weight or a level makes the sums twice as large."""
    if wanted.acc_bits is None:
        return None
    return min(ACC_BITS, wanted.acc_bits + w_bit - wanted.w_bit + a_bit - wanted.a_bit)
