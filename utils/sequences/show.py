"""Pictures and tables of sequences: what a network sees, and what it says step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.files import write_text
from utils.reporting.figures import save_figure
from utils.reporting.tables import plain_table
from utils.sequences.dataset import SequenceDataset
from utils.sequences.metrics import SequenceAnswers, SequenceMetrics

SHOWN = 6  # sequences in a picture
DPI = 110
INK = ("#2166ac", "#d6604d", "#1b7837", "#9e9e9e")
MARK = "#d6604d"


def inputs_sheet(path: Path, dataset: SequenceDataset, names: Sequence[str]) -> Path:
    """The first sequences of the first epoch as the network sees them."""
    dataset.set_epoch(0)
    figure, axes = _figure(min(SHOWN, len(dataset)), 1)
    for n, axis in enumerate(axes[:, 0]):
        sample = dataset[n]
        _draw_inputs(axis, sample.values.numpy())
        axis.set_title(_truth(sample.truth, names), fontsize=9, loc="left")
    axes[-1, 0].set_xlabel("step")
    return save_figure(figure, path)


def answers_sheet(
    path: Path, dataset: SequenceDataset, measured: Mapping[str, SequenceMetrics], names: Sequence[str]
) -> Path:
    """Sequences on the left, on the right what each network says of them at every step."""
    first = next(iter(measured.values())).answers
    chosen = sorted(first.steps)[:SHOWN]
    figure, axes = _figure(len(chosen), 2)
    place = {index: n for n, index in enumerate(first.indices)}
    for (left, right), index in zip(axes, chosen, strict=True):
        truth = first.truth[place[index]].item()
        _draw_inputs(left, dataset[index].values.numpy())
        left.set_title(_truth(truth, names), fontsize=9, loc="left")
        for colour, (name, found) in zip(_inks(len(measured)), measured.items(), strict=True):
            steps = found.answers.steps[index]
            classes = steps.shape[1] > 1
            said = steps.softmax(1)[:, int(truth)] if classes else steps[:, 0]
            right.plot(said.numpy(), color=colour, linewidth=1.3, label=name)
        right.axhline(1.0 if classes else truth, color="0.6", linestyle="--", linewidth=1)
        right.set_title("probability of the true class" if classes else "what is said; dashed: the truth", fontsize=9)
    axes[0, 1].legend(frameon=False, fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    return save_figure(figure, path)


def plot_course(path: Path, courses: Mapping[str, Sequence[float]], what: str) -> Path:
    """A line a network over the steps."""
    figure, axes = _figure(1, 1, height=3.4)
    axis = axes[0, 0]
    for colour, (name, course) in zip(_inks(len(courses)), courses.items(), strict=True):
        axis.plot(range(1, len(course) + 1), course, color=colour, linewidth=1.6, label=name)
    axis.set(xlabel="step", ylabel=what, ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    return save_figure(figure, path)


def course_rows(measured: Mapping[str, SequenceMetrics]) -> list[dict[str, Any]]:
    """A row a step, a column a network."""
    courses = {name: found.course for name, found in measured.items()}
    length = max(len(course) for course in courses.values())
    return [
        {"step": t + 1, **{name: course[t] if t < len(course) else None for name, course in courses.items()}}
        for t in range(length)
    ]


def course_table(course: Sequence[float], heading: str) -> str:
    """The number after a quarter of the steps, half, three quarters, all."""
    chosen = sorted({max(1, round(len(course) * n / 4)) for n in range(1, 5)})
    return plain_table("at step", [["step", heading], *([f"{t}", f"{course[t - 1]:.4f}"] for t in chosen)])


def confusion(answers: SequenceAnswers, classes: int) -> NDArray[np.int64]:
    """int64 [classes, classes], rows predicted at the last step, columns true."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (answers.last.argmax(1).numpy(), answers.truth.numpy()), 1)
    return table


def save_results(path: Path, found: SequenceMetrics, images: Sequence[Path], *, values: bool) -> Path:
    """A row a sequence: its name, what is true, what is said at the last step."""
    answers = found.answers
    said = answers.last[:, 0] if values else answers.last.argmax(1)
    rows = [
        {"sequence": str(images[index]), "truth": truth, "answer": answer}
        for index, truth, answer in zip(answers.indices, answers.truth.tolist(), said.tolist(), strict=True)
    ]
    return write_text(path, json.dumps(rows, indent=1))


def _draw_inputs(axis: Any, values: NDArray[np.float32]) -> None:
    """One feature as a line, of two the second as marks on it, more as a raster."""
    wide = values.shape[1]
    if wide > 2:
        axis.imshow(values.T, aspect="auto", cmap="Greys", interpolation="nearest", vmin=0, vmax=1)
        axis.set_ylabel("value", fontsize=8)
        return
    axis.plot(values[:, 0], color=INK[0], linewidth=0.9)
    if wide > 1:
        marks = np.flatnonzero(values[:, 1])
        axis.plot(marks, values[marks, 0], "o", color=MARK, markersize=5)
    axis.set_ylim(-0.05, 1.05)


def _truth(truth: float, names: Sequence[str]) -> str:
    return f"is: {names[int(truth)]}" if len(names) > 1 else f"{names[0]}: {truth:.3f}"


def _inks(count: int) -> list[str]:
    return [INK[n % len(INK)] for n in range(count)]


def _figure(rows: int, columns: int, height: float = 1.5) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns + 1, height * rows + 0.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)
