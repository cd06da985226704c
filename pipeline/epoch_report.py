"""What a run reports: a row and a line an epoch, pictures of what it sees and finds, curves at its end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.training_run import Run
from utils.darknet.counts import count
from utils.export.darknet_files import unknown_to_darknet
from utils.quantization.stages import stage_line, stage_results, stage_rows
from utils.reporting.plots import plot_gammas, plot_results
from utils.reporting.tables import number, plain_table
from utils.training.loop import EpochResult

log = logging.getLogger(__name__)

QUANTILES = 200  # |gamma| is kept as so many quantiles an epoch, enough for a histogram
MOMENTS = 5  # epochs in the picture of the gammas


def log_run(run: Run) -> None:
    """What runs, in three lines, so that a log alone can be repeated."""
    record, counts, update = run.record, count(run.model.spec, run.size), run.update
    git = (record.git or "no git").partition("+")
    log.info("%s: git %s%s%s, seed %s, %s", record.folder, git[0][:12], git[1], git[2], record.seed, record.device)
    log.info(
        "%d training and %d validation images at %dx%d px%s, batches of %d, %d a step; %s parameters, %s MACs",
        len(run.train.dataset),
        len(run.valid.dataset),
        *run.size,
        f", {run.model.spec.timesteps} steps" if run.model.spec.stateful else "",
        run.train.batch_size,
        update.accumulate,
        number(counts.params),
        number(counts.macs),
    )
    log.info("%d steps of %s at a rate of %g", update.schedule.steps, type(update.optimizer).__name__, run.config.lr)
    if run.stage.bits:
        log.info(stage_line(run.stage, run.stages))
    for told in unknown_to_darknet(run.model.spec) if run.config.darknet else ():
        log.warning("--darknet: %s", told)


def row(run: Run, epoch: int, result: EpochResult) -> dict[str, Any]:
    """An epoch as results.csv keeps it; scores are None when it was not validated."""
    names = [column.name for column in run.task.columns]
    return {
        "epoch": epoch + 1,
        **result.losses,
        **(run.metrics.record() if run.metrics else dict.fromkeys(names)),
        "lr": run.update.optimizer.param_groups[0]["lr"],
        "images_per_second": round(result.images_per_second, 2),
        "wait_share": round(result.wait_share, 4),
        "seconds": round(result.seconds, 3),
    }


def line(run: Run) -> str:
    """The last row for people, and under it how sparse the network is."""
    last = run.rows[-1]
    parts = [f"epoch {last['epoch']}/{run.config.epochs}", f"loss {last['total']:.4f}"]
    taught = [value for name, value in last.items() if name.startswith("kd_")]
    parts += [f"the teacher's {sum(taught):.4f} of it"] if taught else []
    if run.metrics:
        shown = [column for column in run.task.columns if column.brief]
        parts += [f"{column.heading} {last[column.name]:.{column.digits}f}" for column in shown]
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
        safe, signal = last["safe_percent"], last["survivable_percent"]
        means = f"by them alone percent {safe:.2f} costs next to nothing now, {signal:.2f} keeps half of the signal"
    return f"{', '.join(parts)}\n  sparse: {sparse}; {means}"


def gamma_row(epoch: int, gammas: dict[int, Tensor]) -> dict[str, Any]:
    """Quantiles of |gamma| over the channels that pruning can cut."""
    values = torch.cat(list(gammas.values())).quantile(torch.linspace(0, 1, QUANTILES))
    return {"epoch": epoch + 1, **{f"q{i}": round(value, 7) for i, value in enumerate(values.tolist())}}


def picture_training(run: Run) -> None:
    """train_batch.jpg: images as the first epoch changes them, with their labels."""
    run.task.training_picture(run.record.folder / "train_batch.jpg", run.train.dataset, run.manifest.names)


def picture_validation(run: Run) -> None:
    """valid_batch.jpg: what is there beside what is found."""
    assert run.metrics is not None
    path, title = run.record.folder / "valid_batch.jpg", f"epoch {run.rows[-1]['epoch']}"
    run.task.validation_picture(path, run.valid.dataset, run.metrics, run.manifest.names, title)


def draw(run: Run) -> list[Path]:
    """results.png, and gammas.png of a sparse run; all files of the run's folder that are not its record."""
    folder = run.record.folder
    plot_results(folder / "results.png", run.rows, folder.name, run.task.columns)
    if run.gammas:
        count = min(MOMENTS, len(run.gammas))
        chosen = [run.gammas[round(i * (len(run.gammas) - 1) / max(1, count - 1))] for i in range(count)]
        plot_gammas(folder / "gammas.png", {f"epoch {g['epoch']}": _quantiles(g) for g in chosen}, counted=False)
    return sorted(path for path in folder.iterdir() if path.suffix in (".csv", ".png", ".jpg"))


def stages(run: Run, metrics: dict[str, Any]) -> list[Path]:
    """Log and record what the stages of fewer bits came to; the checkpoints of those before the last."""
    if run.stage.bits is None:
        return []
    metrics["stages"] = stage_results(run.stages, run.rows, run.files, run.task)
    log.info(plain_table("progressive", stage_rows(metrics["stages"], run.task)))
    kept = [Path(path) for key, path in run.files.items() if "-" in key]
    return [path for each in kept for path in (each, each.with_suffix(".int.pt")) if path.exists()]


def _quantiles(kept: dict[str, Any]) -> Tensor:
    return torch.tensor([value for key, value in kept.items() if key != "epoch"])
