"""Every section and key that a cfg may hold.

A key is *shaping* (it changes what the network computes, and becomes a field of its layer), a *word* of Darknet's own
training or display (words.py; kept for the writer), or one that may only say that nothing is changed. Any other key is
an error.
"""

from __future__ import annotations

from utils.darknet.words import REFUSED, words

NET_SECTIONS = ("net", "network")

# Of one layer, or in [net] of all; [net]'s decay is Darknet's weight decay (docs/decisions/035).
NEURON = frozenset("""v_th membrane_decay reset reset_gradient surrogate levels membrane_bits""".split())
OWN_NEURON = NEURON | {"gate", "adaptive", "replaces"}

SHAPING: dict[str, frozenset[str]] = {
    "net": frozenset(["batch", "subdivisions", "width", "height", "channels", "letter_box", "timesteps", "input"])
    | NEURON,
    "convolutional": frozenset(
        """batch_normalize filters size stride stride_x stride_y pad padding activation groups dilation
        weight_quant""".split()
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
    "maxpool": frozenset(["size", "stride", "stride_x", "stride_y", "padding"]),
    "avgpool": frozenset(["size", "stride", "padding"]),
    "local_avgpool": frozenset(["size", "stride", "stride_x", "stride_y", "padding"]),
    "upsample": frozenset(["stride", "zeros"]),
    "route": frozenset(["layers", "groups", "group_id"]),
    "shortcut": frozenset(["from", "activation", "weights_type", "weights_normalization"]) | OWN_NEURON,
    "reorg": frozenset(["stride", "reverse"]),
    "fit": frozenset(["from", "filters", "stride", "spread"]),
    "se": frozenset(["squeeze", "reduction", "filters"]),
    "scale_channels": frozenset(["from", "activation"]),
    "dropout": frozenset(["probability"]),
    "yolo": frozenset("""mask anchors num classes scale_x_y new_coords nms_kind beta_nms""".split()),
    "region": frozenset(["anchors", "num", "classes", "coords", "softmax"]),
    "connected": frozenset(["output", "activation", "batch_normalize"]),
    "crop": frozenset(["crop_height", "crop_width", "noadjust"]),
    "softmax": frozenset(["groups", "temperature", "tree", "spatial"]),
    "cost": frozenset(),
}

KEYS = {kind: keys | words(kind) | frozenset(REFUSED.get(kind, ())) for kind, keys in SHAPING.items()}

NMS_KINDS = {"none": "default", **{kind: kind for kind in ("default", "greedynms", "diounms", "cornersnms")}}
WEIGHTS = {"none": "none", "per_feature": "per_feature", "per_layer": "per_feature", "per_channel": "per_channel"}
NORMALIZATIONS = {"none": "none", "relu": "relu", "avg_relu": "relu", "softmax": "softmax"}
"""What a weighted shortcut's keys may say, Darknet's second names included."""
WEIGHT_QUANTS = {"none": "none", "binary": "binary"}
INPUTS = {"none": "repeat", "repeat": "repeat", "frames": "frames"}  # [net] input=; "none" where it is not set
