"""Turn model.onnx of this folder into an hls4ml project, compile its C simulation and compare it with the integers.

  python3 convert.py [PROJECT]      needs hls4ml, qonnx, numpy and g++; PROJECT is a new folder (default: hls)

Settings are those of config.json. Exit code 1: a number differs from expected_output.npy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import hls4ml
import numpy as np
from qonnx.core.modelwrapper import ModelWrapper

HERE = Path(__file__).parent


def main() -> int:
    """Convert, compile, compare."""
    settings = json.loads((HERE / "config.json").read_text())
    model = ModelWrapper(str(HERE / "model.onnx"))
    config = hls4ml.utils.config_from_onnx_model(
        model, granularity="name", backend=settings["backend"], default_precision=settings["default_precision"]
    )
    config["Model"].update(settings["model"])
    project = hls4ml.converters.convert_from_onnx_model(
        model,
        hls_config=config,
        output_dir=sys.argv[1] if len(sys.argv) > 1 else str(HERE / "hls"),
        io_type=settings["io_type"],
        backend=settings["backend"],
        part=settings["part"],
        clock_period=settings["clock_period_ns"],
    )
    project.compile()
    wanted = np.load(HERE / "expected_output.npy")
    found = project.predict(np.ascontiguousarray(np.load(HERE / "input.npy"))).reshape(wanted.shape)
    differing = int((found != wanted).sum())
    sys.stdout.write(f"C simulation: {differing} of {wanted.size} numbers differ from the integer network's\n")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
