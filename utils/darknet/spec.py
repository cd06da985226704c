"""The network as data: an immutable list of layers, every reference absolute, every width written out."""

from __future__ import annotations

from dataclasses import dataclass, field

Options = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What every layer has.

    ``sources`` are absolute layer numbers, -1 is the image; relative numbers exist only inside ``cfg.py``.
    ``line`` is the cfg line the section starts at (0 when made by code); it does not count in comparisons.
    ``options`` are keys that Darknet knows and we keep for the writer, but that change nothing in the network.
    """

    sources: tuple[int, ...]
    line: int = field(default=0, compare=False)
    options: Options = ()


@dataclass(frozen=True, kw_only=True)
class Kernel(Layer):
    """A layer with a kernel of any kind: the kernel, batch norm, activation. ``pad`` is pixels on every side."""

    filters: int
    size: int = 1
    pad: int = 0
    groups: int = 1
    bn: bool = False
    activation: str = "linear"


@dataclass(frozen=True, kw_only=True)
class Conv(Kernel):
    """Convolution. ``[depthwise]`` is a Conv with groups = filters.

    ``stride`` is (vertical, horizontal); ``pad`` has the dilation in it.
    """

    stride: tuple[int, int] = (1, 1)
    dilation: int = 1


@dataclass(frozen=True, kw_only=True)
class TransposedConv(Kernel):
    """Transposed convolution; its map is exactly ``stride`` times as large as the one it reads, in both directions.

    Every value v of the input adds v * kernel to the output, ``stride`` px on from its neighbour's, and ``pad`` px of
    the result are cut off in front.
    """

    stride: int = 1

    @property
    def output_padding(self) -> int:
        """Pixels more than the kernels reach, at the end of an axis: what makes the map ``stride`` times as large."""
        return 2 * self.pad - self.size + self.stride


@dataclass(frozen=True, kw_only=True)
class MaxPool(Layer):
    """``pad`` is the *total* padding of an axis as Darknet has it (default size - 1): pad // 2 before, the rest after.

    Padding never wins: it is -inf for floats and the lowest level for integers.
    """

    size: int = 2
    stride: int = 2
    pad: int = 1


@dataclass(frozen=True, kw_only=True)
class AvgPool(Layer):
    """Global average: [N, C, H, W] -> [N, C, 1, 1]."""


@dataclass(frozen=True, kw_only=True)
class Upsample(Layer):
    """``stride`` times as large in both directions: nearest neighbour, or with ``zeros`` values with zeros behind them.

    With zeros a value is the first of its ``stride`` x ``stride`` px; a convolution of stride 1 behind that is a
    transposed one.
    """

    stride: int = 2
    zeros: bool = False


@dataclass(frozen=True, kw_only=True)
class Route(Layer):
    """Concatenate the sources; with ``groups`` > 1 take slice ``group_id`` of each source first."""

    groups: int = 1
    group_id: int = 0


@dataclass(frozen=True, kw_only=True)
class Shortcut(Layer):
    """Sum of the sources (the previous layer first), then the activation.

    ``weights_type`` says whether the sum is weighted: ``none``, ``per_feature`` (a weight a source) or ``per_channel``
    (a weight a source and channel). ``weights_normalization`` brings the weights of a sum to a total of 1: ``none``,
    ``relu`` (what is positive of them, by their sum) or ``softmax``. Darknet itself wants one of the latter two where a
    sum is weighted.
    """

    activation: str = "linear"
    weights_type: str = "none"
    weights_normalization: str = "none"

    @property
    def weighted(self) -> bool:
        """Whether the layer has tensors of its own."""
        return self.weights_type != "none"

    def weights_shape(self, channels: int) -> tuple[int, ...]:
        """Shape of its ``weights``: [sources], or [sources, C]; they stand in the order of the sources."""
        return (len(self.sources),) if self.weights_type == "per_feature" else (len(self.sources), channels)


@dataclass(frozen=True, kw_only=True)
class SqueezeExcite(Layer):
    """x * hard_sigmoid(fc2(relu(fc1(mean(x))))), ``squeeze`` channels between; no biases."""

    squeeze: int


@dataclass(frozen=True, kw_only=True)
class ScaleChannels(Layer):
    """Sources (gate [N, C, 1, 1], features [N, C, H, W]): features * gate, then the activation."""

    activation: str = "linear"


@dataclass(frozen=True, kw_only=True)
class Dropout(Layer):
    """Active in training only."""

    probability: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Reorg(Layer):
    """Passthrough: [N, C, H, W] -> [N, C * stride^2, H / stride, W / stride], in Darknet's own order of elements.

    That order takes ``stride``^2 channels for one image of ``stride`` times the sides (reorg_cpu in blas.c, called with
    the input's sizes), so it is space-to-depth only for neighbours in memory, not for neighbours in the picture.
    """

    stride: int = 2


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
    """A detection head of any kind: decodes [N, anchors * (5 + classes), H, W] of its source."""

    anchors: tuple[tuple[float, float], ...]
    classes: int

    @property
    def own_anchors(self) -> tuple[tuple[float, float], ...]:
        """The anchors of this head, (width, height), in the unit of its kind."""
        return self.anchors

    @property
    def filters(self) -> int:
        """Channels its source must have."""
        return len(self.own_anchors) * (5 + self.classes)

    @property
    def reach(self) -> float:
        """How far beyond its cell a predicted centre can lie, in cells."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Yolo(Detect):
    """``[yolo]``, YOLOv3 and later.

    ``anchors`` lists those of all heads, (width, height) in px of the network's input; ``mask`` picks this head's.
    """

    mask: tuple[int, ...]
    scale_x_y: float = 1.0
    new_coords: bool = False

    @property
    def own_anchors(self) -> tuple[tuple[float, float], ...]:
        """The anchors this head's mask picks."""
        return tuple(self.anchors[i] for i in self.mask)

    @property
    def reach(self) -> float:
        """``scale_x_y`` stretches the range of the centre by half of what it is above 1, on each side."""
        return (self.scale_x_y - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Region(Detect):
    """``[region]``, YOLOv2: ``anchors`` are (width, height) in grid cells, and all of them are its own.

    With ``softmax`` the class numbers are one distribution, without it each is a probability of its own.
    """

    softmax: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A whole network: the keys of ``[net]`` and the layers.

    ``net`` holds the keys as written, in order; the properties below are the ones that shape the network.
    """

    layers: tuple[Layer, ...]
    net: Options = ()

    def _number(self, key: str, default: int) -> int:
        return int(float(dict(self.net).get(key, default)))

    @property
    def height(self) -> int:
        """Input height, px."""
        return self._number("height", 416)

    @property
    def width(self) -> int:
        """Input width, px."""
        return self._number("width", 416)

    @property
    def channels(self) -> int:
        """Image channels."""
        return self._number("channels", 3)

    @property
    def batch(self) -> int:
        """Images per optimizer step, as Darknet means ``batch``; 1 in a cfg that was made for inference."""
        return self._number("batch", 1)

    @property
    def subdivisions(self) -> int:
        """Darknet's parts of a batch; a mini-batch is batch / subdivisions images."""
        return max(1, self._number("subdivisions", 1))

    @property
    def heads(self) -> tuple[int, ...]:
        """Layer numbers of the output layers, in cfg order."""
        return tuple(i for i, layer in enumerate(self.layers) if isinstance(layer, Output))
