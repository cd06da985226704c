"""The forms of export.py that hand over spikes: a NIR graph, and address events of images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.errors import InputError
from utils.export.package import whole_folder
from utils.files import write_text
from utils.quantization.executor import IntegerExecutor
from utils.spiking.aer import counts_of, image_events, output_events, shape_of, write_events
from utils.spiking.nir_export import write_nir
from utils.spiking.spike_schedule import encode

if TYPE_CHECKING:
    from pipeline.export import Job

log = logging.getLogger(__name__)

MOST_ROWS = 10**6  # of events in a csv; more are in the npy alone
AER_WORDS = """Address events, one a spike, as (t, x, y, c, sign): npy is a structured array, csv has a heading.

<image>_in: the image's pixels; one of level n (0..255) fires in each of the first n of 255 steps. A layer that adds
them up gets n. <image>_layer_<i>: what the read-outs read, in phase mode; t counts steps from the frame's first, and a
layer fires in its own window of {window} steps. Signed spikes of a neuron add up to its integer level.
"""


def write_nir_form(job: Job) -> tuple[dict[str, Any], list[Path]]:
    """The form "nir": one file.

    Raises:
        InputError: the network has something that NIR cannot hold; names the layer.
    """
    network = encode(job.integer)
    path = write_nir(job.out / f"{job.stem}.nir", network, *job.session.size)
    log.info("%s: %s; read-outs are settled after %d steps", path, network.describe(), network.latency)
    return {"bytes": path.stat().st_size, "steps": network.latency}, [path]


def write_aer_form(job: Job) -> tuple[dict[str, Any], list[Path]]:
    """The form "aer": events of each golden image, in and out; or nothing.

    Raises:
        InputError: the folder exists, or the events do not add up to the integer levels, which would be our mistake.
    """
    network, names, total = encode(job.integer), [], 0
    golden = IntegerExecutor(job.integer).levels(job.images)
    with whole_folder(job.out) as folder:
        for k, x in enumerate(job.images):
            found = {"in": image_events(x)} | {f"layer_{i}": e for i, e in output_events(network, x).items()}
            for i, name in [(-1, "in"), *((int(n.removeprefix("layer_")), n) for n in found if n != "in")]:
                counts = counts_of(found[name], shape_of(network, i, *job.session.size))
                if not np.array_equal(counts, golden[i][k].numpy()):
                    raise InputError(
                        f"image {k}, {name}: events do not add up to the levels; please report this network"
                    )
                total += len(found[name])
                forms = ("npy", "csv") if len(found[name]) <= MOST_ROWS else ("npy",)
                names += [write_events(folder / f"{k}_{name}.{form}", found[name]).name for form in forms]
        names.append(write_text(folder / "README.md", AER_WORDS.format(window=network.window)).name)
    log.info("%s: %s events of %d images, in and out", job.out, f"{total:,}", len(job.images))
    return {"events": total}, [job.out / name for name in names]
