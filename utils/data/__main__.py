"""Bring data into the form the scripts read.

python3 -m utils.data voc ../raccoon --out data/raccoon       a Pascal VOC folder -> data/raccoon.data
python3 -m utils.data voc VOC2007 --out data/cars --classes car bus
python3 -m utils.data sample                                  compose the embedded sample set now
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from utils.data.sample import prepare_digits
from utils.data.voc import convert
from utils.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 2 when the input is wrong."""
    parser = argparse.ArgumentParser(
        prog="python3 -m utils.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    voc = commands.add_parser("voc", help="write a .data file, lists and labels for a Pascal VOC folder")
    voc.add_argument("folder", type=Path, help="holds Annotations/ and JPEGImages/ (or annotations/ and images/)")
    voc.add_argument("--out", type=Path, required=True, metavar="data/NAME", help="writes NAME.data, NAME.names, NAME/")
    voc.add_argument("--classes", nargs="+", default=(), help="these, in this order (default: all, by name)")
    voc.add_argument("--valid", type=float, default=0.2, help="share to validate on where the set has no lists (0.2)")
    voc.add_argument("--seed", type=int, default=0, help="of that random split (0)")
    commands.add_parser("sample", help="compose the embedded sample set")
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        if args.command == "sample":
            sys.stdout.write(f"{prepare_digits()}\n")
        else:
            out = args.out.with_suffix("") if args.out.suffix == ".data" else args.out
            if not 0 < args.valid < 1:
                raise InputError(f"--valid {args.valid:g}: must be between 0 and 1, both excluded")
            found = convert(args.folder, out, classes=args.classes, valid=args.valid, seed=args.seed)
            sys.stdout.write(f"{out}.data: {found}\n")
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
