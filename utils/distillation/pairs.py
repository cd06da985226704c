"""Which heads of two networks teach each other, and what of them can be compared; from the graphs alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from utils.darknet.heads import head_convolutions
from utils.darknet.shapes import channels, strides
from utils.darknet.spec import Detect, ModelSpec, Region, Yolo
from utils.errors import InputError

OUTPUTS, FEATURES = "outputs", "features"  # what a term compares


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A head of the student and the head of the teacher at the same stride.

    Args:
        student: place of the student's head among its heads, in cfg order.
        teacher: likewise, the teacher's.
        stride: px of the image per cell of both.
        layers: numbers of the two convolutions that make the heads' maps; what they read are the features.
        widths: channels of those features.
        order: the teacher's anchor for each of the student's; empty where the outputs cannot be compared.
        reason: why not, for people.
    """

    student: int
    teacher: int
    stride: Fraction
    layers: tuple[int, int]
    widths: tuple[int, int]
    order: tuple[int, ...] = ()
    reason: str = ""


def pair_heads(student: ModelSpec, teacher: ModelSpec) -> tuple[Pair, ...]:
    """Pair the heads by stride, in whatever order either cfg has them.

    Of several teacher heads at one stride the one with the same classes and anchors is taken, else the first that is
    left.

    Raises:
        InputError: the teacher takes other images, or none of its heads has the stride of one of the student's.
    """
    if student.channels != teacher.channels:
        raise InputError(
            f"teacher: reads images of {teacher.channels} channels, the student of {student.channels}; "
            "choose one that was trained on the same kind"
        )
    own, others = _heads(student), _heads(teacher)
    left, found = list(range(len(others))), []
    for k, (stride, head, layer, width) in enumerate(own):
        near = [j for j in left if others[j][0] == stride]
        if not near:
            continue
        best = min(near, key=lambda j: bool(difference(head, others[j][1])))
        left.remove(best)
        _, other, other_layer, other_width = others[best]
        reason = difference(head, other)
        found.append(
            Pair(
                student=k,
                teacher=best,
                stride=stride,
                layers=(layer, other_layer),
                widths=(width, other_width),
                order=() if reason else _order(head, other),
                reason=reason,
            )
        )
    if not found:
        message = (" and ".join(sorted({f"{float(row[0]):g}" for row in rows}, key=float)) for rows in (own, others))
        raise InputError(
            f"teacher: nothing can be distilled, the student's heads have strides {next(message)}, the teacher's "
            f"{next(message)}; choose a teacher with a head at one of the student's"
        )
    return tuple(found)


def difference(student: Detect, teacher: Detect) -> str:
    """Why the outputs of two heads cannot be compared cell by cell; empty where they can.

    Other formulas for the box (``scale_x_y``, ``new_coords``) do not count: what is compared are decoded boxes.
    """
    if student.spreads or teacher.spreads:
        return "a [Gaussian_yolo], whose numbers have spreads"
    if student.turned or teacher.turned:
        return "a [yolo_bdp], whose boxes are turned"
    if isinstance(student, Yolo) != isinstance(teacher, Yolo):
        return "a [yolo] and a [region]"
    if isinstance(student, Region) and isinstance(teacher, Region) and student.softmax != teacher.softmax:
        return "one with softmax, one without"
    if student.parents != teacher.parents:
        return "other hierarchies of classes"
    if student.classes != teacher.classes:
        return f"{student.classes} and {teacher.classes} classes"
    if sorted(student.own_anchors) != sorted(teacher.own_anchors):
        return "other anchors"
    return ""


def check(pairs: Sequence[Pair], kinds: Sequence[str]) -> None:
    """See that there is something to compare.

    Args:
        pairs: from `pair_heads`.
        kinds: what each term that was asked for compares, OUTPUTS or FEATURES.

    Raises:
        InputError: all terms compare outputs and no pair's can be.
    """
    if FEATURES not in kinds and not any(pair.order for pair in pairs):
        reasons = "; ".join(f"stride {float(pair.stride):g}: {pair.reason}" for pair in pairs)
        raise InputError(
            f"teacher: nothing can be distilled, the outputs of its heads are not the student's ({reasons}); "
            "features still can: --KDstr cwd, mgd or attention"
        )


def message(pairs: Sequence[Pair], kinds: Sequence[str], heads: int) -> str:
    """One line: what is distilled where, and what is not and why.

    Args:
        pairs: from `pair_heads`.
        kinds: what the terms compare, OUTPUTS or FEATURES.
        heads: how many the student has.
    """
    parts = []
    if OUTPUTS in kinds:
        same = [pair for pair in pairs if pair.order]
        parts += [f"outputs at stride {_list(same)}"] if same else []
        parts += [f"not the outputs at stride {float(p.stride):g}: {p.reason}" for p in pairs if p.reason]
    if FEATURES in kinds:
        parts.append(f"features before the heads at stride {_list(pairs)}")
    if heads > len(pairs):
        parts.append(f"{heads - len(pairs)} of the student's heads have none of the teacher's at their stride")
    return "; ".join(parts)


def _list(pairs: Iterable[Pair]) -> str:
    return " and ".join(f"{float(pair.stride):g}" for pair in pairs)


def _heads(spec: ModelSpec) -> list[tuple[Fraction, Detect, int, int]]:
    """Stride, head, number of the convolution before it, channels that one reads; in cfg order."""
    stride, width, rows = strides(spec), channels(spec), []
    for i, j in head_convolutions(spec).items():
        head = spec.layers[i]
        assert isinstance(head, Detect)
        rows.append((stride[i], head, j, width[spec.layers[j].sources[0]]))
    return rows


def _order(student: Detect, teacher: Detect) -> tuple[int, ...]:
    own, others = student.own_anchors, teacher.own_anchors
    return tuple(range(len(own))) if own == others else tuple(others.index(anchor) for anchor in own)
