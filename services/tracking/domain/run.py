"""A run: one execution with its parameters, metrics, tags and inputs, and the rules of its life."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from services.tracking.domain.keys import check_text
from services.tracking.domain.lifecycle import LifecycleStage, Micros
from services.tracking.domain.metrics import Extremes, Point
from services.tracking.errors import InvalidUpdate, RunNotActive, StaleEtag

__all__ = [
    "DatasetInput",
    "DatasetUse",
    "Run",
    "RunChange",
    "RunInfo",
    "RunNews",
    "RunStatus",
    "change_run",
    "check_run_name",
    "move_run",
]


class RunStatus(enum.StrEnum):
    """The state of a run."""

    RUNNING = "RUNNING"
    SCHEDULED = "SCHEDULED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"

    @property
    def is_final(self) -> bool:
        """Whether a run in this state is over."""
        return self in {RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED}


class DatasetInput(NamedTuple):
    """A data set that a run used."""

    name: str
    """Its name; a table's full name for a table of the catalog."""
    digest: str = ""
    """What identifies the content."""
    context: str = ""
    """How the run used it, as "training"."""


class DatasetUse(NamedTuple):
    """That runs of an experiment used a data set."""

    experiment_id: str
    dataset: DatasetInput


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """The run itself, without what was logged to it."""

    run_id: str
    """Its id."""
    experiment_id: str
    """The experiment that it belongs to; never changes."""
    name: str
    """Its name; need not be unique."""
    status: RunStatus = RunStatus.RUNNING
    """Its state."""
    started_at: Micros
    """When it began."""
    ended_at: Micros | None = None
    """When it ended; None while it is under way."""
    artifact_location: str
    """URL under which its artifacts are kept."""
    stage: LifecycleStage = LifecycleStage.ACTIVE
    """Whether it is in use."""
    deleted_with_experiment: bool = False
    """Whether it was deleted along with its experiment, and so comes back with it."""
    deleted_at: Micros | None = None
    """When it was deleted; None while it is in use."""
    created_by: str
    """The principal that created it."""
    etag: str
    """Changes with every change of the run, its parameters, tags and inputs; not of its metrics."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run with what was logged to it."""

    info: RunInfo
    params: Mapping[str, str] = field(default_factory=dict)
    """Parameters, by key."""
    metrics: Mapping[str, Point] = field(default_factory=dict)
    """The latest point of each metric, by key."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags, by key."""
    inputs: tuple[DatasetInput, ...] = ()
    """Data sets that it used."""
    extremes: Mapping[str, Extremes] = field(default_factory=dict)
    """The extremes of each metric that has a number, by key."""


@dataclass(frozen=True, slots=True)
class RunNews:
    """What a run has that it did not have before."""

    run: Run | None
    """The run, when it changed; its metrics do not count."""
    points: list[Point]
    """The latest point of each metric that has a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChange:
    """What an update sets; None leaves a field as it is."""

    name: str | None = None
    """The new name."""
    status: RunStatus | None = None
    """The new state."""
    ended_at: Micros | None = None
    """When the run ended."""
    etag: str = ""
    """The state that the caller read; empty to change whatever there is."""


def check_run_name(name: str, path: str = "name") -> str:
    """Return `name` unchanged when it may name a run.

    Raises:
        InvalidValue: It is longer than 500 characters, or holds a NUL.
    """
    return check_text(name, 500, "Run name", path)


def change_run(run: RunInfo, change: RunChange, *, now: Micros, etag: str) -> RunInfo:
    """Return the run with a change made.

    A run that reaches a final state without a time of its end ended now; one that goes back to
    work has no end any more.

    Raises:
        StaleEtag: The change was made for another state.
        RunNotActive: The run was deleted.
        InvalidUpdate: The change is empty, or sets an end of a run that is under way.
        InvalidValue: The new name breaks the rules.
    """
    if change.etag and change.etag != run.etag:
        raise StaleEtag(
            f"run {run.run_id} changed since it was read; read it again",
            metadata={"etag": run.etag},
        )
    if run.stage is not LifecycleStage.ACTIVE:
        raise RunNotActive(run.run_id)
    if change.name is None and change.status is None and change.ended_at is None:
        raise InvalidUpdate("update_mask must name at least one field", "update_mask")
    name = run.name if change.name is None else check_run_name(change.name, "run.name")
    if not name:
        raise InvalidUpdate("a run's name must not be empty", "run.name")
    status = change.status or run.status
    return replace(
        run, name=name, status=status, ended_at=_end(run, change, status, now), etag=etag
    )


def _end(run: RunInfo, change: RunChange, status: RunStatus, now: Micros) -> Micros | None:
    if not status.is_final:
        if change.ended_at is not None:
            raise InvalidUpdate(f"a run that is {status} has no end", "run.ended_at")
        return None
    if change.ended_at is not None:
        # Even one before the start is kept: callers' clocks differ.
        return change.ended_at
    return run.ended_at if run.ended_at is not None else max(now, run.started_at)


def move_run(run: RunInfo, stage: LifecycleStage, *, now: Micros, etag: str) -> RunInfo:
    """Return the run deleted or restored.

    Raises:
        RunNotActive: It is in that stage already.
    """
    if run.stage is stage:
        needed = (
            LifecycleStage.ACTIVE if stage is LifecycleStage.DELETED else LifecycleStage.DELETED
        )
        raise RunNotActive(run.run_id, needed=needed, stage=run.stage)
    deleted_at = now if stage is LifecycleStage.DELETED else None
    return replace(
        run, stage=stage, deleted_with_experiment=False, deleted_at=deleted_at, etag=etag
    )
