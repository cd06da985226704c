"""Train a network, dense or sparse, from nothing, from Darknet weights, or from any checkpoint of ours.

  python3 train.py                                              the sample set, yolov3-tiny-digits, 30 epochs
  python3 train.py -sr --s 0.001 --prune 0                      sparse, for slim_prune.py
  python3 train.py --cfg cfg/yolov3.cfg --weights yolov3.weights -pt --data mine.data --epochs 50
  python3 train.py --weights weights/slim_prune_0.8.pt --epochs 10 --name finetuned
  python3 train.py --weights weights/slim_prune_0.8.pt --KDstr 4 --t_weights weights/last.pt    with a teacher
  python3 train.py --weights weights/slim_prune_0.8.pt --quantized pow2 --w-bit 4 --a-bit 4 --epochs 10    to integers
  python3 train.py --weights weights/last.pt --quantized google --w-bit 4 --a-bit 3 --progressive --epochs 30    8, 4, 3
  python3 train.py --weights weights/last.pt --quantized pow2 --a-bit 4 --sparsify 10 --acc-bits 20    few spikes
  python3 train.py --epochs 10 --evolve 20                      search over rate, mosaic, ... in 20 trainings (Optuna)
  python3 train.py --resume                                     go on with the run that was cut
  python3 train.py --processes auto                             in processes instead of threads, where that is faster
  torchrun --nproc_per_node=2 -- train.py -sr --s 0.001         two processes; the first one writes
  torchrun --nnodes=2 --node_rank=0 --master_addr=HOST --master_port=29500 --nproc_per_node=2 -- train.py
                                                                two machines that see the same folder: 1 on the other

What it is for its cfg's last section says: boxes, classes, masks or sequences. Leaves weights/last.pt and best.pt (the
validation mAP@.5:.95, top-1 or mIoU decides; --name X: last_X.pt), and in runs/train[-X] the record, results.csv,
results.png and sample pictures. A taken name gets -2. With --quantized, what is validated are the integers; every
script takes such a checkpoint, and last.int.pt beside it holds the integers alone. With --progressive every stage
leaves its own, last-8.pt for the one of 8 bits.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from utils import cli
from utils.config.train import TrainConfig
from utils.flag_words import without

if TYPE_CHECKING:
    from utils.reporting.record import Record


def parser() -> cli.Parser[TrainConfig]:
    """The command line."""
    return cli.parser(__doc__ or "", TrainConfig)


def run(config: TrainConfig) -> Record:
    """Train as the flags say."""
    if config.evolve:
        from darkspike.search import evolve  # here, since --help needs no torch

        return evolve(config)
    from pipeline import train as training

    return training.train(config)


def command(config: TrainConfig) -> None:
    """The same from the command line, where ``--processes`` starts several."""
    if config.processes is None:
        run(config)
        return
    from pipeline import train as training

    flags = without(sys.argv[1:], "--processes")
    training.train_in_processes(config, [sys.executable, sys.argv[0], *flags])


if __name__ == "__main__":
    cli.main(command, parser())
