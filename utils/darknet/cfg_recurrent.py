"""The sections of recurrent layers, and of the output of sequences, as layers."""

from __future__ import annotations

from utils.darknet import spec as s
from utils.darknet.cfg_schema import AT, ORDERS, PREDICTS, SENDS
from utils.darknet.neuron_cfg import read_neuron
from utils.darknet.sections import Section
from utils.errors import InputError

RNNS: dict[str, type[s.SpikingRnn]] = {"lif_rnn": s.LifRnn, "ltc_rnn": s.LtcRnn}


def rnn(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """``[lif_rnn]`` and ``[ltc_rnn]``."""
    sec.required("output")
    steps, trained = sec.integer("step_norm", 0), net.integer("timesteps", 1)
    if steps > trained and "timesteps" in net.options:
        raise InputError(
            f"{sec.name} line {sec.options['step_norm'][0]}: step_norm={steps}: training sees timesteps={trained} and "
            f"leaves the norms of later steps as they began; give {trained} at most"
        )
    kind = RNNS[sec.kind]
    return kind(
        sources=(len(layers) - 1,),
        line=sec.line,
        filters=sec.integer("output", 1, 1),
        neuron=read_neuron(sec, kind.neuron_kind),
        sends=sec.one_of("sends", SENDS),
        step_norm=steps,
    )


def lstm(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """``[lstm]``."""
    sec.required("output")
    return s.Lstm(sources=(len(layers) - 1,), line=sec.line, filters=sec.integer("output", 1, 1))


def sequence(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """``[sequence]``."""
    predicts, data = sec.one_of("predicts", PREDICTS), sec.text("data", "")
    if (data.partition(":")[0] == "adding") != (predicts == "value") and data:
        raise InputError(f"{sec.place}: data={data} beside predicts={predicts}; the sums of data=adding are a value")
    if predicts == "value" and "order" in sec.options:
        raise InputError(f"{sec.place}: order= is of pictures, which predicts=value has not; leave it away")
    return s.SequenceOutput(
        sources=(len(layers) - 1,),
        line=sec.line,
        predicts=predicts,
        at=sec.one_of("at", AT),
        data=data,
        order=sec.one_of("order", ORDERS),
    )
