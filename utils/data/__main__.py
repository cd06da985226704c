"""Bring data into the form the scripts read, and look at it before it is trained on.

python3 -m utils.data voc ../raccoon --out data/raccoon        a Pascal VOC folder -> data/raccoon.data
python3 -m utils.data voc VOC2007 --out data/cars --classes car bus --difficult skip
python3 -m utils.data coco train.json val.json --images train2017 val2017 --out data/mine
python3 -m utils.data check data/mine.data                     counts, duplicates, damage, of boxes, classes, masks
python3 -m utils.data check coco --of masks                    of a set that has boxes, too
python3 -m utils.data anchors data/mine.data --cfg cfg/yolov3-tiny.cfg --out cfg/yolov3-tiny-mine.cfg
python3 -m utils.data sample                                   compose the embedded sample sets now
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli import OneLineParser, seed, whole
from utils.endings import ended, say
from utils.errors import InputError

if TYPE_CHECKING:
    from utils.reporting.dataset_report import DatasetReport

KINDS = ("boxes", "classes", "masks")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 2 when the input is wrong."""
    logging.basicConfig(format="%(message)s")
    return ended(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    parser = OneLineParser(
        prog="python3 -m utils.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _converters(commands)
    looked = commands.add_parser("check", help="look for what is wrong with a set; code 2 where training would fail")
    looked.add_argument("data", type=Path, metavar="X.data", help="a .data file, or a folder that --data takes")
    looked.add_argument("--of", choices=KINDS, help="look at these, where a set has several (as it is recognised)")
    anchors = commands.add_parser("anchors", help="fit a cfg's anchors to a set's boxes, into a new cfg")
    anchors.add_argument("data", type=Path, metavar="X.data", help="a .data file, or a folder that --data takes")
    anchors.add_argument("--cfg", type=Path, required=True, help="the network; it is only read")
    anchors.add_argument("--out", type=Path, default=None, help="the new cfg (default: cfg/CFG-DATA.cfg)")
    anchors.add_argument("--resize", choices=["letterbox", "stretch"], help="how images are fitted (as the cfg says)")
    anchors.add_argument("--generations", type=whole, default=1000, help="of genetic refinement (1000)")
    anchors.add_argument("--seed", type=seed, default=0, help="of everything random (0)")
    commands.add_parser("sample", help="compose the embedded sample sets").set_defaults(run=_sample)
    looked.set_defaults(run=_check)
    anchors.set_defaults(run=_anchors)
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except OSError as error:  # of a folder that a person named: no such one, no folder
        raise InputError(f"{error.filename or 'the disk'}: {error.strerror}; make room or allow it") from error


def _converters(commands: Any) -> None:
    """The commands that write a .data file."""
    from_voc = commands.add_parser("voc", help="write a .data file, lists and labels for a Pascal VOC folder")
    from_voc.add_argument("folder", type=Path, help="holds Annotations/ and JPEGImages/ (or annotations/ and images/)")
    from_voc.add_argument(
        "--difficult", choices=["keep", "skip"], default="keep", help="objects marked difficult (keep)"
    )
    from_coco = commands.add_parser("coco", help="write a .data file, lists and labels for COCO's json")
    from_coco.add_argument("annotations", type=Path, nargs="+", help="one json, or two: to train, to validate")
    from_coco.add_argument("--images", type=Path, nargs="+", required=True, help="their folder, or one for each json")
    runs: list[tuple[Any, Callable[[argparse.Namespace], int]]] = [(from_voc, _voc), (from_coco, _coco)]
    for command, run in runs:
        add = command.add_argument
        add("--out", type=Path, required=True, metavar="data/NAME", help="writes NAME.data, NAME.names, NAME/")
        add("--classes", nargs="+", default=(), help="these, in this order (default: all)")
        add("--valid", type=float, default=0.2, help="share to validate on where the set does not say (0.2)")
        add("--seed", type=seed, default=0, help="of that random split (0)")
        command.set_defaults(run=run)


def _voc(args: argparse.Namespace) -> int:
    from utils.detection import voc  # imports stand where they are used: --help needs neither torch nor OpenCV

    out, options = _target(args), {"classes": args.classes, "valid": args.valid, "seed": args.seed}
    return _say(f"{out}.data: {voc.convert(args.folder, out, difficult=args.difficult, **options)}")


def _coco(args: argparse.Namespace) -> int:
    from utils.detection import coco

    out, options = _target(args), {"classes": args.classes, "valid": args.valid, "seed": args.seed}
    return _say(f"{out}.data: {coco.convert(args.annotations, args.images, out, **options)}")


def _sample(args: argparse.Namespace) -> int:
    from utils.classification import sample as classes
    from utils.detection.sample import prepare_digits
    from utils.segmentation import sample as masks

    return _say("\n".join(map(str, (prepare_digits(), classes.prepare_sample(), masks.prepare_sample()))))


def _check(args: argparse.Namespace) -> int:
    report = _checker(args.data, args.of)(args.data)
    _say(report.text)
    return 2 if report.errors else 0


def _checker(data: Path, of: str | None) -> Callable[[Path], DatasetReport]:
    """What looks at a set, by what the set is of: masks, classes, or else boxes; or what somebody says."""
    from utils.classification.check import check as of_classes
    from utils.classification.open_data import is_of_classes
    from utils.detection.check import check as of_boxes
    from utils.segmentation.check import check as of_masks
    from utils.segmentation.open_data import is_of_masks

    if of is not None:
        return dict(zip(KINDS, (of_boxes, of_classes, of_masks), strict=True))[of]
    return of_masks if is_of_masks(data) else of_classes if is_of_classes(data) else of_boxes


def _anchors(args: argparse.Namespace) -> int:
    from utils.detection.fit_anchors import refit

    return _say(refit(args.data, args.cfg, args.out, resize=args.resize, generations=args.generations, seed=args.seed))


def _target(args: argparse.Namespace) -> Path:
    if not 0 < args.valid < 1:
        raise InputError(f"--valid {args.valid:g}: must be between 0 and 1, both excluded")
    return args.out.with_suffix("") if args.out.suffix == ".data" else args.out


def _say(text: str) -> int:
    say(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
