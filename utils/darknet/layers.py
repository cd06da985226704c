"""The kinds of layers as data: frozen, every reference absolute, every width written out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from utils.darknet.neuron_spec import NeuronKeys

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

    @property
    def features(self) -> tuple[int, ...]:
        """The sources whose values it works on; a gate only scales them."""
        return self.sources


@dataclass(frozen=True, kw_only=True)
class Activated(Layer):
    """A layer that ends in an activation; ``neuron`` is what its section says of one that keeps state."""

    activation: str = "linear"
    neuron: NeuronKeys = field(default_factory=NeuronKeys)


@dataclass(frozen=True, kw_only=True)
class Activation(Activated):
    """``[activation]``: an activation alone; what it reads can be read by others without it (pre-activation)."""


@dataclass(frozen=True, kw_only=True)
class Kernel(Activated):
    """A layer with a kernel of any kind: the kernel, batch norm, activation. ``pad`` is pixels on every side.

    ``weight_quant``: ``binary`` trains weights of one bit each, ``int8`` of 8 bits in a network of spikes, ``none``
    leaves them alone.
    """

    inputs_first: ClassVar[bool] = False  # on the first axis of the kernel's tensor, not the outputs
    filters: int
    size: int = 1
    pad: int = 0
    groups: int = 1
    bn: bool = False
    weight_quant: str = "none"

    @property
    def shared_by(self) -> int:
        """How many output px in a square share one kernel's weights among them."""
        return 1

    def depthwise(self, in_channels: int) -> bool:
        """Whether each filter reads one channel and is the only one to read it."""
        return 1 < self.groups == self.filters == in_channels

    def narrowed(self, filters: int) -> Self:
        """The layer with fewer filters. Groups go whole, and those of a depthwise one are its channels: both shrink."""
        return replace(self, filters=filters, groups=max(1, self.groups * filters // self.filters))


@dataclass(frozen=True, kw_only=True)
class Conv(Kernel):
    """Convolution. ``[depthwise]`` is a Conv with groups = filters.

    ``stride`` is (vertical, horizontal); ``pad`` has the dilation in it. ``shared`` is the number of the set of
    convolutions that it has its tensors with (sharing.py); 0: they are its own.
    """

    stride: tuple[int, int] = (1, 1)
    dilation: int = 1
    shared: int = 0

    def narrowed(self, filters: int) -> Self:
        """As any kernel's; its tensors are its own from there on."""
        return replace(super().narrowed(filters), shared=0)


@dataclass(frozen=True, kw_only=True)
class Connected(Conv):
    """``[connected]``: every value of the map that it reads to every output; a kernel as large as that map.

    ``size`` is the side of that map, which must be square. Darknet's matrix [out, C * size * size] is the kernel
    [out, C, size, size] as it lies in memory.
    """


@dataclass(frozen=True, kw_only=True)
class Crop(Layer):
    """``[crop]``: the middle of the image, brought from 0..1 to -1..1 unless ``noadjust``.

    ``given`` and ``kept`` are (height, width) px of what it reads and of what it gives.
    """

    given: tuple[int, int]
    kept: tuple[int, int]
    noadjust: bool = False


@dataclass(frozen=True, kw_only=True)
class TransposedConv(Kernel):
    """Transposed convolution; its map is exactly ``stride`` times as large as the one it reads, in both directions.

    Every value v of the input adds v * kernel to the output, ``stride`` px on from its neighbour's, and ``pad`` px of
    the result are cut off in front.
    """

    inputs_first: ClassVar[bool] = True
    stride: int = 1

    @property
    def shared_by(self) -> int:
        """How many output px in a square share one kernel's weights among them."""
        return self.stride**2

    @property
    def output_padding(self) -> int:
        """Pixels more than the kernels reach, at the end of an axis: what makes the map ``stride`` times as large."""
        return 2 * self.pad - self.size + self.stride


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

    @property
    def repeats(self) -> bool:
        """Whether it is one source as it is."""
        return len(self.sources) == 1 and self.groups == 1


@dataclass(frozen=True, kw_only=True)
class Shortcut(Activated):
    """Sum of the sources (the previous layer first), then the activation.

    The sum has the shape of the first source. Of a source of another width the channels that both have are added; of
    one k times as large every k-th px in both directions, of a smaller one each px to every k-th (shortcut_cpu in
    Darknet's blas.c).

    ``weights_type`` says whether the sum is weighted: ``none``, ``per_feature`` (a weight a source) or ``per_channel``
    (a weight a source and channel). ``weights_normalization`` brings the weights of a sum to a total of 1: ``none``,
    ``relu`` (what is positive of them, by their sum) or ``softmax``. Darknet itself wants one of the latter two where a
    sum is weighted.
    """

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
class Fitted(Layer):
    """What a shortcut adds of a map of another shape: no cfg of Darknet's has it, `expand` writes it out.

    The first ``filters`` channels, zeros in those that the map lacks; of them every ``stride``-th px, or each px and
    ``spread`` - 1 zeros behind it, in both directions.
    """

    filters: int
    stride: int = 1
    spread: int = 1


@dataclass(frozen=True, kw_only=True)
class SqueezeExcite(Layer):
    """x * hard_sigmoid(fc2(relu(fc1(mean(x))))), ``squeeze`` channels between; no biases."""

    squeeze: int


@dataclass(frozen=True, kw_only=True)
class ScaleChannels(Activated):
    """Sources (gate [N, C, 1, 1], features [N, C, H, W]): features * gate, then the activation."""

    @property
    def features(self) -> tuple[int, ...]:
        """What it scales."""
        return self.sources[1:]


@dataclass(frozen=True, kw_only=True)
class Product(Activated):
    """``[sam]``: the product of two maps of one shape, the previous layer first, then the activation.

    Source: spatial attention of Bochkovskiy et al., YOLOv4, figure 5 (arXiv 2004.10934).
    """


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
class Reorg3d(Layer):
    """``[reorg3d]``: space to depth, [N, C, H, W] -> [N, C * stride^2, H / stride, W / stride], [dy][dx][C] outside.

    What neighbours of a px are become channels of it (reorg_cpu in Darknet's blas.c, called with the output's sizes).
    """

    stride: int = 2
