"""What a run reports and leaves: rows and lines of its epochs, pictures, checkpoints, curves at its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import network_of
from pipeline.training_run import Model, Run
from utils.chain.console import minutes
from utils.config.as_trained import how_of, shown_of
from utils.darknet.network import Checkpoint, Network, save_checkpoint
from utils.export.darknet_files import write_beside
from utils.pruning.sparsity import sparsity
from utils.quantization.fake import FakeQuantised
from utils.quantization.qat_checkpoint import to_trained
from utils.quantization.stages import stage_results, stage_rows
from utils.reporting.plots import plot_gammas, plot_results
from utils.reporting.results import write_rows
from utils.reporting.tables import plain_table
from utils.spiking.snn_checkpoint import save_integers
from utils.training.loop import EpochResult
from utils.training.resume import capture

log = logging.getLogger(__name__)

QUANTILES = 200  # |gamma| is kept as so many quantiles an epoch, enough for a histogram
MOMENTS = 5  # epochs in the picture of the gammas


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


def line(run: Run, seconds: float) -> str:
    """The last row for people, with what is left of the run, and under it how sparse the network is.

    ``seconds`` that its epoch took, validation included.
    """
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
        *left(run, seconds),
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


def left(run: Run, seconds: float) -> list[str]:
    """About how long the other epochs take, by the mean of those of this sitting; nothing behind the last one."""
    spent, done = run.progress.seconds - run.before + seconds, len(run.rows)
    epochs = run.config.epochs - done
    here = max(1, done - run.begun)
    return [f"about {minutes(spent / here * epochs)} left"] if epochs else []


def sparsity_row(run: Run, epoch: int) -> dict[str, Any]:
    """How sparse the saved weights are, as the strategies that ``--prune`` names see them; kept in gammas.csv, too."""
    offered, found = sparsity(float_network(run.evaluated), run.config.prune)
    run.gammas.append(gamma_row(epoch, offered))
    if run.group.is_main:
        write_rows(run.record.folder / "gammas.csv", run.gammas)
    return found


def gamma_row(epoch: int, gammas: dict[int, Tensor]) -> dict[str, Any]:
    """Quantiles of |gamma| over the channels that pruning can cut."""
    values = torch.cat(list(gammas.values())).quantile(torch.linspace(0, 1, QUANTILES))
    return {"epoch": epoch + 1, **{f"q{i}": round(value, 7) for i, value in enumerate(values.tolist())}}


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


def save(run: Run, path: Path, *, training: bool = False, ranks: Sequence[Any] = ()) -> None:
    """Write a checkpoint; with ``training`` all that ``--resume`` needs, made of plain values and tensors.

    ``ranks``: the state of each process's random generators, where there are several.
    """
    state: dict[str, Any] = {}
    if training:
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in run.config.values.items()}
        state = {**capture(run.progress, run.model, run.update), "files": run.files, "config": plain, "data": run.data}
        state |= {"ranks": list(ranks)} | ({"teacher": run.distillation.state()} if run.distillation else {})
    made = checkpoint_of(run.evaluated, run.manifest.names, training=state, meta=_meta(run))
    save_checkpoint(path, made)
    if run.config.darknet:  # .weights know how images are fitted from their cfg alone
        said = Network(made.network.spec.saying(how_of(run.config)), made.network.state)
        write_beside(path, said, run.progress.epochs * len(run.train.dataset))


def save_packed(run: Run, last: Path, *, again: bool = False) -> list[Path]:
    """``last_X.int.pt`` beside ``last_X.pt`` of a quantised run: the packed integers and nothing else.

    ``again``: a file of that name is a cut run's own.
    """
    if not isinstance(run.evaluated, FakeQuantised):
        return []
    meta = {"from": str(last), **_meta(run)}
    made = run.evaluated.executor().network
    return [save_integers(last.with_suffix(".int.pt"), made, names=run.manifest.names, meta=meta, replace=again)]


def _meta(run: Run) -> dict[str, Any]:
    meta = {"script": "train", "epoch": run.progress.epochs, "size": list(run.size), "sparse": run.config.sparse}
    meta |= {**shown_of(run.config), "data": run.config.data}
    return meta | (run.metrics.record() if run.metrics else {})


def checkpoint_of(
    model: Model, names: tuple[str, ...], *, training: dict[str, Any], meta: dict[str, Any]
) -> Checkpoint:
    """What a run saves: a float network, or a quantised one with its integers."""
    if isinstance(model, FakeQuantised):
        return to_trained(model, names, training=training, meta=meta)
    return Checkpoint(network_of(model), names, training=training, meta=meta)


def float_network(model: Model) -> Network:
    """The float tensors of a model of either kind."""
    return model.float_network() if isinstance(model, FakeQuantised) else network_of(model)
