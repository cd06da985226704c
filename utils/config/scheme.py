"""What the flags say of bits, as the scheme that quantisation and quantised training take."""

from __future__ import annotations

from utils.config.bits import A_BIT, PERCENTILE, W_BIT
from utils.config.quantise import QuantiseConfig
from utils.config.train import TrainConfig
from utils.darknet.spec import ModelSpec
from utils.quantization.bits import check_layers, read_bits_map
from utils.quantization.scheme import Scheme
from utils.quantization.sensitivity import FULL
from utils.quantization.stages import wanted_bits


def training_scheme(config: TrainConfig) -> Scheme | None:
    """The scheme that the config asks for; None where it asks for floats.

    Raises:
        InputError: bits that do not exist.
    """
    style = config.wanted_style
    if not style:
        return None
    w_bit, a_bit = wanted_bits(config.w_bit, config.a_bit, config.progressive, usual=(W_BIT, A_BIT))
    return Scheme(
        style=style,
        w_bit=w_bit,
        a_bit=a_bit,
        layer_bits=read_bits_map(config.bits_map) if config.bits_map else (),
        range_scale=config.range_scale,
        equalise=not (config.sparse or config.no_equalise),  # it moves gammas, which -sr pushes: those stay
        correct_bias=False,  # training does that
        acc_bits=config.acc_bits,
    )


def scheme_of(config: QuantiseConfig, spec: ModelSpec) -> Scheme:
    """The scheme that the config says; with ``--bits auto`` the 8 bits from which it goes down.

    Raises:
        InputError: bits that there are not, or bits for a layer that has none.
    """
    layer_bits = () if config.bits_map is None else read_bits_map(config.bits_map)
    check_layers(layer_bits, spec, str(config.bits_map))
    return Scheme(
        w_bit=config.w_bit if config.bits is None else FULL,
        a_bit=config.a_bit if config.bits is None else FULL,
        ranges=config.ranges,
        percentile=PERCENTILE if config.percentile is None else config.percentile,
        range_scale=config.range_scale,
        equalise=not config.no_equalise,
        correct_bias=not config.no_bias_correction,
        style=config.wanted_style,
        layer_bits=layer_bits,
        acc_bits=config.acc_bits,
    )
