"""OpenCV's own reader of Darknet files, as a second opinion on a network of random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.darknet.cfg import write_cfg
from utils.darknet.network import Network
from utils.darknet.weights import write_weights


def opencv_outputs(network: Network, x: Tensor, folder: Path, names: list[str]) -> list[Tensor]:
    """What OpenCV computes from the files that our writers make, at the outputs it gives these names.

    ``x`` is [1, C, H, W] in 0..1.
    """
    size = {"height": str(x.shape[2]), "width": str(x.shape[3])}
    spec = replace(network.spec, net=tuple((dict(network.spec.net) | size).items()))
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(write_cfg(spec))
    write_weights(weights, network)
    reader = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    reader.setInput(x.numpy())
    return [torch.from_numpy(np.array(out)) for out in reader.forward(names)]
