"""What a classifier answers about one picture, as text, rows and a drawing; its tables and answers in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from utils.classification.metrics import TOP, ClassificationMetrics
from utils.classification.show import captioned
from utils.files import write_text
from utils.reporting.tables import plain_table
from utils.thresholds import Thresholds


@dataclass(frozen=True)
class ClassResult:
    """The classes that a picture may be of: (class, probability), the likeliest first."""

    found: tuple[tuple[int, float], ...]

    def draw(self, image: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
        """The picture [H, W, 3] above its classes with their probabilities."""
        lines = [f"{names[label]} {share:.1%}" for label, share in self.found]
        return captioned(np.repeat(image, 3, 2) if image.shape[2] == 1 else image, lines or ["none above --conf-thres"])

    def text(self, height: int, width: int) -> str:
        """Lines of class, probability."""
        return "".join(f"{label} {share:.6f}\n" for label, share in self.found)

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Class, name and probability of each, for JSON."""
        return [{"class": label, "name": names[label], "score": round(share, 6)} for label, share in self.found]

    def labels(self) -> list[int]:
        """The likeliest class."""
        return [label for label, _ in self.found[:1]]

    def beside(self, stem: Path) -> list[Path]:
        """Nothing: the drawing and the text say it."""
        return []


def results_of(found: Tensor, thresholds: Thresholds) -> list[ClassResult]:
    """Probabilities [N, classes] -> the classes of each picture above the least probability, five at most."""
    results = []
    for row in found.tolist():
        order = sorted(range(len(row)), key=lambda label: (-row[label], label))
        wanted = [label for label in order if thresholds.classes is None or label in thresholds.classes]
        kept = [(label, row[label]) for label in wanted[:TOP] if row[label] > thresholds.confidence]
        results.append(ClassResult(tuple(kept)))
    return results


def save_results(path: Path, found: ClassificationMetrics, images: Sequence[Path]) -> Path:
    """A row an image: its file, its class, and the five likeliest classes with their probabilities."""
    rows = []
    for index, label, shares in zip(
        found.answers.indices, found.answers.labels.tolist(), found.answers.probabilities, strict=True
    ):
        (best,) = results_of(shares[None], Thresholds(confidence=0.0))
        place = images[index]
        rows.append({"image": f"{place.parent.name}/{place.name}", "truth": label, "found": best.rows(found.names)})
    return write_text(path, json.dumps(rows, indent=1))


def class_rows(measured: Mapping[str, ClassificationMetrics]) -> list[dict[str, Any]]:
    """A row a class: images in the truth, the share of them that every network knew; None where there is no image."""
    first = next(iter(measured.values()))
    truth = first.confusion.sum(0).tolist()
    return [
        {
            "class": name,
            "images": truth[k],
            **{n: _share(metrics.confusion[k, k], truth[k]) for n, metrics in measured.items()},
        }
        for k, name in enumerate(first.names)
    ]


def class_table(found: ClassificationMetrics) -> str:
    """A row a class: images, precision, recall, and what it is most often taken for; all classes first."""
    rows = [["class", "images", "precision", "recall", "taken for"]]
    rows.append(["all", str(len(found.answers.labels)), "", f"{found.balanced:.3f}", ""])
    for k, name in enumerate(found.names):
        column, hits = found.confusion[:, k], int(found.confusion[k, k])
        wrong = column.copy()
        wrong[k] = 0
        other = found.names[int(wrong.argmax())] + f" ({int(wrong.max())})" if wrong.any() else ""
        shares = [_share(hits, int(found.confusion[k].sum())), _share(hits, int(column.sum()))]
        rows.append([name, str(int(column.sum())), *("-" if each is None else f"{each:.3f}" for each in shares), other])
    return plain_table("classes", rows)


def confusion_rows(found: ClassificationMetrics) -> list[dict[str, Any]]:
    """The confusion matrix: a row a predicted class, a column a true one."""
    return [
        {"predicted": name, **dict(zip(found.names, found.confusion[k].tolist(), strict=True))}
        for k, name in enumerate(found.names)
    ]


def _share(part: int, whole: int) -> float | None:
    return int(part) / int(whole) if whole else None
