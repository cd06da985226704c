"""What earlier runs left: where it lies, whose it is, and the newest network of a kind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from utils.errors import InputError
from utils.files import hold, holder
from utils.reporting.record import Record, latest_record

log = logging.getLogger(__name__)
RUNS, WEIGHTS = Path("runs"), Path("weights")
PRUNED = "normal_prune regular_prune shortcut_prune slim_prune layer_prune layer_channel_prune"
PRUNED += " layer_channel_regular_prune"
FLOAT = f"{PRUNED} train"  # scripts that leave a float network behind
ANY = f"convert_snn quantize {PRUNED} train"  # scripts that leave a network behind


def check_alone(script: str, name: str) -> None:
    """Take the name of a chain or a sweep.

    Raises:
        InputError: another process, which is alive, has it.
    """
    place = RUNS / "-".join(filter(None, (script, name)))
    if not hold(place):
        raise InputError(f"{place}: {holder(place)} is at it; wait for its end, or give this one another --name")


def output_of(record: Record | None, *patterns: str) -> Path | None:
    """The network a run left behind, if it is still there: what fits the patterns (all of ours), earlier ones first."""
    paths = [path for pattern in patterns or ("*.pt",) for path in record.paths(pattern)] if record else []
    return next((path for path in paths if path.is_file()), None)


def newest(scripts: str, *, sparse: bool = False, output: Callable[[Record | None], Path | None] = output_of) -> Path:
    """The network that the newest finished run of one of these scripts left; of a training run the last epoch's.

    Args:
        scripts: names, separated by spaces; the last one is what the error asks for.
        sparse: only training runs with ``-sr`` count.
        output: the file of a run that is wanted, if it left such a one.

    Raises:
        InputError: there is none.
    """

    def fits(record: Record) -> bool:
        return record.script in scripts.split() and (not sparse or bool(record.args.get("sparse")))

    record = latest_record(RUNS, "*", lambda found: fits(found) and output(found) is not None)
    path = output(record)
    if path is None or record is None:
        flag = " -sr" if sparse else ""
        first = scripts.split()[-1]
        raise InputError(
            f"no finished run of {first}.py{flag} in {RUNS}/; run python3 {first}.py{flag} first, or give --weights"
        )
    log.info("--weights %s, the newest (%s)", path, record.folder)
    return path


def scores_of(record: Record) -> tuple[float | None, float | None]:
    """The score of the network that a run left, and of its best epoch where that is better; None where none is told."""
    name = record.task.headline if record.task else ""
    rows = [*(row for row in record.metrics.values() if isinstance(row, Mapping)), record.metrics]
    score = next((row[name] for row in reversed(rows) if row.get(name) is not None), None)
    if score is None or output_of(record, "best*.pt") is None:
        return score, score
    return score, max(score, record.metrics.get("best", {}).get(name) or score)
