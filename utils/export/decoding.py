"""What comes after the integers, where heads detect: decode.py, its twin in C, the rule of suppression, one box."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from utils.darknet.cfg import read_cfg
from utils.darknet.spec import Detect
from utils.export import decode

HEADER = """\
#ifndef HEADS_H
#define HEADS_H

{defines}
#ifdef HEADS_TABLE
struct head {{
    int source, count, high, wide, classes, new_coords, softmax, logistic;
    float scale_x_y, reach, cell[2];
    const float *anchors; /* px */
    const double *unit;   /* of a channel */
}};

{arrays}
static const struct head all_heads[] = {{
{rows}}};
#endif

#endif
"""
FIXED = Path(__file__).with_name("boxes")
WORDS = Path(__file__).with_name("decoding.template.md")


def write_decoding(folder: Path, manifest: dict[str, Any], confidence: float, iou: float) -> None:
    """Add decode.py, c/boxes.c and what they need, and say in the manifest and the README how boxes come about.

    Args:
        folder: the unfinished hand-off.
        manifest: of it; gains ``suppression``.
        confidence: a golden box's score is above it. iou: of two that overlap more the better stays.
    """
    heads = [layer for layer in read_cfg(folder / "network.cfg").layers if isinstance(layer, Detect)]
    if not heads or any(head.spreads or head.turned for head in heads):
        return  # spreads and turned boxes are not in decode.py: who reads the folder decodes them alone
    most = {"candidates": decode.MOST_CANDIDATES, "boxes": decode.MOST_BOXES}
    rule = {"confidence": confidence, "iou": iou, "distance_power": heads[-1].distance_power, **most}
    manifest["suppression"] = rule
    shutil.copyfile(decode.__file__, folder / "decode.py")
    for path in FIXED.iterdir():
        shutil.copyfile(path, folder / "c" / path.name)
    (folder / "c/heads.h").write_text(heads_header(manifest))
    channels, *size = manifest["image"]["shape"]
    with (folder / "README.md").open("a", encoding="utf-8") as text:
        text.write(
            Template(WORDS.read_text(encoding="utf-8")).substitute(
                rule | {"distance_power": rule["distance_power"] or "none"},
                heads="\n".join(head_rows(manifest)),
                names=", ".join(f"{k} {name}" for k, name in enumerate(manifest["names"] or ())) or "numbers alone",
                colour=manifest["image"]["colour"] or f"{channels} channels",
                resize=manifest["image"]["resize"],
                size="x".join(map(str, size)),
                example=worked_box(folder, manifest),
            )
        )


def head_rows(manifest: dict[str, Any]) -> list[str]:
    """A row of the README's table for each head."""
    layers = {each["layer"]: each for each in manifest["layers"]}
    rows = []
    for head in (each for each in manifest["layers"] if each["kind"] == "head"):
        source = layers[head["inputs"][0]]
        cells, cell = ("x".join(f"{v:g}" for v in pair) for pair in (source["output"][:0:-1], head["cell"]))
        anchors = ", ".join(f"{w:g}x{h:g}" for w, h in head["anchors_px"])
        words = [f"`{key}`" for key in ("new_coords", "softmax") if head[key]]
        rule = f"{head['scale_x_y']:g}, {head['reach']:.4g}"
        rows.append(
            f"| {source['layer']} | {cells} | {cell} px | {anchors} | {rule} | "
            f"{', '.join([source['activation'], *words])} | {head['classes']} |"
        )
    return rows


def heads_header(manifest: dict[str, Any]) -> str:
    """c/heads.h: the table of heads, the rule, the names."""
    layers = {each["layer"]: each for each in manifest["layers"]}
    heads = [each for each in manifest["layers"] if each["kind"] == "head"]
    order = sorted({head["inputs"][0] for head in heads})
    arrays, rows, count = [], [], 0
    for k, head in enumerate(heads):
        source = layers[head["inputs"][0]]
        (_, high, wide), anchors = source["output"], head["anchors_px"]
        count += len(anchors) * high * wide
        arrays.append(_array("float", f"anchors_{k}", [_float(v) for pair in anchors for v in pair]))
        arrays.append(_array("double", f"unit_{k}", [repr(float(v)) for v in source["read_out"]["scale"]]))
        numbers = [
            order.index(source["layer"]), len(anchors), high, wide, head["classes"], int(head["new_coords"]),
            int(head["softmax"]), int(source["activation"] == "logistic"), _float(head["scale_x_y"]),
            _float(head["reach"]),
            f"{{{', '.join(map(_float, head['cell']))}}}", f"anchors_{k}", f"unit_{k}",
        ]  # fmt: skip
        rows.append(f"    {{{', '.join(map(str, numbers))}}},\n")
    rule, (_, high, wide) = manifest["suppression"], manifest["image"]["shape"]
    names = manifest["names"] or [str(k) for k in range(heads[0]["classes"])]
    defines = {
        "BOXES": count,
        "CONFIDENCE": _float(rule["confidence"]),
        "OVERLAP": repr(float(rule["iou"])),
        "POWER": repr(float(rule["distance_power"] or 0)),
        "CANDIDATES": rule["candidates"],
        "BOXES_KEPT": rule["boxes"],
        "HIGH": high,
        "WIDE": wide,
        "NAMES": ", ".join(map(_text, names)),
    }
    lines = "".join(f"#define HEAD_{name} {value}\n" for name, value in defines.items())
    return HEADER.format(defines=lines, arrays="".join(arrays), rows="".join(rows))


def worked_box(folder: Path, manifest: dict[str, Any]) -> str:
    """The best box of golden image 0, from its accumulators on."""
    ends = [each["inputs"][0] for each in manifest["layers"] if each["kind"] == "head"]
    golden = manifest["golden"]["tensors"][0]
    accumulators = {i: np.load(folder / golden[str(i)]["files"]["npy"]) for i in ends}
    decoded, first = decode.decode(manifest, accumulators), 0
    best = int((decoded[:, 4] * decoded[:, 5:].max(1)).argmax())
    for head in (each for each in manifest["layers"] if each["kind"] == "head"):
        acc = accumulators[head["inputs"][0]]
        count = len(head["anchors"]) * acc[0].size
        if best < first + count:
            break
        first += count
    anchor, row, column = np.unravel_index(best - first, (len(head["anchors"]), *acc.shape[1:]))
    source = next(each for each in manifest["layers"] if each["layer"] == head["inputs"][0])
    each, label = 5 + head["classes"], int(decoded[best, 5:].argmax())
    called = f"class {label} ({manifest['names'][label]})" if manifest["names"] else f"class {label}"
    rows = []
    for k, name in [*enumerate(("x", "y", "w", "h", "objectness")), (5 + label, called)]:
        channel = int(anchor) * each + k
        number, scale = int(acc[channel, row, column]), source["read_out"]["scale"][channel]
        rows.append(f"    {name}: acc {number} * {scale:.6g} = {number * scale:.4f}")
    cx, cy, w, h, objectness = (float(v) for v in decoded[best, :5])
    score = objectness * float(decoded[best, 5 + label])
    return (
        f"layer {source['layer']}, anchor {anchor} ({' x '.join(f'{v:g}' for v in head['anchors_px'][anchor])} px), "
        f"row {row}, column {column}.\n\n"
        + "\n".join(rows)
        + f"\n    centre {cx:.2f}, {cy:.2f}; size {w:.2f} x {h:.2f} px; objectness "
        f"{objectness:.4f} * class {float(decoded[best, 5 + label]):.4f} = score {score:.4f}"
    )


def _array(kind: str, name: str, values: list[str]) -> str:
    return f"static const {kind} {name}[] = {{{', '.join(values)}}};\n"


def _float(value: float) -> str:
    return f"{float(np.float32(value))!r}f"


def _text(name: str) -> str:
    return json.dumps(name, ensure_ascii=True).replace("\\u", "\\\\u")
