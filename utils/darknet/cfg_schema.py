"""Every section and key that a cfg may hold.

A key is *shaping* (it changes what the network computes, and becomes a field of its layer) or *passive* (Darknet knows
it, training or post-processing there uses it; we keep it for the writer). Any other key is an error.
"""

from __future__ import annotations

NET_SECTIONS = ("net", "network")

PASSIVE: dict[str, frozenset[str]] = {
    "net": frozenset(
        """momentum decay learning_rate burn_in max_batches policy steps scales angle saturation exposure hue aspect
        mosaic mosaic_bound cutmix mixup blur gaussian_noise letter_box label_smooth_eps ema_alpha max_crop min_crop
        flip adversarial_lr try_fix_nan optimized_memory workspace_size_limit_MB power gamma sgdr_cycle adam B1 B2
        eps max_chart_loss dynamic_minibatch time_steps""".split()
    ),
    "scale_channels": frozenset(["scale_wh"]),
    "dropout": frozenset(),
    "yolo": frozenset(
        """jitter ignore_thresh truth_thresh random max resize iou_loss iou_normalizer cls_normalizer
        obj_normalizer delta_normalizer iou_thresh iou_thresh_kind nms_kind beta_nms max_delta counters_per_class
        label_smooth_eps focal_loss objectness_smooth map total mask_scale""".split()
    ),
    "region": frozenset(
        """bias_match jitter resize rescore random thresh max absolute log sqrt classfix focal_loss object_scale
        noobject_scale class_scale coord_scale mask_scale""".split()
    ),
}

SHAPING: dict[str, frozenset[str]] = {
    "net": frozenset(["batch", "subdivisions", "width", "height", "channels"]),
    "convolutional": frozenset(
        """batch_normalize filters size stride stride_x stride_y pad padding activation groups dilation""".split()
    ),
    "depthwise": frozenset("""batch_normalize filters size stride stride_x stride_y pad padding activation""".split()),
    "transposed_convolutional": frozenset(
        """batch_normalize filters size stride pad padding activation groups""".split()
    ),
    "maxpool": frozenset(["size", "stride", "padding"]),
    "avgpool": frozenset(["size", "stride", "padding"]),
    "local_avgpool": frozenset(["size", "stride", "padding"]),
    "upsample": frozenset(["stride", "zeros"]),
    "route": frozenset(["layers", "groups", "group_id"]),
    "shortcut": frozenset(["from", "activation", "weights_type", "weights_normalization"]),
    "reorg": frozenset(["stride", "reverse"]),
    "se": frozenset(["squeeze", "reduction", "filters"]),
    "scale_channels": frozenset(["from", "activation"]),
    "dropout": frozenset(["probability"]),
    "yolo": frozenset(["mask", "anchors", "num", "classes", "scale_x_y", "new_coords"]),
    "region": frozenset(["anchors", "num", "classes", "coords", "softmax"]),
}

KEYS = {kind: keys | PASSIVE.get(kind, frozenset()) for kind, keys in SHAPING.items()}

WEIGHTS = {"none": "none", "per_feature": "per_feature", "per_layer": "per_feature", "per_channel": "per_channel"}
NORMALIZATIONS = {"none": "none", "relu": "relu", "avg_relu": "relu", "softmax": "softmax"}
"""What a weighted shortcut's keys may say, Darknet's second names included."""
