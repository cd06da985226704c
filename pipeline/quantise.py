"""From a float network to integers, for quantize.py and whatever goes on from there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pipeline.quantising.flags import add_flags, scheme_of
from pipeline.quantising.mixed_precision import choose_bits
from pipeline.quantising.sizes import FLOAT_BITS, operations_of, size_table, sizes_of
from pipeline.report import begin, compare
from pipeline.session import WEIGHTS, Session
from utils.darknet.network import save_checkpoint
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import lower
from utils.reporting.files import free_path
from utils.reporting.record import Record, finish_record
from utils.reporting.tables import comparison_table
from utils.spiking.energy import INT8

__all__ = ["add_flags", "bits_of", "float_row", "quantise", "quantise_script", "save_integer"]

log = logging.getLogger(__name__)


def quantise(session: Session, folder: Path | None = None) -> IntegerNetwork:
    """Fold, calibrate on training images, lower to integers; a quantised network comes back as it is.

    Args:
        session: the network, the data and the flags.
        folder: where ``--bits auto`` leaves its table and picture; by default nowhere.

    Raises:
        InputError: a layer has no integer form, an accumulator does not fit, or no bits meet what was asked.
    """
    if session.loaded.integer is not None:
        log.info("%s is quantised already; its own bits and scales stay", session.loaded.path)
        return session.loaded.integer
    assert session.loaded.network is not None
    scheme = scheme_of(session.args, session.loaded.spec)
    images = session.training_images(session.args.calibration)
    if session.args.bits == "auto":
        scheme = choose_bits(session, scheme, images, folder)
    return lower(calibrate(session.loaded.network, images, scheme))


def save_integer(session: Session, integer: IntegerNetwork, kind: str, suffix: str) -> Path:
    """``weights/<stem><suffix>``, under a name that nobody has taken."""
    stem = (
        session.loaded.path.name.removesuffix(".pt").removesuffix(".weights").removesuffix(".int").removesuffix(".snn")
    )
    stem = f"{stem}_{session.args.name}" if session.args.name else stem
    path = free_path(WEIGHTS / f"{stem}{suffix}")
    return save_checkpoint(path, to_checkpoint(integer, kind, session.manifest.names, session.meta))


def quantise_script(session: Session) -> Record:
    """quantize.py: the integer network, measured and saved.

    Raises:
        InputError: the file holds packed integers already, or whatever ``quantise`` refuses.
    """
    if session.loaded.kind == "quantised":
        raise InputError(f"{session.loaded.path}: holds packed integers already, nothing to do; test.py measures it")
    record = begin(session, "quantize")
    integer = quantise(session, record.folder)
    path = save_integer(session, integer, "quantised", ".int.pt")
    try:
        return _measured(session, record, integer, path)
    except BaseException:
        path.unlink()  # what was not measured is not left about as if it had been
        raise


def _measured(session: Session, record: Record, integer: IntegerNetwork, path: Path) -> Record:
    rows = float_row(session)
    executor = IntegerExecutor(integer)
    metrics = session.score(executor)
    row = session.numbers(executor, metrics, integer.spec, path)
    row |= {"energy_pj": row["macs"] * INT8.mac, "bops": operations_of(session, integer)}
    rows["quantised"] = row
    sizes = sizes_of(session, integer)
    log.info(comparison_table(f"quantised to {bits_of(integer)}", rows))
    log.info(size_table(sizes, rows))
    row |= {f"bytes_{name}" if name == "float" else f"bytes_{name}_bit": length for name, length in sizes.items()}
    compare(session, {"quantised": metrics}, record.folder / "detections.jpg")
    log.info("weights %s (%d bytes); pictures %s", path, path.stat().st_size, record.folder)
    pictures = sorted(each for each in record.folder.iterdir() if each.suffix in (".jpg", ".png", ".csv", ".txt"))
    return finish_record(record, metrics=rows, outputs=[path, *pictures])


def float_row(session: Session) -> dict[str, dict[str, Any]]:
    """The network as it came, when it is a float one."""
    loaded = session.loaded
    if loaded.network is None:
        return {}
    row = session.numbers(loaded.predictor, session.score(loaded.predictor), loaded.spec, loaded.path)
    return {"float": row | {"bops": row["macs"] * FLOAT_BITS**2}}


def bits_of(integer: IntegerNetwork) -> str:
    """``8-bit weights, 4-bit activations``, with what departs from it."""
    scheme = integer.scheme
    message = f"{scheme.w_bit}-bit weights, {scheme.a_bit}-bit activations"
    message += f", {len(scheme.layer_bits)} layers with bits of their own" if scheme.layer_bits else ""
    return message if scheme.style == "google" else f"{message}, {scheme.style}"
