"""The sections of a cfg as layers: each from its keys and the layers before it; those of heads are in cfg_heads.py."""

from __future__ import annotations

from collections.abc import Callable

from utils.darknet import spec as s
from utils.darknet.cfg_heads import region, yolo
from utils.darknet.cfg_moves import crop, left_half, nothing, reorg, reorg3d, size_before, upsample, width_before
from utils.darknet.cfg_recurrent import lstm, rnn, sequence
from utils.darknet.cfg_schema import (
    NORMALIZATIONS,
    WEIGHT_QUANTS,
    WEIGHTS,
)
from utils.darknet.neuron_cfg import read_neuron
from utils.darknet.neuron_spec import NEURONS
from utils.darknet.sections import Section
from utils.errors import InputError


def _conv(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    sec.required("filters")
    size, filters = sec.integer("size", 1, 1), sec.integer("filters", 1, 1)
    stride, dilation = sec.integer("stride", 1, 1), sec.integer("dilation", 1, 1)
    pad = size // 2 if sec.integer("pad", 0) else sec.integer("padding", 0)
    groups = filters if sec.kind == "depthwise" else sec.integer("groups", 1, 1)
    activation = sec.activation("logistic")  # Darknet's default, option_find_str in parser.c
    return s.Conv(
        sources=(len(layers) - 1,),
        line=sec.line,
        filters=filters,
        size=size,
        stride=(sec.integer("stride_y", stride, 1), sec.integer("stride_x", stride, 1)),
        pad=pad * dilation,
        groups=groups,
        dilation=dilation,
        bn=bool(sec.integer("batch_normalize", 0) or sec.integer("cbn", 0)),
        activation=activation,
        neuron=read_neuron(sec, activation),
        weight_quant=sec.one_of("weight_quant", WEIGHT_QUANTS),
    )


def _connected(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    sec.required("output")
    high, across = size_before(layers, net)
    if high != across or high < 1:
        raise InputError(
            f"{sec.place}: [connected] reads a map of {high}x{across} px; it takes a square one, "
            "put an [avgpool] before it or make [net] width and height equal"
        )
    return s.Connected(
        sources=(len(layers) - 1,),
        line=sec.line,
        filters=sec.integer("output", 1, 1),
        size=high,
        bn=bool(sec.integer("batch_normalize", 0)),
        activation=sec.activation("logistic"),  # parse_connected in parser.c
    )


def _softmax(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    if "tree" in sec.options:
        raise InputError(f"{sec.place}: tree= (a hierarchy of classes) is not supported; delete it for plain classes")
    if sec.integer("spatial", 0):
        raise InputError(f"{sec.place}: spatial=1 is not supported; delete it, and put an [avgpool] before the softmax")
    temperature = sec.real("temperature", 1.0)
    if not 0 < temperature < float("inf"):
        raise InputError(f"{sec.place}: temperature={sec.text('temperature', '')} must be above 0")
    return s.Softmax(
        sources=(len(layers) - 1,),
        line=sec.line,
        options=sec.passive(),
        groups=sec.integer("groups", 1, 1),
        temperature=temperature,
    )


def _segment(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    sec.required("classes")
    classes, ignore = sec.integer("classes", 1, 2), sec.integer("ignore", 255)
    if not classes <= ignore <= 255 or classes > 255:
        raise InputError(
            f"{sec.place}: classes={classes}, ignore={ignore}; there are 255 classes at most, and what is ignored is "
            "none of them, but at most 255"
        )
    factor = sec.integer("factor", 1, 1)
    return s.Segment(sources=(len(layers) - 1,), line=sec.line, classes=classes, ignore=ignore, factor=factor)


def _transposed(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    sec.required("filters")
    size, stride, activation = sec.integer("size", 1, 1), sec.integer("stride", 1, 1), sec.activation("logistic")
    if activation == "ltc":
        raise InputError(f"{sec.place}: [{sec.kind}] can not have activation=ltc; use lif, or a [convolutional]")
    layer = s.TransposedConv(
        sources=(len(layers) - 1,),
        line=sec.line,
        filters=sec.integer("filters", 1, 1),
        size=size,
        stride=stride,
        pad=size // 2 if sec.integer("pad", 0) else sec.integer("padding", 0),
        groups=sec.integer("groups", 1, 1),
        bn=bool(sec.integer("batch_normalize", 0)),
        activation=activation,
        neuron=read_neuron(sec, activation),
        weight_quant=sec.one_of("weight_quant", WEIGHT_QUANTS),
    )
    if not 0 <= layer.output_padding < stride:
        remedy = f"padding={(size - 1) // 2} instead" if stride > 1 or size % 2 else "an odd size and pad=1"
        raise InputError(
            f"{sec.place}: [{sec.kind}] with size={size}, stride={stride} and {layer.pad} px of padding does not make "
            f"a map exactly {stride} times as large; use {remedy}"
        )
    return layer


def _maxpool(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    stride = sec.integer("stride", 1, 1)
    size = sec.integer("size", stride, 1)
    return _pool(s.MaxPool, sec, layers, (size, stride, sec.integer("padding", size - 1)))


def _local_avgpool(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """Keys and defaults are those of [maxpool]: Darknet makes both of one layer (parse_local_avgpool in parser.c)."""
    stride = sec.integer("stride", 1, 1)
    size = sec.integer("size", stride, 1)
    return _pool(s.LocalAvgPool, sec, layers, (size, stride, sec.integer("padding", size - 1)))


def _pool(kind: type[s.Pool], sec: Section, layers: list[s.Layer], numbers: tuple[int, int, int]) -> s.Layer:
    size, stride, pad = numbers
    for key in ("stride_x", "stride_y"):
        if sec.integer(key, stride, 1) != stride:
            raise InputError(
                f"{sec.place}: {key}={sec.text(key, '')} beside stride={stride} is not supported in a pool"
            )
    if pad // 2 >= size or pad - pad // 2 >= size:
        raise InputError(f"{sec.place}: padding={pad} is more than a pool of size {size} can take")
    return kind(sources=(len(layers) - 1,), line=sec.line, size=size, stride=stride, pad=pad)


def _route(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    groups, group_id = sec.integer("groups", 1, 1), sec.integer("group_id", 0)
    if group_id >= groups:
        raise InputError(f"{sec.place}: group_id={group_id} must be under groups={groups}")
    sources = sec.references("layers")
    return s.Route(sources=sources, line=sec.line, groups=groups, group_id=group_id)


def _shortcut(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    return s.Shortcut(
        sources=(len(layers) - 1, *sec.references("from")),
        line=sec.line,
        activation=sec.activation("linear"),
        neuron=read_neuron(sec, sec.activation("linear")),
        weights_type=sec.one_of("weights_type", WEIGHTS),
        weights_normalization=sec.one_of("weights_normalization", NORMALIZATIONS),
    )


def _activation(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    activation = sec.activation("linear")  # parse_activation in parser.c
    neuron = read_neuron(sec, activation)
    return s.Activation(sources=(len(layers) - 1,), line=sec.line, activation=activation, neuron=neuron)


def _fit(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    stride, spread = sec.integer("stride", 1, 1), sec.integer("spread", 1, 1)
    sources = sec.references("from")
    sec.required("filters")
    if len(sources) != 1 or (stride > 1 and spread > 1):
        raise InputError(f"{sec.place}: [fit] reads one layer, and has a stride or a spread; this one says otherwise")
    return s.Fitted(sources=sources, line=sec.line, filters=sec.integer("filters", 1, 1), stride=stride, spread=spread)


def _scale_channels(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    if sec.integer("scale_wh", 0):
        raise InputError(f"{sec.place}: scale_wh=1 is not supported; only scaling by channel is")
    activation = sec.activation("linear")
    if activation in NEURONS:
        raise InputError(f"{sec.place}: [{sec.kind}] can not have activation={activation}; its gate sends no spikes")
    sources = (len(layers) - 1, *sec.references("from"))
    return s.ScaleChannels(sources=sources, line=sec.line, activation=activation)


def _product(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    sources = (len(layers) - 1, *sec.references("from"))
    if len(sources) != 2:
        raise InputError(f"{sec.place}: [sam] multiplies two maps; from= names {len(sources) - 1} layers beside it")
    return s.Product(sources=sources, line=sec.line, activation=sec.activation("linear"))


def _implicit(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    sec.required("filters")
    kind = s.ImplicitAdd if sec.kind == "implicit_add" else s.ImplicitMul
    return kind(sources=(-1,), line=sec.line, filters=sec.integer("filters", 1, 1))


def _informed(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    sources = (len(layers) - 1, *sec.references("from"))
    if len(sources) != 2 or not isinstance(layers[sources[1]], s.Implicit):
        raise InputError(
            f"{sec.place}: [{sec.kind}] wants one [implicit_add] or [implicit_mul]; from= names no such layer"
        )
    kind = s.ShiftChannels if sec.kind == "shift_channels" else s.ControlChannels
    return kind(sources=sources, line=sec.line)


def _squeeze_excite(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    squeeze = sec.integer("squeeze", max(1, width_before(layers, net) // sec.integer("reduction", 4, 1)), 1)
    return s.SqueezeExcite(sources=(len(layers) - 1,), line=sec.line, squeeze=squeeze)


def _avgpool(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """Global without keys; with a size it is a [local_avgpool] of windows side by side, without padding."""
    if not {"size", "stride", "padding"} & sec.options.keys():
        return s.AvgPool(sources=(len(layers) - 1,), line=sec.line)
    sec.required("size")
    size = sec.integer("size", 1, 1)
    return _pool(s.LocalAvgPool, sec, layers, (size, sec.integer("stride", size, 1), sec.integer("padding", 0)))


def _no_layer(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    raise AssertionError(sec.place)


def _dropout(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    probability = sec.real("probability", 0.2)  # parse_dropout in parser.c
    return s.Dropout(sources=(len(layers) - 1,), line=sec.line, probability=probability)


READERS: dict[str, Callable[[Section, list[s.Layer], Section], s.Layer | tuple[s.Layer, ...]]] = {
    "convolutional": _conv,
    "depthwise": _conv,
    "transposed_convolutional": _transposed,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "local_avgpool": _local_avgpool,
    "upsample": upsample,
    "route": _route,
    "shortcut": _shortcut,
    "activation": _activation,
    "fit": _fit,
    "se": _squeeze_excite,
    "scale_channels": _scale_channels,
    "dropout": _dropout,
    "empty": nothing,
    "reorg": reorg,
    "connected": _connected,
    "crop": crop,
    "softmax": _softmax,
    "segment": _segment,
    "cost": _no_layer,
    "contrastive": _no_layer,
    "reorg3d": reorg3d,
    "route_lhalf": left_half,
    "sam": _product,
    "implicit_add": _implicit,
    "implicit_mul": _implicit,
    "shift_channels": _informed,
    "control_channels": _informed,
    "region": region,
    "yolo": yolo,
    "Gaussian_yolo": yolo,
    "yolo_bdp": yolo,
    "lif_rnn": rnn,
    "ltc_rnn": rnn,
    "lstm": lstm,
    "sequence": sequence,
}
