"""Every section and key that a cfg may hold.

A key is *shaping* (it changes what the network computes, and becomes a field of its layer), a *word* of Darknet's own
training or display (words.py; kept for the writer), or one that may only say that nothing is changed. Any other key is
an error.
"""

from __future__ import annotations

from utils.darknet.words import REFUSED, words

NET_SECTIONS = ("net", "network")

# Of one layer, or in [net] of all; [net]'s decay is Darknet's weight decay (docs/decisions/035).
EVENTS = frozenset(f"event_{key}" for key in "bins window size frame shift drop jitter".split())  # of recordings
NEURON = frozenset(
    """v_th membrane_decay tau membrane_start reset reset_gradient surrogate surrogate_width levels membrane_bits
    signed""".split()
)
OWN_NEURON = NEURON | {"gate", "adaptive", "replaces"}
RNN_NEURON = NEURON - {
    "membrane_start",
    "surrogate_width",
    "levels",
    "membrane_bits",
    "signed",
}  # of a recurrent layer's units

SHAPING: dict[str, frozenset[str]] = {
    "net": frozenset(
        ["batch", "subdivisions", "width", "height", "channels", "letter_box", "timesteps", "input", "readout"]
    )
    | NEURON
    | EVENTS,
    "convolutional": frozenset(
        """batch_normalize filters size stride stride_x stride_y pad padding activation groups dilation
        weight_quant antialiasing share_index""".split()
    )
    | OWN_NEURON,
    "depthwise": frozenset(
        """batch_normalize filters size stride stride_x stride_y pad padding activation weight_quant""".split()
    )
    | OWN_NEURON,
    "transposed_convolutional": frozenset(
        """batch_normalize filters size stride pad padding activation groups weight_quant""".split()
    )
    | OWN_NEURON,
    "maxpool": frozenset(["size", "stride", "stride_x", "stride_y", "padding", "antialiasing"]),
    "avgpool": frozenset(["size", "stride", "padding"]),
    "local_avgpool": frozenset(["size", "stride", "stride_x", "stride_y", "padding"]),
    "upsample": frozenset(["stride", "zeros"]),
    "route": frozenset(["layers", "groups", "group_id"]),
    "route_lhalf": frozenset(["layers"]),
    "shortcut": frozenset(["from", "activation", "weights_type", "weights_normalization"]) | OWN_NEURON,
    "activation": frozenset(["activation"]) | OWN_NEURON,
    "reorg": frozenset(["stride", "reverse", "extra"]),
    "fit": frozenset(["from", "filters", "stride", "spread"]),
    "reorg3d": frozenset(["stride", "reverse"]),
    "se": frozenset(["squeeze", "reduction", "filters"]),
    "scale_channels": frozenset(["from", "activation"]),
    "sam": frozenset(["from", "activation"]),
    **dict.fromkeys(("implicit_add", "implicit_mul"), frozenset(["filters"])),
    **dict.fromkeys(("shift_channels", "control_channels"), frozenset(["from"])),
    "dropout": frozenset(["probability"]),
    "empty": frozenset(),
    **dict.fromkeys(
        ("yolo", "yolo_bdp"), frozenset("""mask anchors num classes scale_x_y new_coords nms_kind beta_nms""".split())
    ),
    "Gaussian_yolo": frozenset("""mask anchors num classes scale_x_y nms_kind beta_nms""".split()),
    "region": frozenset(["anchors", "num", "classes", "coords", "softmax", "tree", "parents"]),
    "connected": frozenset(["output", "activation", "batch_normalize"]),
    "crop": frozenset(["crop_height", "crop_width", "noadjust"]),
    "softmax": frozenset(["groups", "temperature", "tree", "spatial"]),
    "segment": frozenset(["classes", "ignore", "factor"]),
    "cost": frozenset(),
    "contrastive": frozenset(),
    "lif_rnn": frozenset(["output", "sends", "step_norm"]) | RNN_NEURON,
    "ltc_rnn": frozenset(["output", "sends", "step_norm", "adaptive"]) | RNN_NEURON,
    "lstm": frozenset(["output"]),
    "sequence": frozenset(["predicts", "at", "data", "order"]),
}

KEYS = {kind: keys | words(kind) | frozenset(REFUSED.get(kind, ())) for kind, keys in SHAPING.items()}

NMS_KINDS = {"none": "default", **{kind: kind for kind in ("default", "greedynms", "diounms", "cornersnms")}}
WEIGHTS = {"none": "none", "per_feature": "per_feature", "per_layer": "per_feature", "per_channel": "per_channel"}
NORMALIZATIONS = {"none": "none", "relu": "relu", "avg_relu": "relu", "softmax": "softmax"}
"""What a weighted shortcut's keys may say, Darknet's second names included."""
WEIGHT_QUANTS = {"none": "none", "binary": "binary", "int8": "int8"}
EVENT_BINS = {"none": "number", **{kind: kind for kind in ("number", "time", "count")}}
EVENT_FRAMES = {"none": "binary", **{kind: kind for kind in ("binary", "count", "polarity", "voxel")}}
READOUTS = {"none": "mean", "mean": "mean", "last": "last"}  # [net] readout=
INPUTS = {"none": "repeat", "repeat": "repeat", "frames": "frames"}  # [net] input=; "none" where it is not set

SECOND_NAMES = {
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
    "soft": "softmax",
    "silence": "empty",
    "lrn": "normalization",
    "deconv": "deconvolutional",
}
"""Darknet's other names of sections."""

SENDS = {"none": "spikes", "spikes": "spikes", "membrane": "membrane"}
PREDICTS = {"none": "class", "class": "class", "value": "value"}
AT = {"none": "last", "last": "last", "every": "every"}
ORDERS = {"none": "pixels", "pixels": "pixels", "permuted": "permuted", "rows": "rows"}
"""What the keys of recurrent layers and of [sequence] may say; "none" where they are not set."""
RECURRENT = ("lif_rnn", "ltc_rnn", "lstm")

_STATE = "keeps a state from one image to the next, and a network here sees each image alone"
_STEPS = "end the cfg in [sequence], whose network sees a sequence step by step"
NO_PLACE = {  # sections that are known and refused -> why; what to do instead
    **dict.fromkeys(
        ("crnn", "conv_lstm", "history"), f"{_STATE}; put a [convolutional] in its place and train that again"
    ),
    **dict.fromkeys(("rnn", "gru"), f"{_STATE}; use [lstm] and {_STEPS}"),
    "detection": "is the head of YOLOv1, which reads a vector for the whole image; use YOLOv2 or later",
    "iseg": "predicts a mask for every object, which no task here learns; use [yolo], whose objects have boxes",
    "l2norm": "divides every px by the length of its channels; take it out and train that again",
    "logistic": "is a loss of scores that do not exclude each other; use [softmax]",
    "deconvolutional": "has kernels in an order of its own; use a [transposed_convolutional] and train that again",
    "local": "has other kernels at every px, which no later network has; use a [convolutional]",
    "normalization": "normalises over channels, as networks did before batch norm; take it out and say "
    "batch_normalize=1 in the convolution before it",
    "batchnorm": "normalises apart from any convolution; take it out and say batch_normalize=1 in the one before it",
    **dict.fromkeys(
        ("implicit_cat", "alternate_channels"),
        "is a way to put learned channels beside those of a map; use [implicit_add] and [shift_channels]",
    ),
    "implicit": "has learned values that no section of Darknet's takes; use [implicit_add] and [shift_channels]",
}
LOSSES = {  # sections that are Darknet's own losses -> what is here in their place
    "cost": "the loss is that of the network's task",
    "contrastive": "embeddings for Darknet's tracking are not learned here, boxes are",
}
NO_SEQUENCE = f"{_STATE}; {_STEPS}"  # of RECURRENT
