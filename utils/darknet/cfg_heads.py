"""The sections of detection heads as layers."""

from __future__ import annotations

import math

from utils.darknet import spec as s
from utils.darknet.cfg_schema import NMS_KINDS
from utils.darknet.sections import Section
from utils.darknet.tree import Parents, checked, read_tree
from utils.errors import InputError

UNSAID_ANCHOR = 0.5  # width and height of an anchor that num= counts and anchors= does not list (make_yolo_layer)


def _anchors(sec: Section, least: int = 0) -> tuple[tuple[float, float], ...]:
    """Those that ``num=`` counts; all that are listed where a mask picks one of the first ``least`` beyond these."""
    sec.required("anchors")
    sec.required("classes")
    flat = sec.numbers("anchors", float)
    joined = next((part.strip() for part in sec.text("anchors", "").split(",") if len(part.split()) > 1), "")
    if joined:
        sec.notes.append(
            f"{sec.place}: anchors= has no comma in '{joined}'; it is read as {len(joined.split())} numbers, as in "
            "hank-ai's Darknet (AlexeyAB's reads one of all the digits)"
        )
    if len(flat) % 2 or not flat:
        raise InputError(f"{sec.place}: anchors= lists {len(flat)} numbers; each anchor is a width and a height")
    if not all(0 < side < math.inf for side in flat):
        raise InputError(f"{sec.place}: anchors={sec.text('anchors', '')}; widths and heights are numbers above 0")
    anchors = tuple(zip(flat[::2], flat[1::2], strict=True))
    num = sec.integer("num", len(anchors), 1)
    if num < least <= len(anchors):
        sec.notes.append(
            f"{sec.place}: mask= picks anchors that num={num} does not count; they are as listed (Darknet reads what "
            "lies behind its own in memory)"
        )
    elif num != len(anchors):
        said = f"{sec.place}: num={num} beside {len(anchors)} anchors; as in Darknet "
        missing = num - len(anchors)
        sec.notes.append(
            said + (f"the {missing} missing ones are 0.5, 0.5" if missing > 0 else f"the first {num} count")
        )
        anchors = (*anchors, *((UNSAID_ANCHOR, UNSAID_ANCHOR),) * missing)[:num]
    return anchors


def region(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """``[region]``."""
    if sec.integer("coords", 4) != 4:
        raise InputError(f"{sec.place}: coords={sec.text('coords', '')} is not supported; a box has 4 (x, y, w, h)")
    tree, classes = sec.text("tree", ""), sec.integer("classes", 20, 1)
    parents = _parents(sec, tree) if tree else ()
    if tree and len(parents) != classes:
        raise InputError(f"{sec.place}: tree={tree} has {len(parents)} classes, classes={classes}; make them fit")
    return s.Region(
        sources=(len(layers) - 1,),
        line=sec.line,
        anchors=_anchors(sec),
        classes=classes,
        softmax=bool(sec.integer("softmax", 0)),
        tree=tree,
        parents=parents,
    )


def _parents(sec: Section, tree: str) -> Parents:
    """Of a hierarchy of classes: as ``parents=`` says it, which our writer adds, else from Darknet's file."""
    if "parents" in sec.options:
        return checked(sec.integers("parents"), sec.place)
    return read_tree(tree, sec.name, sec.place)


def yolo(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """``[yolo]``, ``[Gaussian_yolo]`` and ``[yolo_bdp]``."""
    picked = tuple(sec.integers("mask"))
    anchors = _anchors(sec, least=max(picked, default=-1) + 1)
    mask = picked or tuple(range(len(anchors)))
    if max(mask, default=0) >= len(anchors) or min(mask, default=0) < 0:
        raise InputError(f"{sec.place}: mask={sec.text('mask', '')} picks from {len(anchors)} anchors; make them fit")
    beta = sec.real("beta_nms", 0.6)
    if not 0 < beta < float("inf"):
        raise InputError(f"{sec.place}: beta_nms={sec.text('beta_nms', '')} must be above 0; Darknet's usual is 0.6")
    kind = {"Gaussian_yolo": s.GaussianYolo, "yolo_bdp": s.TurnedYolo}.get(sec.kind, s.Yolo)
    return kind(
        sources=(len(layers) - 1,),
        line=sec.line,
        mask=mask,
        anchors=anchors,
        classes=sec.integer("classes", 20, 1),
        scale_x_y=sec.real("scale_x_y", 1.0),
        new_coords=bool(sec.integer("new_coords", 0)),
        nms_kind=sec.one_of("nms_kind", NMS_KINDS),
        beta_nms=beta,
    )
