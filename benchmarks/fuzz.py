"""Mutants of every file that a script reads: none may crash it or hang it, and no mutant of a checkpoint is accepted.

  python3 benchmarks/fuzz.py --mutants 20000 --seed 0 --out fuzz.json      about an hour on 2 cores
  python3 benchmarks/fuzz.py --mutants 500 --only checkpoint

One process has everything imported; a mutant is one fork that opens it through the door that scripts use: cfg, weights,
data, labels, xml, json, float and integer and spiking checkpoints, manifest. A door may take the file or refuse it in
one line (`InputError`, `MismatchError`); anything else that comes out of it, a signal, or ten seconds of a processor
(two minutes of a clock) without an answer is a finding, kept in the table with the seed that makes it again. A mutant
of a checkpoint or of a hand-off must be refused, whatever bit it changes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import pytest  # noqa: E402

from models import load_model  # noqa: E402
from tests.faults.place import make_place  # noqa: E402
from utils.darknet.cfg import read_cfg  # noqa: E402
from utils.darknet.memory import live_values  # noqa: E402
from utils.data.images import read_image  # noqa: E402
from utils.data.manifest import read_list, read_manifest  # noqa: E402
from utils.detection import coco, voc  # noqa: E402
from utils.detection.labels import read_labels  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.export import verify  # noqa: E402
from utils.quantization.bits import read_bits_map  # noqa: E402

SECONDS, PATIENCE = 10, 120.0  # of a processor, and of a clock, which other work may hold up
MEMORY = 4 * 2**30
TAKEN, REFUSED, CRASHED, HUNG = "taken", "refused", "crashed", "hung"
WORDS = (
    b"nan",
    b"inf",
    b"-1",
    b"0",
    b"1e999",
    b"99999999999999999999",
    b"=",
    b"[",
    b"]",
    b"\xff\xfe",
    b"\0",
    b",",
    b"",
)


@dataclass(frozen=True)
class Door:
    """A kind of file: the file of the place that is mutated, who opens it, and whether a mutant may be taken at all."""

    path: str
    open: Callable[[Path], object]
    sealed: bool = False


def opened_cfg(path: Path) -> object:
    """Parsed, and its memory estimated."""
    spec = read_cfg(path)
    return live_values(spec, (spec.height, spec.width))


def opened_weights(path: Path) -> object:
    """Of a .weights file, beside its cfg."""
    return load_model(path, path.with_name("net.cfg"))


def opened_data(path: Path) -> object:
    """A .data file with its lists."""
    manifest = read_manifest(path)
    return read_list(manifest.train), read_list(manifest.valid)


def opened_coco(path: Path) -> object:
    """Converted, into a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return coco.convert([path], [path.with_name("voc") / "JPEGImages"], Path(folder) / "x", seed=0, valid=0.3)


def opened_voc(path: Path) -> object:
    """Converted, into a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return voc.convert(path.parent.parent, Path(folder) / "x", seed=0, valid=0.3)


DOORS: Mapping[str, Door] = {
    "cfg": Door("net.cfg", opened_cfg),
    "weights": Door("net.weights", opened_weights),
    "data": Door("set.data", opened_data),
    "list": Door("train.txt", read_list),
    "labels": Door("labels/train/1.txt", lambda path: read_labels(path, 2)),
    "xml": Door("voc/Annotations/p1.xml", opened_voc),
    "json": Door("coco-train.json", opened_coco),
    "bits": Door("bits.txt", read_bits_map),
    "image": Door("pictures/photo.jpg", read_image),
    "checkpoint": Door("weights/net.pt", load_model, sealed=True),
    "integers": Door("weights/net.int.pt", load_model, sealed=True),
    "spikes": Door("weights/stream.snn.pt", load_model, sealed=True),
    "rate": Door("weights/rate.snn.pt", load_model, sealed=True),
    "manifest": Door("handed/manifest.json", lambda path: verify.check(path.parent), sealed=True),
}


def mutant(content: bytes, rng: random.Random) -> bytes:
    """One to four changes: a bit, a byte, a span cut out or doubled, a number or a sign put in, an end cut off."""
    out = bytearray(content)
    while bytes(out) == content:
        for _ in range(rng.randint(1, 4)):
            at, span = rng.randrange(len(out) + 1), rng.randint(1, 40)
            match rng.randrange(6):
                case 0 if out:
                    out[at % len(out)] ^= 1 << rng.randrange(8)
                case 1 if out:
                    out[at % len(out)] = rng.randrange(256)
                case 2:
                    del out[at : at + span]
                case 3:
                    out[at:at] = out[at : at + span]
                case 4:
                    out[at : at + rng.randrange(4)] = rng.choice(WORDS)
                case 5 if rng.random() < 0.2:
                    del out[at:]
    return bytes(out)


def outcome(door: Door, path: Path) -> tuple[str, str]:
    """What a fork that opens a file comes to, and its last words."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        gc.freeze()  # what is not collected yet may join threads that a fork does not have
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        os.write(writer, "\n".join(said(door, path)).encode(errors="replace")[:2000])
        os._exit(0)
    os.close(writer)
    end, ended = time.monotonic() + PATIENCE, (0, 0)
    while ended[0] == 0 and time.monotonic() < end:
        ended = os.waitpid(child, os.WNOHANG)
        time.sleep(0 if ended[0] else 0.001)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        words = pipe.read().decode().partition("\n")
    if ended[0] == 0 or (os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) == signal.SIGXCPU):
        return HUNG, ""
    return (words[0], words[2]) if os.waitstatus_to_exitcode(ended[1]) == 0 and words[0] else (CRASHED, f"{ended[1]}")


def said(door: Door, path: Path) -> tuple[str, str]:
    """Open it here."""
    try:
        door.open(path)
    except (InputError, verify.MismatchError) as error:
        line = str(error)
        return (REFUSED, line) if "\n" not in line else (CRASHED, "several lines")
    except BaseException as error:  # whatever it is, it is a finding
        return CRASHED, f"{type(error).__name__}: {error}"[:300]
    return TAKEN, ""


def fuzz(place: Path, doors: Mapping[str, Door], mutants: int, seed: int) -> dict[str, dict[str, object]]:
    """Counts of every outcome by door, and the findings."""
    table: dict[str, dict[str, object]] = {}
    for name, door in doors.items():
        path, counts, found = place / door.path, dict.fromkeys((TAKEN, REFUSED, CRASHED, HUNG), 0), []
        content = path.read_bytes()
        for number in range(mutants // len(doors)):
            path.write_bytes(mutant(content, random.Random(f"{seed} {name} {number}")))
            what, words = outcome(door, path)
            counts[what] += 1
            if what in (CRASHED, HUNG) or (what == TAKEN and door.sealed):
                found.append([number, what, words])
        path.write_bytes(content)
        table[name] = {**counts, "findings": found[:50]}
        sys.stdout.write(f"{name:12} {counts}\n")
        sys.stdout.flush()
    return table


def main() -> int:
    """Write the table; 1 where there is a finding."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--mutants", type=int, default=20_000, help="of all doors together")
    flags.add_argument("--seed", type=int, default=0, help="of the mutants")
    flags.add_argument("--only", nargs="+", choices=list(DOORS), default=list(DOORS), help="these doors")
    flags.add_argument("--out", type=Path, default=None, help="a json of the table and the findings")
    args = flags.parse_args()
    cv2.setNumThreads(0)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    here = Path.cwd()
    try:
        with pytest.MonkeyPatch.context() as patch:
            make_place(folder, patch)
            table = fuzz(folder, {name: DOORS[name] for name in args.only}, args.mutants, args.seed)
    finally:
        os.chdir(here)
        shutil.rmtree(folder, ignore_errors=True)
    if args.out:
        args.out.write_text(json.dumps({"seed": args.seed, "mutants": args.mutants, "doors": table}, indent=1))
    return int(any(row["findings"] for row in table.values()))


if __name__ == "__main__":
    sys.exit(main())
