"""Boxes of a network and of its six pruned ones, as Darknet sees them: cfg and weights written, run there, compared.

  python3 benchmarks/darknet_boxes.py --cfg X.cfg --weights X.weights --images photographs
  python3 benchmarks/darknet_boxes.py --cfg X.cfg --weights X.weights --images photographs --darknet ~/darknet/darknet

Without --darknet OpenCV stands in, which reads Darknet's files with a parser of its own. The images are brought to the
network's size first, so that what is compared are networks and not resizers. A box of ours and one of theirs are a pair
where they are of one class and overlap most; of the pairs the least IoU and the largest difference of scores are told.
Boxes without a partner are counted, those whose score is within --near of --conf-thres apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.cfgs import prune, unknown_to_opencv
from models import build
from pipeline.prune import STRATEGIES
from utils.cli import fraction
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.network import Network
from utils.darknet.sharing import untied
from utils.darknet.weights import read_weights, write_weights
from utils.data.images import read_image
from utils.data.manifest import read_list
from utils.data.transforms import resize
from utils.detection.boxes import cxcywh_to_xyxy, pairwise_iou
from utils.detection.decode import decode
from utils.detection.nms import non_max_suppression
from utils.errors import InputError
from utils.pruning.recalibrate import recalibrate

IOU = 0.45  # Darknet's own of its detect and map
Boxes = list[Tensor]  # an image: [n, 6] x1, y1, x2, y2 (px of the network's image), score, class


@dataclass(frozen=True)
class Agreement:
    """Pairs of boxes, and those of one side alone; ``near`` of these are as good as at the threshold."""

    pairs: int
    alone: int
    near: int
    least_iou: float
    score: float


def ours(net: Network, pictures: list[np.ndarray], conf: float) -> Boxes:
    """What our own decoding and suppression make of it."""
    heads = [net.spec.layers[i] for i in net.spec.heads]
    model, found = build(net), []
    for picture in pictures:
        with torch.no_grad():
            raw = model(_tensor(picture))
        decoded = decode(raw, heads, picture.shape[:2])  # type: ignore[arg-type]
        found += non_max_suppression(decoded, conf=conf, iou=IOU, multi_label=True)
    return found


def by_opencv(cfg: Path, weights: Path, pictures: list[np.ndarray], classes: int, conf: float) -> Boxes:
    """OpenCV's reader; of its boxes the best of those that overlap, by our suppression."""
    text = cfg.read_text()
    for head in ("[yolo]\n", "[region]\n"):  # OpenCV's own key: it leaves out what is below 0.2 otherwise
        text = text.replace(head, f"{head}thresh={conf}\n")
    cfg.write_text(text)
    reader = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    found = []
    for picture in pictures:
        height, width = picture.shape[:2]
        reader.setInput(_tensor(picture).numpy())
        rows = np.concatenate([out.reshape(-1, 5 + classes) for out in reader.forward(_ends(reader))])
        decoded = torch.from_numpy(rows)[None].clone()  # a class number there has objectness in it already
        decoded[..., :4] *= torch.tensor([width, height, width, height])
        decoded[..., 4] = 1
        found += non_max_suppression(decoded, conf=conf, iou=IOU, multi_label=True)
    return found


def by_darknet(program: Path, cfg: Path, weights: Path, pictures: list[np.ndarray], classes: int, conf: float) -> Boxes:
    """The Darknet program's ``detector test`` with ``-out``; its suppression is its own.

    Raises:
        InputError: it does not run, or leaves no result.
    """
    place = cfg.parent
    (place / "net.names").write_text("".join(f"class{n}\n" for n in range(classes)))
    (place / "net.data").write_text(f"classes={classes}\nnames={place / 'net.names'}\n")
    paths = [place / f"{n:04d}.png" for n in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        cv2.imwrite(str(path), picture[..., ::-1] if picture.shape[2] > 1 else picture)
    result = place / "result.json"
    command = [program.resolve(), "detector", "test", place / "net.data", cfg, weights, "-dont_show", "-ext_output"]
    command += ["-thresh", str(conf), "-out", result]
    listed = "".join(f"{path}\n" for path in paths)
    try:
        ran = subprocess.run([str(part) for part in command], input=listed, text=True, capture_output=True, check=False)
    except OSError as error:
        raise InputError(f"{program}: cannot be run ({error.strerror}); check --darknet") from error
    if not result.is_file():
        last = (ran.stderr.strip() or ran.stdout.strip()).splitlines()[-1:]
        by_hand = " ".join(map(str, command))
        raise InputError(f"{program}: left no boxes: {' '.join(last)}; run it once by hand: {by_hand}")
    return [_rows(image["objects"], picture) for image, picture in zip(_json(result), pictures, strict=True)]


def _json(path: Path) -> list[dict[str, list[dict[str, object]]]]:
    """Darknet writes a file's backslashes as they are, and a comma too many where it was cut."""
    return json.loads(path.read_text(errors="replace").replace("\\", "/"))


def _rows(objects: list[dict[str, object]], picture: np.ndarray) -> Tensor:
    height, width = picture.shape[:2]
    rows = []
    for each in objects:
        box = each["relative_coordinates"]
        assert isinstance(box, dict)
        rows.append(
            [box["center_x"], box["center_y"], box["width"], box["height"], each["confidence"], each["class_id"]]
        )
    found = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    found[:, :4] = cxcywh_to_xyxy(found[:, :4] * torch.tensor([width, height, width, height]))
    return found


def compare(left: Boxes, right: Boxes, conf: float, near: float) -> Agreement:
    """Pair the boxes of each image greedily by overlap, class by class."""
    pairs = alone = close = 0
    least, apart = 1.0, 0.0
    for a, b in zip(left, right, strict=True):
        overlap = pairwise_iou(a[:, :4], b[:, :4]) * (a[:, None, 5] == b[None, :, 5])
        while overlap.numel() and float(overlap.max()) > IOU:
            i, j = divmod(int(overlap.argmax()), overlap.shape[1])
            least, apart = min(least, float(overlap[i, j])), max(apart, float((a[i, 4] - b[j, 4]).abs()))
            pairs, overlap[i], overlap[:, j] = pairs + 1, -1.0, -1.0
            a[i, 4], b[j, 4] = -1.0, -1.0
        left_over = torch.cat((a[a[:, 4] >= 0, 4], b[b[:, 4] >= 0, 4]))
        alone, close = alone + len(left_over), close + int((left_over < conf + near).sum())
    return Agreement(pairs, alone, close, least, apart)


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255


def _ends(reader: cv2.dnn.Net) -> list[str]:
    return list(reader.getUnconnectedOutLayersNames())


def networks(full: Network, percent: float, images: Tensor) -> list[tuple[str, Network]]:
    """The network, and what each strategy leaves of it, with statistics of these images."""
    found = [("full", full)]
    for name in STRATEGIES:
        try:
            found.append((name, recalibrate(prune(full, name, percent), build, [images])))
        except InputError as error:
            print(f"{name}: {error}")
    return found


def main() -> int:
    """Print a row a network; exit with 1 where a box off the threshold has no partner, or there are no boxes at all."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cfg", required=True)
    flags.add_argument("--weights", required=True, help="Darknet's, of that cfg")
    flags.add_argument("--images", type=Path, required=True, help="a folder of images, or a list")
    flags.add_argument("--count", type=int, default=16, help="the first so many of them (default: 16)")
    flags.add_argument("--percent", type=fraction, default=0.1, help="share of channels that go (default: 0.1)")
    flags.add_argument("--conf-thres", type=fraction, default=0.02, help="least score (default: 0.02)")
    flags.add_argument("--near", type=float, default=1e-3, help="scores this near to it may fall on either side")
    flags.add_argument("--darknet", type=Path, help="the Darknet program (default: OpenCV stands in)")
    args = flags.parse_args()
    spec = read_cfg(args.cfg)
    full = Network(spec, read_weights(args.weights, spec).state)
    unknown = unknown_to_opencv(spec)
    if unknown is not None and not args.darknet:
        raise InputError(
            f"{args.cfg} line {unknown.line}: OpenCV's reader has no such layer, or takes it otherwise than Darknet; "
            "give the program (--darknet)"
        )
    size = (spec.height, spec.width)
    pictures = [resize(read_image(path, spec.channels), size) for path in read_list(args.images)[: args.count]]
    classes = spec.layers[spec.heads[0]].classes  # type: ignore[attr-defined]
    held = True
    print(f"{len(pictures)} images of {size[0]}x{size[1]}, {args.darknet or 'OpenCV'}, percent {args.percent:g}")
    print("| network | parameters | pairs | alone | at the threshold | least IoU | largest score difference |")
    print("|---|---|---|---|---|---|---|")
    for name, net in networks(full, args.percent, torch.cat([_tensor(picture) for picture in pictures])):
        with tempfile.TemporaryDirectory() as folder:
            cfg, weights = Path(folder) / "net.cfg", Path(folder) / "net.weights"
            net = net if args.darknet else untied(net)  # OpenCV reads no share_index=
            cfg.write_text(write_cfg(replace(net.spec, net=_one(net.spec.net))))
            write_weights(weights, net)
            theirs: Callable[..., Boxes] = by_opencv
            given = (cfg, weights, pictures, classes, args.conf_thres)
            found = by_darknet(args.darknet, *given) if args.darknet else theirs(*given)
        same = compare(ours(net, pictures, args.conf_thres), found, args.conf_thres, args.near)
        held &= same.alone == same.near and same.pairs > 0
        numbers = sum(value.numel() for value in net.state.values())
        row = f"{same.pairs} | {same.alone} | {same.near} | {same.least_iou:.4f} | {same.score:.1e}"
        print(f"| {name} | {numbers:,} | {row} |", flush=True)
    return int(not held)


def _one(net: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """A [net] for one image at a time."""
    return tuple((dict(net) | {"batch": "1", "subdivisions": "1"}).items())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as fault:
        print(fault, file=sys.stderr)
        sys.exit(2)
