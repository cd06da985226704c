"""What integers cost: one pruned network, trained on quantised in every style, and quantised without training.

  python3 benchmarks/quantisation.py                     the sample set, seeds 0 1 2
  python3 benchmarks/quantisation.py --seeds 1 --rows "pow2 8" "PTQ 4" "W3A8=train --quantized google --w-bit 3"
  python3 benchmarks/quantisation.py --seeds 0 --weights weights/raccoon.pt --data ../shared/data/raccoon \\
      --rows "google 8" "pow2 8" "pow2 4 + BN fold" --train "--lr 0.01 --img-size 320"
  python3 benchmarks/quantisation.py --coco ../shared/data     two COCO networks, 8 bits without training

Of every seed: a network to start from (--weights, one a seed; by default a sparse training, slim_prune.py and its
fine-tuning make it), its float twin, which is trained on for as many epochs as the quantised rows, and the rows, whose
own flags come after --train's. A row without training quantises the twin. Points count from the twin, seed by seed;
every number is a script's own record, measured on the integers; bytes are those of the packed file. Finished runs are
kept, and shown.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait

from benchmarks.pruning import run_script, sha256_of, spread
from utils.reporting.runs import output_of
from utils import cli
from utils.config.run import DATA
from utils.errors import InputError
from utils.files import write_text
from utils.reporting.files import file_bytes, sha256
from utils.reporting.record import Record
from utils.reporting.tables import plain_table, size

log = logging.getLogger(__name__)

ROWS = {
    "google 8": "train --quantized google --w-bit 8 --a-bit 8",
    "google 8 + BN fold": "train --quantized google --w-bit 8 --a-bit 8 --BN_Fold",
    "pow2 8": "train --quantized pow2 --w-bit 8 --a-bit 8",
    "dorefa 8": "train --quantized dorefa --w-bit 8 --a-bit 8",
    "pow2 4 + BN fold": "train --quantized pow2 --w-bit 4 --a-bit 4 --BN_Fold --lr 0.02",  # docs/decisions/009
    "dorefa 4": "train --quantized dorefa --w-bit 4 --a-bit 4",
    "W4A4": "train --quantized google --w-bit 4 --a-bit 4",
    "W2A4": "train --quantized google --w-bit 2 --a-bit 4",
    "PTQ 8": "quantize --w-bit 8 --a-bit 8",
    "PTQ 4": "quantize --w-bit 4 --a-bit 4",
}
TWIN = "float"
COCO = {
    "MobileNetV2-YOLOv3-Nano": "darknet/mobilenetv2-yolov3-nano/MobileNetV2-YOLOv3-Nano-coco",
    "yolo-fastest-1.1": "darknet/yolo-fastest-1.1/yolo-fastest-1.1",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = flags.add_argument
    add("--seeds", type=cli.whole, nargs="+", default=[0, 1, 2])
    add("--rows", type=row, nargs="+", default=list(ROWS.items()), help="names of rows, or NAME=COMMAND")
    add("--weights", nargs="+", default=[], help="to start from, one a seed (default: made here)")
    add("--sparse", default="--epochs 20", help="flags of the sparse training, besides -sr --prune 1")
    add("--prune", default="--percent 0.6 --finetune 10", help="flags of slim_prune.py")
    add("--epochs", type=cli.positive, default=6, help="of the twin and of quantised training")
    add("--train", default="--lr 0.01", help="more flags of both")
    add("--data", default=DATA)
    add("--coco", type=Path, default=None, help="a folder with darknet/ and coco128/: measure those instead")
    return flags


def row(text: str) -> tuple[str, str]:
    """A row that is known by its name, or one of one's own."""
    name, equals, command = text.partition("=")
    if not equals and text not in ROWS:
        raise argparse.ArgumentTypeError(f"must be NAME=COMMAND or one of {', '.join(ROWS)}, got {text}")
    if command and command.split()[0] not in ("train", "quantize"):
        raise argparse.ArgumentTypeError(f"{name}: must call train or quantize, got {command.split()[0]}")
    return (name, command) if equals else (text, ROWS[text])


def one_seed(args: argparse.Namespace, seed: int, given: str) -> dict[str, Record]:
    """The twin and all rows of one seed."""
    common = ["--data", args.data, "--seed", str(seed)]
    stem = f"quant{seed}-{Path(args.data).stem}"
    start = Path(given) if given else pruned(args, common, stem)
    training = [*args.train.split(), "--epochs", str(args.epochs)]
    made = sha256_of(f"{training} {sha256(start)}")
    words = ["--weights", str(start), *training, *common]
    records = {TWIN: run_script("train", [*words, "--name", f"{stem}-{made}"])}
    twin = left_by(records[TWIN])
    for name, command in args.rows:
        script, *flags = command.split()
        if script == "train":
            words = ["--weights", str(start), *training, *flags]
        else:
            words = ["--weights", str(twin), *image_size(args.train), *flags]
        unique = sha256_of(f"{command} {made}")
        records[name] = run_script(script, [*words, *common, "--name", f"{stem}-{unique}"])
    return records


def pruned(args: argparse.Namespace, common: list[str], stem: str) -> Path:
    """A network trained sparse, pruned by slim and fine-tuned."""
    words = ["-sr", "--prune", "1", *args.sparse.split(), *common, "--name", f"{stem}-sparse"]
    sparse = left_by(run_script("train", words))
    unique = sha256_of(f"{args.prune} {sha256(sparse)}")
    words = [*args.prune.split(), "--weights", str(sparse), *common, "--name", f"{stem}-{unique}"]
    return left_by(run_script("slim_prune", words))


def left_by(record: Record) -> Path:
    """The network a run left."""
    path = output_of(record)
    if path is None:
        raise InputError(f"{record.folder}: the network it left is gone; delete this folder")
    return path


def image_size(words: str) -> list[str]:
    """What a script without training has to be told of the training's flags."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--img-size", nargs="+", default=[])
    given = flags.parse_known_args(words.split())[0].img_size
    return ["--img-size", *given] if given else []


def score(record: Record) -> dict[str, Any]:
    """The metrics of a run; of one without training those of its integers."""
    return record.metrics.get("quantised", record.metrics)


def bytes_left(record: Record) -> int:
    """Of the packed integers where a run leaves some, else of its network."""
    packed = [path for path in record.paths("*.int.pt") if path.is_file()]
    return file_bytes(packed[0] if packed else left_by(record))


def line(name: str, found: list[dict[str, Record]]) -> list[str]:
    """A row of the table: means over the seeds, ± the sample standard deviation where there are several."""
    mine, twins = ([score(records[which]) for records in found] for which in (name, TWIN))
    lost = [100 * (a["map50"] - b["map50"]) for a, b in zip(mine, twins, strict=True)]
    return [
        name,
        spread([each["map50"] for each in mine], "{:.4f}"),
        spread([each["map"] for each in mine], "{:.4f}"),
        "" if name == TWIN else spread(lost, "{:+.2f}"),
        size(statistics.mean(bytes_left(records[name]) for records in found)),
    ]


def coco_runs(folder: Path, script: str, *flags: str) -> Iterator[tuple[str, Record]]:
    """What a script makes of both COCO networks at 8 bits, on coco128's images."""
    images = folder.resolve() / "coco128"
    lists = [f"{split} = {images / 'images' / part}" for split, part in (("train", "train"), ("valid", "val"))]
    text = "\n".join(["classes = 80", *lists, f"names = {images / 'coco.names'}"])
    data = write_text(Path("runs") / "coco128.data", text + "\n")
    for name, stem in COCO.items():
        path = folder.resolve() / stem
        words = ["--cfg", f"{path}.cfg", "--weights", f"{path}.weights", "--data", str(data), "--batch-size", "16"]
        yield name, run_script(script, [*words, "--w-bit", "8", "--a-bit", "8", *flags, "--name", f"coco-{name}"])


def coco_rows(folder: Path) -> list[list[str]]:
    """Both COCO networks, float and in 8 bits, on coco128's validation images."""
    rows = [["network", "bits", "mAP@.5", "mAP@.5:.95", "points", "on disk"]]
    for name, record in coco_runs(folder, "quantize"):
        before, after = record.metrics["float"], record.metrics["quantised"]
        for bits, metrics in (("float", before), ("8", after)):
            points = "" if metrics is before else f"{100 * (after['map50'] - before['map50']):+.2f}"
            rows.append(
                [name, bits, f"{metrics['map50']:.4f}", f"{metrics['map']:.4f}", points, size(metrics["bytes"])]
            )
    return rows


def main() -> None:
    """Run what is missing, print the table."""
    args = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if args.coco:
        log.info(plain_table("without training, on coco128's validation images", coco_rows(args.coco)))
        return
    if args.weights and len(args.weights) != len(args.seeds):
        raise InputError(f"--weights: {len(args.weights)} files for {len(args.seeds)} seeds; give one a seed")
    given = args.weights or [""] * len(args.seeds)
    found = [one_seed(args, seed, start) for seed, start in zip(args.seeds, given, strict=True)]
    rows = [["row", "mAP@.5", "mAP@.5:.95", "points", "on disk"], *(line(name, found) for name in found[0])]
    log.info(plain_table(f"seeds {' '.join(map(str, args.seeds))}, {args.epochs} epochs", rows))


if __name__ == "__main__":
    main()
