"""The picture on the front page: the first rows of the sheet that the chain leaves.

  python3 compress.py && python3 docs/front_picture.py

Reads runs/compress/detections.jpg (ground truth, float, integers and spikes on the same photographs) and writes
docs/pictures/chain.jpg.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

ROWS, WIDTH = 3, 1200  # photographs, px
SHEET, PICTURE = Path("runs/compress/detections.jpg"), Path("docs/pictures/chain.jpg")


def parser() -> argparse.ArgumentParser:
    """The command line, which has no flags."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main() -> None:
    """Cut and scale the sheet, whose cells are square under a line of headings."""
    parser().parse_args()
    sheet = cv2.imread(str(SHEET))
    if sheet is None:
        raise SystemExit(f"{SHEET}: is not there; run python3 compress.py first")
    columns = 4
    cell = sheet.shape[1] / columns
    heading = sheet.shape[0] - cell * round(sheet.shape[0] / cell - 0.05)
    cut = sheet[: round(heading + ROWS * cell)]
    scaled = cv2.resize(cut, (WIDTH, round(cut.shape[0] * WIDTH / cut.shape[1])), interpolation=cv2.INTER_AREA)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(PICTURE), scaled, [cv2.IMWRITE_JPEG_QUALITY, 82])


if __name__ == "__main__":
    main()
