"""What tables and reports have to know of a task: its numbers by name, and the words for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Column:
    """A number of a task as tables, curves and reports show it.

    ``heading`` heads a column (mAP@.5), ``title`` is a sentence's words for it, ``digits`` follow the point. What is a
    ``share`` is told in points (hundredths) where two networks are compared. What is ``brief`` has a place where there
    is little room: in the line of an epoch and in the curves of a report.
    """

    name: str
    heading: str
    title: str
    digits: int = 4
    share: bool = True
    brief: bool = True


@dataclass(frozen=True)
class TaskChart:
    """A table of the task's own that a report draws.

    ``table`` is the csv file's stem. A "curve" has the column ``x`` along its axis and a line for each other one; of
    "bars" ``x`` names the bars, and rows whose ``count`` is 0 are left out. ``y`` says what is drawn, ``absent`` begins
    the sentence that stands where there is no such table.
    """

    table: str
    kind: Literal["curve", "bars"]
    title: str
    x: str
    y: str
    absent: str
    count: str = ""


class Described(Protocol):
    """What can be reported of: a task, or the facts of one."""

    @property
    def name(self) -> str:
        """Of the task."""

    @property
    def primary(self) -> str:
        """The name of the number that decides which epoch is the best."""

    @property
    def headline(self) -> str:
        """The name of the number that limits, searches and reports go by."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its numbers."""

    @property
    def losses(self) -> tuple[str, ...]:
        """The terms of its loss, "total" first."""

    @property
    def charts(self) -> tuple[TaskChart, ...]:
        """What a report draws of its own tables."""

    @property
    def pictures(self) -> str:
        """The file and the folder of pictures side by side."""


@dataclass(frozen=True)
class TaskFacts:
    """What tables and reports know of a task; a run's record carries it, so that its folder alone makes a report."""

    name: str
    primary: str
    headline: str
    columns: tuple[Column, ...]
    losses: tuple[str, ...] = ("total",)
    charts: tuple[TaskChart, ...] = ()
    pictures: str = "pictures"

    @classmethod
    def of(cls, task: Described) -> TaskFacts:
        """Those of a task."""
        return cls(*(getattr(task, field.name) for field in fields(cls)))

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> TaskFacts:
        """Those that a record holds, of this version or another.

        Raises:
            KeyError, TypeError: it holds something else.
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in _known(cls, content).items()}
        values["columns"] = tuple(Column(**_known(Column, column)) for column in values["columns"])
        values["charts"] = tuple(TaskChart(**_known(TaskChart, chart)) for chart in values.get("charts", ()))
        return cls(**values)

    @property
    def main(self) -> tuple[Column, ...]:
        """The columns that a table has where there is room for two: the headline's and the primary's.

        Where these are one, the next brief one that is a share too stands beside it.
        """
        chosen = {self.primary, self.headline}
        others = [each.name for each in self.columns if each.brief and each.share and each.name not in chosen]
        chosen |= set(others[: 2 - len(chosen)])
        return tuple(column for column in self.columns if column.name in chosen)

    @property
    def primary_heading(self) -> str:
        """The heading of the number that decides."""
        return next(column.heading for column in self.columns if column.name == self.primary)

    @property
    def score(self) -> Column:
        """The headline's column."""
        return next(column for column in self.columns if column.name == self.headline)


def _known(kind: type[Column] | type[TaskChart] | type[TaskFacts], content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record this version knows."""
    return {field.name: content[field.name] for field in fields(kind) if field.name in content}
