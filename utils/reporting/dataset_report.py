"""What a check of a data set leaves: what is said, all problems in a file, pictures, a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.files import write_text
from utils.reporting.record import finish_record, new_run_folder, start_record

RUNS = Path("runs")  # from the current folder, as for every script
LINES = 20  # of each kind on the terminal; all of them are in problems.txt


@dataclass(frozen=True)
class DatasetReport:
    """What was found; ``errors`` would stop a training."""

    text: str
    errors: list[str]
    warnings: list[str]
    folder: Path


def report_dataset(
    data: Path,
    inputs: Sequence[Path],
    tables: Sequence[str],
    problems: tuple[list[str], list[str]],
    metrics: Mapping[str, Any],
    blind: str,
    draw: Callable[[Path], list[Path]],
) -> DatasetReport:
    """Write ``runs/check-NAME``.

    Args:
        data: what was asked for.
        inputs: the files that were read, as far as they are files.
        tables: what is told first.
        problems: errors and warnings.
        metrics: of the record.
        blind: a line on what an answer reaches that never looks at a picture.
        draw: makes pictures in a folder.
    """
    errors, warnings = problems
    folder = new_run_folder(RUNS, "check", Path(data).stem)
    files = [path for path in inputs if path.is_file()]
    record = start_record(folder, script="check", args={"data": str(data)}, inputs=files)
    lines = [*(f"error: {message}" for message in errors), *(f"warning: {message}" for message in warnings)]
    outputs = [write_text(folder / "problems.txt", "".join(f"{message}\n" for message in lines)), *draw(folder)]
    counted = {**metrics, "errors": len(errors), "warnings": len(warnings)}
    finish_record(record, metrics=counted, outputs=outputs)
    verdict = f"{len(errors)} errors, {len(warnings)} warnings; pictures and all of them in {folder}"
    message = [blind, *_some("error", errors), *_some("warning", warnings), verdict]
    return DatasetReport("\n".join([*tables, *message]), errors, warnings, folder)


def _some(kind: str, lines: Sequence[str]) -> list[str]:
    more = [f"{kind}: {len(lines) - LINES} more, see problems.txt"] if len(lines) > LINES else []
    return [f"{kind}: {message}" for message in lines[:LINES]] + more
