"""The scripts as functions: fields become a config, the pipeline does the work, a typed result comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from darkspike.results import Converted, Detections, Exported, Pruned, Quantised, Trained
from models import Loaded, load_model
from pipeline import train as training
from pipeline.convert import convert as convert_session
from pipeline.detect import open_detector
from pipeline.export import export as export_session
from pipeline.export import open_network
from pipeline.prune import STRATEGIES
from pipeline.prune import prune as prune_session
from pipeline.quantise import quantise as quantise_session
from pipeline.session import open_session
from utils.config.convert import ConvertConfig
from utils.config.export import ExportConfig
from utils.config.fields import configured
from utils.config.measure import DetectConfig
from utils.config.quantise import PtqConfig
from utils.config.run import DATA, RunConfig
from utils.config.train import TrainConfig
from utils.data.images import read_image
from utils.reporting.runs import output_of

C = TypeVar("C", bound=RunConfig)

Source = Loaded | str | Path
NETWORK = {"weights": "the network is the first argument"}
ONE_PICTURE = NETWORK | dict.fromkeys(
    (
        *("source", "save_txt", "save_json", "carry", "raster", "frames", "output", "fourcc", "view_img", "name"),
        *("batch_size", "workers", "cache", "jpeg", "seed"),
    ),
    "one picture is looked at and nothing written; detect.py does that",
)


def load(weights: str | Path, cfg: str | Path | None = None) -> Loaded:
    """Open a network: ``.weights`` with its cfg, or any checkpoint of ours, which carries its own.

    Raises:
        InputError: the file is missing, damaged or does not fit the cfg.
    """
    return load_model(weights, cfg)


def train(network: Source | None = None, *, data: str | Path = DATA, **fields: Any) -> Trained:
    """Train, dense, sparse, taught or quantised, as train.py does.

    Args:
        network: to start from; None: from nothing, in the structure that ``cfg`` names.
        data: a .data file, or a folder that is laid out as a data set.
        fields: `utils.config.train.TrainConfig`'s: ``epochs``, ``lr``, ``sparse``, ``s``, ``kd``, ``t_weights``, …

    Raises:
        TypeError: an unknown field.
        InputError: data, structure, network or fields do not belong together.
    """
    record = training.train(_config(TrainConfig, network, {"data": data, **fields}))
    last, best = output_of(record, "last*.pt"), output_of(record, "best*.pt")
    assert last is not None, "a finished training leaves its last epoch"
    return Trained(last, record, best)


def prune(network: Source, strategy: str = "slim", *, data: str | Path = DATA, **fields: Any) -> Pruned:
    """Cut channels or residual blocks, as the prune scripts do.

    Args:
        network: a float one, trained with ``sparse=True`` or not.
        strategy: normal, regular, shortcut, slim, layer, layer_channel or layer_channel_regular.
        data: a .data file, or a folder that is laid out as a data set.
        fields: of the strategy's config in ``utils/config/prune.py``: ``percent``, ``layer_keep``, ``finetune``, …

    Raises:
        ValueError: there is no such strategy.
        TypeError: an unknown field.
        InputError: what is left would not survive; nothing is written then.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"{strategy}: no such strategy; one of {', '.join(STRATEGIES)}")
    script = STRATEGIES[strategy]
    usual = {} if script.flags.percent is None else {"percent": script.flags.percent}
    config = _config(script.flags.config, network, {"data": data, **fields}, usual)
    done = prune_session(open_session(config), script.strategy(config))
    return Pruned(done.path, done.record)


def quantize(network: Source, *, data: str | Path = DATA, **fields: Any) -> Quantised:
    """Turn into pure integers without training, as quantize.py does.

    Args:
        network: a float one, or one that was trained quantised, which is packed as it is.
        data: a .data file, a folder that is laid out as a data set, or one of images alone.
        fields: `utils.config.quantise.PtqConfig`'s: ``w_bit``, ``a_bit``, ``style``, ``bits``, …

    Raises:
        TypeError: an unknown field.
        InputError: a layer has no integer form, or no bits meet what was asked.
    """
    done = quantise_session(open_session(_config(PtqConfig, network, {"data": data, **fields}).for_target, bare=True))
    return Quantised(done.path, done.record, done.integer)


def convert(network: Source, *, data: str | Path = DATA, **fields: Any) -> Converted:
    """Turn into spikes and prove them, as convert_snn.py does.

    Args:
        network: a float one, or one that is quantised.
        data: a .data file, or a folder that is laid out as a data set.
        fields: `utils.config.convert.ConvertConfig`'s: ``mode``, ``timesteps``, ``neuron``, ``a_bit``, …

    Raises:
        TypeError: an unknown field.
        InputError: a field does nothing in this mode, or the network has no such form.
    """
    done = convert_session(open_session(_config(ConvertConfig, network, {"data": data, **fields})))
    return Converted(done.path, done.record)


def export(network: Source, form: str = "fpga", *, data: str | Path = DATA, **fields: Any) -> Exported:
    """Write the folder that an FPGA or C engineer, or another tool, gets, as export.py does.

    Args:
        network: quantised or spiking; for darknet and ``float_network`` a float one.
        form: fpga, c, onnx, qonnx, nir, aer or darknet.
        data: a .data file, or a folder that is laid out as a data set: golden vectors are of its images.
        fields: `utils.config.export.ExportConfig`'s: ``out``, ``golden``, ``tile``, ``target``, …

    Raises:
        TypeError: an unknown field.
        InputError: the network has no integers, or the folder does not verify; nothing is left then.
    """
    done = export_session(open_network(_config(ExportConfig, network, {"form": form, "data": data, **fields})))
    return Exported(done.folder, done.record)


def detect(network: Source, image: str | Path | NDArray[np.uint8], **fields: Any) -> Detections:
    """Find what is in a picture, as detect.py does.

    Args:
        network: of any kind.
        image: a file, or uint8 [H, W, 3] RGB, [H, W, 1] or [H, W] grey.
        fields: `utils.config.measure.DetectConfig`'s: ``conf_thres``, ``iou_thres``, ``classes``, ``img_size``, …

    Raises:
        TypeError: an unknown field.
        InputError: the picture cannot be read, or a field does not fit the network.
    """
    config = configured(DetectConfig, fields, without=ONE_PICTURE)
    loaded = network if isinstance(network, Loaded) else load_model(network, config.cfg)
    detector = open_detector(config, loaded)
    shown = _picture(image, detector.channels)
    return Detections(shown, detector.find(shown), detector.names)


def _config(kind: type[C], network: Source | None, fields: dict[str, Any], usual: dict[str, Any] | None = None) -> C:
    """The config of the fields, for a network's files."""
    given = {name: value for name, value in fields.items() if (name, value) != ("data", DATA)}  # as if not said
    config = configured(kind, given, without=NETWORK, usual=usual)
    files: dict[str, Any] = {} if network is None else {"weights": str(network)}
    if isinstance(network, Loaded):
        files = {"weights": str(network.path)} | ({"cfg": str(network.cfg)} if network.cfg else {})
    return replace(config, **files)


def _picture(image: str | Path | NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """uint8 [H, W, channels] of a file or a picture."""
    if isinstance(image, str | Path):
        return read_image(Path(image), channels)
    picture = image if image.ndim == 3 else image[..., None]
    if picture.dtype != np.uint8 or picture.shape[2] not in (1, 3):
        raise TypeError(f"image: {picture.dtype} {list(image.shape)}; must be uint8 [H, W, 3], [H, W, 1] or [H, W]")
    if channels == 1 and picture.shape[2] == 3:
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)[..., None]
    return picture
