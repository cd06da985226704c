"""From a float network to integers, for quantize.py and whatever goes on from there."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from pipeline.session import Session
from utils.cli import flag_fields, option_names
from utils.config.pipeline import MAX_DROP as ALLOWED
from utils.config.quantise import MAX_DROP, QuantiseConfig, scheme_of
from utils.darknet.counts import count
from utils.data.plain_images import BareFolder
from utils.errors import InputError
from utils.export.engine.price import on_part
from utils.export.targets import TARGETS, check_target
from utils.files import names_kept
from utils.quantization.bits import write_bits_map
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import lower
from utils.quantization.mixed_precision import BitSearch, TrialScorer, search_bits
from utils.quantization.scheme import Scheme
from utils.quantization.sensitivity import BitUnit
from utils.quantization.sizes import FLOAT_BITS, bit_operations, file_sizes
from utils.reporting.files import file_bytes
from utils.reporting.quantisation_plots import plot_bits
from utils.reporting.record import Record, finish_record
from utils.reporting.results import write_rows
from utils.reporting.tables import comparison_table, plain_table, size_table
from utils.spiking.energy import INT8, dense_energy
from utils.spiking.snn_checkpoint import save_integers
from utils.task import Metrics

log = logging.getLogger(__name__)

SCORED = 256  # training images that a candidate of --bits auto is scored on
WIDE = 8  # bits of activations that are tried where fewer lost too much
LOSABLE = {"quantised": "integers", "spiking": "spikes"}  # rows of a record that may be under the floats

Q = TypeVar("Q", bound=QuantiseConfig)
Rows = dict[str, dict[str, Any]]  # a network's numbers by its name in the record


@dataclass(frozen=True)
class QuantiseResult:
    """What quantising left: the integers, their file, metrics (None: of images without labels), the run's record."""

    integer: IntegerNetwork
    path: Path
    metrics: Metrics | None
    record: Record


@names_kept()
def quantise(session: Session[Q]) -> QuantiseResult:
    """The integer network, measured and saved.

    Raises:
        InputError: the file holds packed integers already, or whatever `to_integers` refuses.
    """
    if session.loaded.kind == "quantised":
        raise InputError(f"{session.loaded.path}: holds packed integers already, nothing to do; test.py measures it")
    check_own_bits(session)
    check_labels(session)
    session, record = session.begin_making("quantize", ".int.pt")
    integer = to_integers(session, record.folder)
    hardware = check_hardware(session, integer)
    bare = isinstance(session.manifest, BareFolder)
    names = session.loaded.names if bare else session.manifest.names  # numbers in the place of names are no names
    path = save_integers(session.leaving(".int.pt"), integer, names=names, meta=session.meta)
    try:
        if bare:
            return _unmeasured(session, record, integer, path, hardware)
        return _measured(session, record, integer, path, hardware)
    except BaseException:
        path.unlink()  # what was not measured is not left about as if it had been
        raise


def check_labels(session: Session[Q]) -> None:
    """Refuse a choice of bits by scores where nothing can be scored.

    Raises:
        InputError: the images have no labels.
    """
    if isinstance(session.manifest, BareFolder) and session.config.bits == "auto":
        place = session.manifest.path
        raise InputError(f"--bits auto: scores networks on labels, and {place} has images alone; give a data set")


def check_hardware(session: Session[Q], integer: IntegerNetwork) -> Rows:
    """What ``--target`` says of the integers: nothing, where it can run them; of the engine clocks and frames a second.

    Raises:
        InputError: it cannot run them; names the layer.
    """
    target = getattr(session.config, "target", "")
    if target in TARGETS:
        check_target(integer, target, session.size)
    if not target or target in TARGETS:
        return {}
    choice, _ = on_part(integer, session.size, target)
    log.info("fewer bits change none of these clocks: the engine's words are bytes; they save its cells and energy")
    return {"hardware": choice.record()}


def check_own_bits(session: Session[Q]) -> None:
    """Refuse flags of calibration for a network that has integers already.

    Raises:
        InputError: one of them was said.
    """
    own = {name for name in QuantiseConfig.__annotations__ if name != "weights"}
    for field in flag_fields(QuantiseConfig) if session.loaded.integer is not None else ():
        if field.name in own and field.name in session.config.given:
            flag = option_names(field)[0]
            place = f"{session.loaded.path} is quantised already and keeps its own bits and scales"
            raise InputError(f"{flag}: {place}; leave {flag} away, or give the float network it was made of")


def to_integers(session: Session[Q], folder: Path | None = None) -> IntegerNetwork:
    """Fold, calibrate on training images, lower to integers; a quantised network comes back as it is.

    Args:
        session: the network, the data and the config.
        folder: where ``--bits auto`` leaves its table and picture; by default nowhere.

    Raises:
        InputError: a layer has no integer form, an accumulator does not fit, or no bits meet what was asked.
    """
    if session.loaded.integer is not None:
        log.info("%s is quantised already; its own bits and scales stay", session.loaded.path)
        return session.loaded.integer
    if session.loaded.network is None:
        raise InputError(f"{session.loaded.path}: is {session.loaded.kind}; quantise the float network it was made of")
    scheme = scheme_of(session.config, session.loaded.spec)
    images = session.training_images(session.config.calibration)
    if session.config.bits == "auto":
        scheme = _chosen_bits(session, scheme, images, folder)
    return lower(calibrate(session.loaded.network, images, scheme))


def float_row(session: Session[Q]) -> tuple[Rows, dict[str, Metrics]]:
    """The network as it came, when it is a float one: its row, and the metrics that it is made of."""
    loaded = session.loaded
    if loaded.network is None:
        return {}, {}
    metrics = session.score(loaded.predictor)
    row = session.numbers(metrics, loaded.spec, loaded.path)
    return {"float": row | {"bops": row["macs"] * FLOAT_BITS**2}}, {"float": metrics}


def _unmeasured(
    session: Session[Q], record: Record, integer: IntegerNetwork, path: Path, hardware: Rows
) -> QuantiseResult:
    counts = count(integer.spec, session.size)
    row = {
        "params": counts.params,
        "macs": counts.macs,
        "bops": bit_operations(integer, session.size),
        "bytes": file_bytes(path),
        "energy_pj": dense_energy(counts, INT8),
    }
    images = len(session.valid.dataset)
    log.info("quantised to %s on %d images without labels: nothing was measured", integer.scheme.bits_and_style, images)
    log.info("weights %s (%d bytes); test.py --weights %s --data FILE.data measures it", path, row["bytes"], path)
    return QuantiseResult(
        integer, path, None, finish_record(record, metrics={"quantised": row} | hardware, outputs=[path])
    )


def _measured(
    session: Session[Q], record: Record, integer: IntegerNetwork, path: Path, hardware: Rows
) -> QuantiseResult:
    rows, _ = float_row(session)
    executor = IntegerExecutor(integer)
    metrics = session.score(executor)
    row = session.numbers(metrics, integer.spec, path, INT8) | {"bops": bit_operations(integer, session.size)}
    rows["quantised"] = row
    session.timed(rows, {"float": session.loaded.predictor, "quantised": executor})
    names = session.manifest.names
    sizes = file_sizes(integer, session.loaded.network, names, {"size": list(session.size)})
    tell_loss(session, rows)
    log.info(comparison_table(f"quantised to {integer.scheme.bits_and_style}", rows, session.task))
    log.info(size_table(sizes, rows))
    row |= {f"bytes_{name}" if name == "float" else f"bytes_{name}_bit": length for name, length in sizes.items()}
    session.task.comparison(
        record.folder / f"{session.task.pictures}.jpg", session.valid.dataset, {"quantised": metrics}, names
    )
    log.info("weights %s (%d bytes); pictures %s", path, path.stat().st_size, record.folder)
    pictures = sorted(each for each in record.folder.iterdir() if each.suffix in (".jpg", ".png", ".csv", ".txt"))
    done = finish_record(record, metrics=rows | hardware, outputs=[path, *pictures])
    return QuantiseResult(integer, path, metrics, done)


def tell_loss(session: Session[Q], rows: Rows) -> None:
    """Say first what integers or spikes lost, where a whole chain may not lose it, and what 8-bit activations leave.

    Those are made and measured on the same images and not kept; within compress.py, which widens by itself, they are
    not tried.
    """
    score = session.task.headline
    known = {name: row[score] for name, row in rows.items() if score in row}
    lost = [name for name in LOSABLE if known.get("float", 0.0) - known.get(name, 1.0) > ALLOWED]
    if lost == [*LOSABLE] and known["spiking"] == known["quantised"]:
        lost.remove("spiking")
    if lost:
        loss = " and ".join(f"{known[name]:.4f} as {LOSABLE[name]}" for name in lost)
        more = _with_wide_bits(session) if lost[0] == "quantised" else ""
        log.warning("%s fell from %.4f to %s%s", session.heading, known["float"], loss, more)


def _with_wide_bits(session: Session[Q]) -> str:
    scheme = scheme_of(session.config, session.loaded.spec)
    own = scheme.layer_bits or scheme.sign_bit or scheme.acc_bits or session.config.bits == "auto"
    if scheme.a_bit >= WIDE or own or session.config.fingerprint:
        return ""
    try:
        wider = to_integers(replace(session, config=replace(session.config, a_bit=WIDE)))
    except InputError as error:
        return f"; --a-bit {WIDE} is refused: {error}"
    return f"; --a-bit {WIDE} leaves {session.headline(session.score(IntegerExecutor(wider))):.4f} on the same images"


def _chosen_bits(session: Session[Q], start: Scheme, images: list[Tensor], folder: Path | None) -> Scheme:
    """``--bits auto``: the scheme with bits by layer that ``--max-drop`` and ``--budget`` ask for."""
    config, loaded = session.config, session.loaded
    assert loaded.network is not None
    batches = list(session.training_batches(-(-SCORED // session.valid.batch_size)))

    def score(predictor: nn.Module) -> float:
        return session.headline(session.measured(predictor.to(session.device), batches))

    scorer = TrialScorer(
        network=loaded.network,
        start=start,
        images=images,
        score=score,
        exact=score(loaded.predictor),
        allowed=MAX_DROP if config.max_drop is None else config.max_drop,
        heading=session.heading,
    )
    distance = partial(session.task.distance, loaded.spec, session.size)
    found = search_bits(scorer, session.size, distance, config.budget)
    _tell(found, sum(len(batch.images) for batch in batches))
    if folder is not None:
        _leave(found, folder)
    return found.chosen.scheme


def _tell(found: BitSearch, images: int) -> None:
    damage = {(row.unit, row.bits): row.damage for row in found.damage}
    table = [["layer", "cfg line", "weights", "alone at 4 bits", "activations", "alone at 4 bits"]]
    for i, w, a in found.layers:
        alone = [damage.get((BitUnit(which, i), 4)) for which in ("weights", "activations")]
        message = ["" if value is None else f"{value:.2g}" for value in alone]
        table.append([str(i), str(found.spec.layers[i].line), str(w or ""), message[0], str(a or ""), message[1]])
    log.info(plain_table("bits by layer, and what 4 bits there alone move", table))
    scorer = found.scorer
    tried = [[found.kind, "predicted", scorer.heading, "drop", ""], ["1", "float", f"{scorer.exact:.4f}", "", ""]]
    for trial in sorted(scorer.trials, key=lambda each: -each.step.share):
        drop = scorer.drop_of(trial)
        verdict = "taken" if trial is found.chosen else "" if drop <= scorer.allowed else "too much"
        tried.append(
            [f"{trial.step.share:.3f}", f"{trial.step.damage:.2g}", f"{trial.score:.4f}", f"{drop:+.4f}", verdict]
        )
    log.info(plain_table(f"candidates on {images} training images", tried))


def _leave(found: BitSearch, folder: Path) -> None:
    """bits.csv, bits.txt and bits.png."""
    rows = list[dict[str, Any]]()
    for (which, layer), bits, damage in found.damage:
        row = {"layer": layer, "cfg_line": found.spec.layers[layer].line, "unit": which, "bits": bits}
        taken = int(found.chosen.step.choice[BitUnit(which, layer)] == bits)
        rows.append(row | {"damage": f"{damage:.6g}", "chosen": taken})
    write_rows(folder / "bits.csv", rows)
    chosen, scorer = found.chosen, found.scorer
    drop = scorer.drop_of(chosen)
    message = (
        f"{found.kind} {chosen.step.share:.3f} of 8 bits, {scorer.heading} on training images {drop:+.4f} under float"
    )
    write_bits_map(folder / "bits.txt", chosen.scheme.layer_bits, message)
    plot_bits(
        folder / "bits.png",
        found.layers,
        descent=[(step.share, step.damage) for step in found.steps],
        tried=[(trial.step.share, scorer.drop_of(trial)) for trial in scorer.trials],
        taken=(chosen.step.share, drop),
        metric=scorer.heading,
        kind=found.kind,
    )
