"""The tasks by name: the one place above their rooms that knows which there are."""

from __future__ import annotations

from utils.darknet.spec import ModelSpec
from utils.detection.task import DetectionTask
from utils.task import Task, task_name

TASKS: dict[str, Task] = {"detection": DetectionTask()}


def task_of(spec: ModelSpec, place: str = "cfg") -> Task:
    """The task that a network's outputs say it has.

    Raises:
        InputError: it has no output that a task knows.
    """
    return TASKS[task_name(spec, place)]
