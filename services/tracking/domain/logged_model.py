"""Models that runs log: a name, files, parameters, tags and metrics, before any registry."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from services.tracking.domain.keys import check_key, check_text
from services.tracking.domain.lifecycle import LifecycleStage, Micros
from services.tracking.domain.metrics import Point, rank
from services.tracking.errors import InvalidValue

__all__ = [
    "LoggedModel",
    "ModelLink",
    "ModelMetric",
    "ModelStatus",
    "RunDataset",
    "check_model_name",
    "check_model_pairs",
    "with_metrics",
]

_PARAM_LIMIT = 6000
_FORBIDDEN = ("/", ":", ".", "%", '"', "'")


class ModelStatus(enum.StrEnum):
    """How far a logged model is."""

    PENDING = "PENDING"
    READY = "READY"
    UPLOAD_FAILED = "UPLOAD_FAILED"


class ModelMetric(NamedTuple):
    """The latest point of a model's metric, of one run and on one data set."""

    point: Point
    run_id: str
    """The run that measured it; empty when none did."""
    dataset_name: str = ""
    dataset_digest: str = ""


class ModelLink(NamedTuple):
    """A model that a run used or made."""

    model_id: str
    is_output: bool
    """Whether the run made it."""
    step: int = 0
    """The step at which the run made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDataset:
    """A data set that a run used, with all that its client tells of it."""

    name: str
    digest: str
    context: str = ""
    """How the run used it, as "training"."""
    source_type: str = ""
    source: str = ""
    """Where it comes from, as the source type writes it."""
    schema: str = ""
    """JSON."""
    profile: str = ""
    """JSON."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of the use; the context's is among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedModel:
    """One model."""

    model_id: str
    """Its id, `m-` and 32 hexadecimal digits."""
    experiment_id: str
    """The experiment that it belongs to."""
    name: str
    """Its name; need not be unique."""
    model_type: str = ""
    """What kind of model it is, in its maker's words."""
    source_run_id: str = ""
    """The run that logged it; empty when none did."""
    status: ModelStatus = ModelStatus.PENDING
    """How far it is."""
    stage: LifecycleStage = LifecycleStage.ACTIVE
    """Whether it is in use."""
    created_by: str
    """The principal that created it."""
    created_at: Micros
    updated_at: Micros
    params: Mapping[str, str] = field(default_factory=dict)
    """Parameters, by key; written once."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags, by key."""
    metrics: Sequence[ModelMetric] = ()
    """The latest of each metric, run and data set."""


def check_model_name(name: str) -> str:
    """Return `name` unchanged when it may name a logged model.

    Raises:
        InvalidValue: It is longer than 500 characters, or holds what its URIs could not.
    """
    for character in _FORBIDDEN:
        if character in name:
            raise InvalidValue(
                f"Invalid model name ({name[:250]}) provided. Model name must be a non-empty "
                f"string and cannot contain the following characters: {_FORBIDDEN}",
                "name",
            )
    return check_text(name, 500, "Model name", "name")


def check_model_pairs(pairs: Iterable[tuple[str, str]], kind: str) -> dict[str, str]:
    """Return parameters or tags of a model by key, each checked.

    Raises:
        InvalidKey, InvalidValue: One breaks the rules.
    """
    checked: dict[str, str] = {}
    for index, (key, value) in enumerate(pairs):
        check_key(key, kind, f"{kind}s[{index}].key")
        checked[key] = check_text(value, _PARAM_LIMIT, f"{kind} value", f"{kind}s[{index}].value")
    return checked


def with_metrics(model: LoggedModel, metrics: Iterable[ModelMetric], *, now: Micros) -> LoggedModel:
    """Return the model with points of its metrics; of each only the latest is kept."""
    latest = {_identity(one): one for one in model.metrics}
    for one in metrics:
        known = latest.get(_identity(one))
        if known is None or rank(one.point) >= rank(known.point):
            latest[_identity(one)] = one
    return replace(model, metrics=tuple(latest.values()), updated_at=now)


def _identity(metric: ModelMetric) -> tuple[str, str, str, str]:
    return metric.point.key, metric.run_id, metric.dataset_name, metric.dataset_digest
