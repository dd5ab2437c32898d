"""An experiment: a named set of runs, and the rules of its life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from services.tracking.domain.keys import check_experiment_name, check_key, check_text
from services.tracking.domain.lifecycle import LifecycleStage, Micros
from services.tracking.errors import (
    DefaultExperimentKept,
    ExperimentNotActive,
    InvalidUpdate,
    StaleEtag,
)

__all__ = [
    "DEFAULT_EXPERIMENT_ID",
    "DEFAULT_EXPERIMENT_NAME",
    "MAX_TAG_VALUE",
    "Experiment",
    "ExperimentChange",
    "change_experiment",
    "check_experiment_tags",
    "move_experiment",
]

DEFAULT_EXPERIMENT_ID: Final = "0"
"""The experiment that exists from the start; whoever is authenticated may read and write it."""
DEFAULT_EXPERIMENT_NAME: Final = "Default"

MAX_TAG_VALUE: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A named set of runs."""

    experiment_id: str
    """Its id; the name under which the catalog knows it."""
    name: str
    """Unique among all experiments, deleted ones included."""
    artifact_location: str
    """URL under which its runs keep their artifacts."""
    stage: LifecycleStage = LifecycleStage.ACTIVE
    """Whether it is in use."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags, by key."""
    created_by: str
    """The principal that created it."""
    created_at: Micros
    """When it was created."""
    updated_at: Micros
    """When it was last changed."""
    deleted_at: Micros | None = None
    """When it was deleted; None while it is in use."""
    etag: str
    """Changes with every change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentChange:
    """What an update sets; None leaves a field as it is."""

    name: str | None = None
    """The new name."""
    tags: Mapping[str, str] | None = None
    """All tags that it then has."""
    etag: str = ""
    """The state that the caller read; empty to change whatever there is."""


def check_experiment_tags(tags: Mapping[str, str], path: str = "experiment.tags") -> None:
    """Check the tags of an experiment.

    Raises:
        InvalidKey: A key breaks the rules.
        InvalidValue: A value is longer than 20,000 characters.
    """
    for key, value in tags.items():
        check_key(key, "tag", f"{path}[{key[:40]!r}]")
        check_text(value, MAX_TAG_VALUE, "Tag value", f"{path}[{key[:40]!r}]")


def change_experiment(
    experiment: Experiment, change: ExperimentChange, *, now: Micros, etag: str
) -> Experiment:
    """Return the experiment with a change made.

    Raises:
        StaleEtag: The change was made for another state.
        ExperimentNotActive: The experiment was deleted.
        DefaultExperimentKept: It is the default experiment and would get another name.
        InvalidUpdate: The change is empty.
        InvalidKey, InvalidValue: A new value breaks the rules.
    """
    if change.etag and change.etag != experiment.etag:
        raise StaleEtag(
            f"experiment {experiment.experiment_id} changed since it was read; read it again",
            metadata={"etag": experiment.etag},
        )
    if experiment.stage is not LifecycleStage.ACTIVE:
        raise ExperimentNotActive(experiment.experiment_id)
    if change.name is None and change.tags is None:
        raise InvalidUpdate("update_mask must name at least one field", "update_mask")
    if change.name is not None:
        check_experiment_name(change.name)
        if experiment.experiment_id == DEFAULT_EXPERIMENT_ID and change.name != experiment.name:
            raise DefaultExperimentKept("the default experiment keeps its name")
    if change.tags is not None:
        check_experiment_tags(change.tags)
    return replace(
        experiment,
        name=experiment.name if change.name is None else change.name,
        tags=experiment.tags if change.tags is None else dict(change.tags),
        updated_at=now,
        etag=etag,
    )


def move_experiment(
    experiment: Experiment, stage: LifecycleStage, *, now: Micros, etag: str
) -> Experiment:
    """Return the experiment deleted or restored.

    Raises:
        ExperimentNotActive: It is in that stage already.
        DefaultExperimentKept: It is the default experiment, which is not deleted.
    """
    if experiment.stage is stage:
        needed = (
            LifecycleStage.ACTIVE if stage is LifecycleStage.DELETED else LifecycleStage.DELETED
        )
        raise ExperimentNotActive(experiment.experiment_id, needed=needed, stage=experiment.stage)
    if stage is LifecycleStage.DELETED and experiment.experiment_id == DEFAULT_EXPERIMENT_ID:
        raise DefaultExperimentKept("the default experiment cannot be deleted")
    deleted_at = now if stage is LifecycleStage.DELETED else None
    return replace(experiment, stage=stage, updated_at=now, deleted_at=deleted_at, etag=etag)
