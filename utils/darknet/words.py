"""Keys that steer Darknet's own training or display and change no inference: each with what it says there.

They are kept when a cfg is written. `FOLLOWED` are those that train.py acts on too; the page of the docs is made of
these tables. Names and meanings are those of both forks' parsers (AlexeyAB's parser.c, hank-ai's darknet_cfg.cpp).
"""

from __future__ import annotations

from utils.darknet.spec import ModelSpec

Words = dict[str, str]

ANYWHERE: Words = {  # both forks look for these in every section
    "burnin_update": "updates the layer in the burn-in only after so many times as many iterations",
    "clip": "clips the layer's gradients",
    "dont_update": "leaves the layer's weights as they are",
    "dontload": "does not read the layer's weights from the file",
    "dontloadscales": "does not read the layer's batch norm from the file",
    "learning_rate": "factor of the learning rate for this layer",
    "onlyforward": "no backward pass through the layer",
    "stopbackward": "no gradient for this layer and those before it: always (1), or for so many iterations",
    "train_only_bn": "trains the layer's batch norm only",
}
_STREAMS: Words = {
    "stream": "CUDA stream that the layer runs on",
    "wait_stream": "CUDA stream that the layer waits for",
}
_DETECTION: Words = {
    "beta1": "a number of an older suppression of boxes, which neither fork reads any more",
    "cls_normalizer": "weight of the loss of classes",
    "counters_per_class": "objects of each class, for weights that balance them",
    "delta_normalizer": "factor of all gradients of the head",
    "focal_loss": "focal loss of classes",
    "ignore_thresh": "predictions above this IoU with an object are no negatives",
    "iou_loss": "loss of boxes: mse, iou, giou, diou, ciou",
    "iou_normalizer": "weight of the loss of boxes",
    "iou_thresh": "every anchor above this IoU learns the object, not the best alone",
    "iou_thresh_kind": "the IoU that iou_thresh means",
    "jitter": "how far crops shift and stretch in augmentation",
    "label_smooth_eps": "label smoothing",
    "map": "a file that maps classes onto others in validation",
    "max": "most objects of an image that are learned",
    "max_delta": "clips each gradient of the head",
    "obj_normalizer": "weight of the loss of objectness",
    "objectness_smooth": "objectness learns the IoU instead of 1",
    "random": "another image size every ten iterations",
    "resize": "how far images are scaled in augmentation",
    "uc_normalizer": "weight of the loss of uncertainty, of a [Gaussian_yolo]",
    "truth_thresh": "predictions above this IoU learn the object too",
}

SECTIONS: dict[str, Words] = {
    "net": {
        "B1": "first beta of Adam",
        "B2": "second beta of Adam",
        "adam": "Adam instead of SGD",
        "adversarial_lr": "step of adversarial training",
        "angle": "largest rotation in augmentation, degrees",
        "aspect": "change of aspect in augmentation",
        "attention": "shows where the gradient comes from while training",
        "augment_speed": "frames between augmented ones, of sequences",
        "badlabels_rejection_percentage": "share of images with the largest loss that is left out",
        "beta1": "first beta of Adam, in older cfgs",
        "beta2": "second beta of Adam, in older cfgs",
        "blur": "blurs images in augmentation",
        "burn_in": "iterations in which the rate rises",
        "contrastive": "contrastive training of embeddings",
        "contrastive_color": "colour changes in contrastive training",
        "contrastive_jit_flip": "flips and jitter in contrastive training",
        "cutmix": "cutmix augmentation",
        "decay": "weight decay",
        "dynamic_minibatch": "more images at smaller sizes of random=1",
        "ema_alpha": "decay of averaged weights",
        "eps": "epsilon of Adam",
        "equidistant_point": "iteration from which weights are rejected by distance",
        "exposure": "change of exposure in augmentation",
        "flip": "flips images in augmentation",
        "gamma": "factor of the policies exp and sig",
        "gaussian_noise": "noise in augmentation",
        "hue": "change of hue in augmentation",
        "init_sequential_subdivisions": "subdivisions of a sequence at the start",
        "label_smooth_eps": "label smoothing",
        "learning_rate": "the learning rate",
        "learning_rate_min": "the rate that policy=sgdr falls to",
        "loss_scale": "factor of gradients in half precision",
        "max_batches": "iterations of the training",
        "max_chart_loss": "top of the chart of the loss",
        "max_crop": "largest crop of classifiers",
        "max_epochs": "epochs of the training",
        "min_crop": "smallest crop of classifiers",
        "mixup": "mixup augmentation",
        "momentum": "momentum of SGD",
        "mosaic": "mosaic augmentation",
        "mosaic_bound": "keeps objects of a mosaic in its quarter",
        "num_sigmas_reject_badlabels": "leaves out images whose loss is so many deviations above the mean",
        "optimized_memory": "trades GPU memory for time",
        "policy": "how the rate falls: steps, sgdr, poly, exp, sig, constant, random",
        "power": "exponent of policy=poly, or of the burn-in",
        "resize_step": "step of the sizes of random=1",
        "saturation": "change of saturation in augmentation",
        "scale": "factor of policy=step",
        "scales": "factors of the rate at steps",
        "seq_scales": "factors of a sequence's length at steps",
        "sequential_subdivisions": "subdivisions of a sequence",
        "sgdr_cycle": "iterations of the first cycle of policy=sgdr",
        "sgdr_mult": "each cycle of policy=sgdr is so many times as long as the last",
        "show_receptive_field": "prints the receptive field of every layer",
        "step": "iterations of policy=step",
        "steps": "iterations at which the rate changes",
        "time_steps": "images of a sequence",
        "track": "reads images as sequences",
        "try_fix_nan": "goes on after a loss that is no number",
        "unsupervised": "training without labels",
        "use_cuda_graph": "runs inference as a CUDA graph",
        "weights_reject_freq": "iterations between rejections of weights",
        "workspace_size_limit_MB": "GPU memory of a convolution",
    },
    "convolutional": {
        "angle": "largest rotation of kernels (sway, rotate)",
        "assisted_excitation": "adds the objects' places to the map, in training only",
        "cbn": "batch norm over several iterations in training",
        "dot": "penalty on kernels that are alike",
        "grad_centr": "centres the gradients",
        "reverse": "learns from the gradient of the input",
        **_STREAMS,
    },
    "depthwise": {},
    "transposed_convolutional": {},
    "maxpool": {},
    "avgpool": {},
    "local_avgpool": {},
    "upsample": {},
    "route": _STREAMS,
    "shortcut": {},
    "activation": {},
    "reorg": {},
    "fit": {},
    "se": {},
    "scale_channels": {"scale_wh": "0: a factor a channel"},
    "connected": {},
    "cost": {
        "noobj": "weight of values without an object (type=masked)",
        "ratio": "share of the differences that count",
        "scale": "factor of the loss",
        "smooth": "label smoothing",
        "thresh": "largest difference that counts not",
        "type": "kind of the loss: sse, masked, smooth, L1, seg, wgan",
    },
    "crop": {
        "angle": "largest rotation in augmentation, degrees",
        "exposure": "change of exposure in augmentation",
        "flip": "flips images in augmentation",
        "saturation": "change of saturation in augmentation",
        "shift": "shifts colours in augmentation",
    },
    "segment": {},
    "softmax": {"noloss": "no loss of its own in training"},
    "sam": {},
    "implicit_add": {},
    "implicit_mul": {},
    "shift_channels": {},
    "control_channels": {},
    "reorg3d": {},
    "route_lhalf": {},
    "dropout": {
        "dropblock": "drops squares instead of values, in training",
        "dropblock_size_abs": "side of the squares, px",
        "dropblock_size_rel": "side of the squares, share of the map",
    },
    "yolo": {
        **_DETECTION,
        "dets_for_show": "detections before an object is shown as tracked",
        "dets_for_track": "detections before an object is tracked",
        "embedding_layer": "the layer whose values tell objects apart in tracking",
        "mask_scale": "weight of masks, never used",
        "sim_thresh": "similarity from which two objects are one in tracking",
        "total": "anchors in all, in older cfgs",
        "track_ciou_norm": "weight of the box in tracking",
        "track_history_size": "frames that tracking looks back",
    },
    "Gaussian_yolo": _DETECTION,
    "region": {
        "absolute": "boxes in px of the image in training",
        "bias_match": "matches anchors by shape alone in training",
        "class_scale": "weight of the loss of classes",
        "classfix": "learns classes where the box fits",
        "coord_scale": "weight of the loss of boxes",
        "focal_loss": "focal loss of classes",
        "jitter": "how far crops shift and stretch in augmentation",
        "log": "loss of the logarithm of sides",
        "map": "a file that maps classes onto others in validation",
        "mask_scale": "weight of masks",
        "max": "most objects of an image that are learned",
        "noobject_scale": "weight of the loss where no object is",
        "object_scale": "weight of the loss where an object is",
        "random": "another image size every ten iterations",
        "rescore": "objectness learns the IoU",
        "resize": "how far images are scaled in augmentation",
        "sqrt": "loss of the root of sides",
        "thresh": "predictions above this IoU with an object are no negatives",
    },
}

FOLLOWED = ("stopbackward", "max_epochs", "sgdr_cycle", "sgdr_mult")
"""Words that train.py acts on: a frozen front, the epochs where no flag says them, the restarts of policy=sgdr."""

REFUSED: dict[str, dict[str, tuple[str, str]]] = {  # section -> key -> (the value that changes nothing, what others do)
    "convolutional": {
        "binary": ("0", "computes with the signs of the weights"),
        "bin_output": ("0", "computes with the signs of the values"),
        "coordconv": ("0", "adds the place of each px to its values"),
        "flipped": ("0", "turns the weights about when they are read"),
        "share_index": ("-1000000000", "takes the weights of another layer"),
        "rotate": ("0", "computes with turned kernels"),
        "stretch": ("0", "computes with stretched kernels"),
        "stretch_sway": ("0", "computes with stretched and turned kernels"),
        "sway": ("0", "computes with turned kernels"),
        "xnor": ("0", "computes with signs alone"),
    },
    "maxpool": {
        "maxpool_depth": ("0", "takes the largest over channels"),
        "maxpool_zero_nonmax": ("0", "keeps the largest value where it stands"),
        "out_channels": ("1", "takes the largest over channels"),
    },
    "Gaussian_yolo": {"yolo_point": ("center", "predicts a corner of the box instead of its centre")},
    "upsample": {"scale": ("1", "multiplies what it enlarges")},
}


def words(section: str) -> frozenset[str]:
    """The keys of a section that change no inference."""
    own = SECTIONS.get(section, {})
    return frozenset(own) if section == "net" else frozenset(own) | frozenset(ANYWHERE)


def unused_words(spec: ModelSpec, used: frozenset[str]) -> tuple[str, ...]:
    """The words of Darknet's own training and display that a network's layers carry, each once; ``used`` are not."""
    return tuple(dict.fromkeys(key for layer in spec.layers for key, _ in layer.options if key not in used))
