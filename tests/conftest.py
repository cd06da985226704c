"""Fixtures every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: the tests run in as many processes as there are cores, and threads on top only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights and photographs; tests that need it skip where it is absent."""
    path = Path(os.environ.get("DARKSPIKE_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set DARKSPIKE_DATA")
    return path.resolve()


@pytest.fixture(scope="session", autouse=True)
def no_processor_multiplies_bf16() -> Iterator[None]:
    """Every training here is in fp32: what a run computes may hang on a clock only where a test says so."""
    from utils.training import device

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "cpu_multiplies_bf16", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def every_integer_network_is_validated() -> Iterator[None]:
    """Each pass that makes integers is followed by the validator."""
    from utils.quantization import lower, sizes
    from utils.quantization.check_integer import check_integer
    from utils.quantization.integer import IntegerNetwork
    from utils.spiking import finetune
    from utils.spiking.spike_schedule import encode

    narrow = sizes.with_weight_bits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lower, "IntegerNetwork", lambda *parts: check_integer(IntegerNetwork(*parts)))
        patch.setattr(finetune, "encode", lambda network: encode(check_integer(network)))
        patch.setattr(sizes, "with_weight_bits", lambda network, bits: check_integer(narrow(network, bits)))
        yield
