"""What a run tells: a row and a line an epoch, pictures of what it sees and finds, curves at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.training.run import Run
from pipeline.training.stages import SCORES
from utils.detection.dataset import BoxBatch as Batch
from utils.detection.dataset import Sample, collate
from utils.detection.pictures import batch_mosaic, comparison_grid, save_picture, truth_as_boxes
from utils.reporting.plots import plot_gammas, plot_results
from utils.training.loop import EpochResult

QUANTILES = 200  # |gamma| is kept as so many quantiles an epoch, enough for a histogram
SHOWN = 8  # validation images in the picture
MOST = 30  # boxes drawn in an image, the best; an untrained network finds hundreds
MOMENTS = 5  # epochs in the picture of the gammas


def row(run: Run, epoch: int, result: EpochResult) -> dict[str, Any]:
    """An epoch as results.csv keeps it; scores are None when it was not validated."""
    return {
        "epoch": epoch + 1,
        **result.losses,
        **(run.metrics.record() if run.metrics else dict.fromkeys(SCORES)),
        "lr": run.optimizer.param_groups[0]["lr"],
        "images_per_second": round(result.images_per_second, 2),
        "wait_share": round(result.wait_share, 4),
        "seconds": round(result.seconds, 3),
    }


def line(run: Run) -> str:
    """The last row for people, and under it how sparse the network is."""
    last = run.rows[-1]
    parts = [f"epoch {last['epoch']}/{run.args.epochs}", f"loss {last['total']:.4f}"]
    taught = [value for name, value in last.items() if name.startswith("kd_")]
    parts += [f"the teacher's {sum(taught):.4f} of it"] if taught else []
    if run.metrics:
        parts += [f"mAP@.5 {last['map50']:.4f}", f"mAP@.5:.95 {last['map']:.4f}"]
        parts += [f"P {last['precision']:.3f}", f"R {last['recall']:.3f}"]
    parts += [
        f"{last['images_per_second']:.0f} images/s",
        f"{last['wait_share']:.1%} waiting",
        f"{last['seconds']:.1f} s",
    ]
    if "near_zero" not in last:
        return ", ".join(parts)
    quantiles = " ".join(f"{last[f'gamma_q{share}']:.3g}" for share in ("05", "25", "50", "75", "95"))
    sparse = f"{last['near_zero']:.1%} of |gamma| < 0.01, quantiles 5 25 50 75 95 %: {quantiles}"
    if "weakest_block" in last:
        means = f"the weakest residual block has a mean of {last['weakest_block']:.3g}"
    else:
        means = f"percent {last['safe_percent']:.2f} is safe now, {last['survivable_percent']:.2f} survivable"
    return f"{', '.join(parts)}\n  sparse: {sparse}; {means}"


def gamma_row(epoch: int, gammas: dict[int, Tensor]) -> dict[str, Any]:
    """Quantiles of |gamma| over the channels that pruning can cut."""
    values = torch.cat(list(gammas.values())).quantile(torch.linspace(0, 1, QUANTILES))
    return {"epoch": epoch + 1, **{f"q{i}": round(value, 7) for i, value in enumerate(values.tolist())}}


def picture_training(run: Run) -> None:
    """train_batch.jpg: images as the first epoch augments them, with their labels."""
    dataset = run.train.dataset
    dataset.set_epoch(0)
    save_picture(run.record.folder / "train_batch.jpg", _sheet(run, [dataset[i] for i in range(min(16, len(dataset)))]))


def picture_validation(run: Run) -> None:
    """valid_batch.jpg: what is there beside what is found, at the confidence where F1 is best."""
    assert run.metrics is not None
    found = run.metrics.detections[:SHOWN]
    images = [run.valid.dataset[item.index].image for item in found]
    seen = [item.boxes[item.boxes[:, 4] >= run.metrics.confidence][:MOST] for item in found]
    columns = {"ground truth": [truth_as_boxes(item.truth) for item in found], f"epoch {run.rows[-1]['epoch']}": seen}
    comparison_grid(images, columns, run.manifest.names, run.record.folder / "valid_batch.jpg")


def draw(run: Run) -> list[Path]:
    """results.png, and gammas.png of a sparse run; all files of the run's folder that are not its record."""
    folder = run.record.folder
    plot_results(folder / "results.png", run.rows, folder.name)
    if run.gammas:
        count = min(MOMENTS, len(run.gammas))
        chosen = [run.gammas[round(i * (len(run.gammas) - 1) / max(1, count - 1))] for i in range(count)]
        plot_gammas(folder / "gammas.png", {f"epoch {g['epoch']}": _quantiles(g) for g in chosen}, counted=False)
    return sorted(path for path in folder.iterdir() if path.suffix in (".csv", ".png", ".jpg"))


def _quantiles(kept: dict[str, Any]) -> Tensor:
    return torch.tensor([value for key, value in kept.items() if key != "epoch"])


def _sheet(run: Run, samples: list[Sample]) -> Any:
    batch = collate(samples)
    assert isinstance(batch, Batch)
    return batch_mosaic(batch.images, batch.targets, run.manifest.names)
