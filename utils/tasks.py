"""The tasks by name: the one place above their rooms that knows which there are."""

from __future__ import annotations

from collections.abc import Callable, Collection

from utils.classification.task import ClassificationTask
from utils.darknet.spec import ModelSpec
from utils.detection.task import DetectionTask
from utils.errors import InputError
from utils.segmentation.task import SegmentationTask
from utils.sequences.task import SequenceTask
from utils.task import Task, task_name

TASKS: dict[str, Callable[[ModelSpec], Task]] = {  # what a sequence is measured by, its output says
    ClassificationTask.name: lambda spec: ClassificationTask(),
    DetectionTask.name: lambda spec: DetectionTask(),
    SegmentationTask.name: lambda spec: SegmentationTask(),
    SequenceTask.name: SequenceTask.of,
}


def task_of(spec: ModelSpec, place: str = "cfg") -> Task:
    """The task that a network's outputs say it has.

    Raises:
        InputError: it has no output that a task knows.
    """
    return TASKS[task_name(spec, place)](spec)


def check_serves(task: Task, place: object) -> None:
    """Refuse a network that is only trained and measured, in any other script.

    Raises:
        InputError: so it is.
    """
    if task.confined:
        raise InputError(f"{place}: {task.confined}; use those two")


def check_idle(task: Task, given: Collection[str]) -> None:
    """Refuse what somebody said and this task has no use for.

    Args:
        task: of the network.
        given: names of a config's fields.

    Raises:
        InputError: such a flag was given.
    """
    for name in sorted(given):
        if name in task.idle:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag}: cannot act in {task.name}: {task.idle[name]}; leave it away")
