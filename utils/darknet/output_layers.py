"""The layers that a network is asked for; which of them it ends in says which task it has."""

from __future__ import annotations

from dataclasses import dataclass

from utils.darknet.layers import Layer

GREEDY_POWER = 0.6  # written in Darknet's code


@dataclass(frozen=True, kw_only=True)
class Output(Layer):
    """What the network is asked for: a read-out of the accumulator before it.

    In integers the convolution that it reads stays int32, in spikes it is a membrane. The kind of a network's outputs
    says which task it has (utils/task.py).
    """

    @property
    def filters(self) -> int:
        """Channels its source must have."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Detect(Output):
    """A detection head of any kind: decodes [N, anchors * (5 + classes), H, W] of its source.

    ``parents`` are those of its classes where these are a hierarchy (tree.py), which only a [region] has; else ().
    """

    anchors: tuple[tuple[float, float], ...]
    classes: int
    parents: tuple[int, ...] = ()

    @property
    def own_anchors(self) -> tuple[tuple[float, float], ...]:
        """The anchors of this head, (width, height), in the unit of its kind."""
        return self.anchors

    @property
    def each(self) -> int:
        """Numbers of one anchor in one cell: x, y, w, h, objectness, classes."""
        return 5 + self.classes

    @property
    def spreads(self) -> int:
        """How many of these say how sure the box is: none, or one for each of x, y, w, h."""
        return self.each - 5 - self.classes

    @property
    def turned(self) -> bool:
        """Whether its boxes are turned, by two numbers behind w and h: the point that is their front."""
        return False

    @property
    def filters(self) -> int:
        """Channels its source must have."""
        return len(self.own_anchors) * self.each

    @property
    def count_word(self) -> str:
        """What a cfg counts its own anchors by."""
        return "anchors"

    @property
    def reach(self) -> float:
        """How far beyond its cell a predicted centre can lie, in cells."""
        return 0.0

    @property
    def distance_power(self) -> float | None:
        """The power of the centres' distance that suppression takes off an overlap; None: overlaps alone count."""
        return None


@dataclass(frozen=True, kw_only=True)
class Yolo(Detect):
    """``[yolo]``, YOLOv3 and later.

    ``anchors`` lists those of all heads, (width, height) in px of the network's input; ``mask`` picks this head's.
    """

    mask: tuple[int, ...]
    scale_x_y: float = 1.0
    new_coords: bool = False
    nms_kind: str = "default"
    beta_nms: float = 0.6

    @property
    def own_anchors(self) -> tuple[tuple[float, float], ...]:
        """The anchors this head's mask picks."""
        return tuple(self.anchors[i] for i in self.mask)

    @property
    def count_word(self) -> str:
        """What a cfg counts its own anchors by."""
        return "masks"

    @property
    def reach(self) -> float:
        """``scale_x_y`` stretches the range of the centre by half of what it is above 1, on each side."""
        return (self.scale_x_y - 1) / 2

    @property
    def distance_power(self) -> float | None:
        """``diounms`` takes ``beta_nms``; ``greedynms`` 0.6, whatever that says; the others take nothing off.

        Source: diounms_sort and box_diou of Darknet's box.c.
        """
        return {"greedynms": GREEDY_POWER, "diounms": self.beta_nms}.get(self.nms_kind)


@dataclass(frozen=True, kw_only=True)
class GaussianYolo(Yolo):
    """``[Gaussian_yolo]``: each of x, y, w, h is a mean with a spread behind it.

    Numbers of an anchor: x, sx, y, sy, w, sw, h, sh, objectness, classes. The logistic of a spread's number is a
    standard deviation, and a score is less by the mean of the four.

    Source: Choi et al., Gaussian YOLOv3, section 3 (arXiv 1904.04620); Darknet's gaussian_yolo_layer.c.
    """

    @property
    def each(self) -> int:
        """Numbers of one anchor in one cell: four with their spreads, objectness, classes."""
        return 9 + self.classes


@dataclass(frozen=True, kw_only=True)
class TurnedYolo(Yolo):
    """``[yolo_bdp]`` of hank-ai's Darknet: boxes that are turned, so that they look at a point.

    Numbers of an anchor: x, y, w, h, fx, fy, objectness, classes. The side along the way to the point is h.

    Source: hank-ai's yolo_layer_bdp.cpp and box.cpp, which name arXiv 2208.05433.
    """

    @property
    def each(self) -> int:
        """Numbers of one anchor in one cell: four and the point, objectness, classes."""
        return 7 + self.classes

    @property
    def spreads(self) -> int:
        """None: the two numbers more are the point."""
        return 0

    @property
    def turned(self) -> bool:
        """They are."""
        return True

    @property
    def reach(self) -> float:
        """Half a cell on each side, as far as the centre's formula goes, whatever ``scale_x_y`` says."""
        return 0.5


@dataclass(frozen=True, kw_only=True)
class Region(Detect):
    """``[region]``, YOLOv2: ``anchors`` are (width, height) in grid cells, and all of them are its own.

    With ``softmax`` the class numbers are one distribution, without it each is a probability of its own. ``tree`` is
    the file that a hierarchy of classes was read from.
    """

    softmax: bool = False
    tree: str = ""


@dataclass(frozen=True, kw_only=True)
class Classify(Output):
    """One class for a picture: a score a channel, the mean over the map where that is larger than 1x1."""


@dataclass(frozen=True, kw_only=True)
class Softmax(Classify):
    """``[softmax]``: scores over ``temperature`` as probabilities, whose sum is 1 in each of ``groups`` equal parts."""

    groups: int = 1
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Segment(Output):
    """``[segment]``: a class for every pixel, the largest score of a map that is enlarged ``factor`` times, bilinear.

    ``ignore`` is the number in masks that is no class and does not count.
    """

    classes: int
    ignore: int = 255
    factor: int = 1
