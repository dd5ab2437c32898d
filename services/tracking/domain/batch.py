"""A batch of what a run logs: its limits, and what of it is new to the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.tracking.domain.keys import check_key, check_text
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Points
from services.tracking.domain.run import DatasetInput
from services.tracking.errors import BatchTooLarge, DuplicateParams, ParamChanged, RunNotActive

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_PARAM_VALUE",
    "MAX_TAG_VALUE",
    "Batch",
    "Known",
    "News",
    "check_batch_limits",
    "check_params_unique",
    "check_run_tags",
    "news_of",
]

MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_TAGS = 100
MAX_ENTITIES = 1000
MAX_BATCH_BYTES = 1_000_000
MAX_PARAM_VALUE = 6000
MAX_TAG_VALUE = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one call logs to one run: all of it or nothing."""

    run_id: str
    """The run."""
    principal: str
    """Who logs it."""
    points: Sequence[Point] | Points = ()
    """Points of metrics."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Parameters, by key."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags, by key."""
    inputs: tuple[DatasetInput, ...] = ()
    """Data sets that the run used."""


@dataclass(slots=True)
class Known:
    """What a run has of the keys that batches name; grows as batches are accepted."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    inputs: set[DatasetInput] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class News:
    """What of a batch the run did not have; empty for a batch that was sent before."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    inputs: tuple[DatasetInput, ...]

    @property
    def changes_run(self) -> bool:
        """Whether the run gets a new etag."""
        return bool(self.params or self.tags or self.inputs)


def check_batch_limits(*, metrics: int, params: int, tags: int, size: int) -> None:
    """Check how much one batch holds.

    Args:
        metrics: Number of points.
        params: Number of parameters.
        tags: Number of tags.
        size: The request's size in bytes.

    Raises:
        BatchTooLarge: It holds more than 1,000 points, 100 parameters, 100 tags, 1,000 of them
            together, or 1,000,000 bytes.
    """
    _check_limit("metrics", MAX_METRICS, metrics)
    _check_limit("params", MAX_PARAMS, params)
    _check_limit("tags", MAX_TAGS, tags)
    _check_limit("metrics, params, and tags", MAX_ENTITIES, metrics + params + tags)
    if size > MAX_BATCH_BYTES:
        raise BatchTooLarge(
            f"Batched logging API requests must be at most {MAX_BATCH_BYTES} bytes, got a "
            f"request of size {size}."
        )


def _check_limit(what: str, limit: int, count: int) -> None:
    if count > limit:
        raise BatchTooLarge(
            f"A batch logging request can contain at most {limit} {what}. Got {count} {what}. "
            f"Please split up {what} across multiple requests and try again."
        )


def check_params_unique(pairs: Sequence[tuple[str, str]], path: str = "params") -> dict[str, str]:
    """Return parameters by key, each checked.

    Args:
        pairs: Their keys and values.
        path: Path of the list from the request's root; empty where the request is one parameter.

    Raises:
        DuplicateParams: A key comes twice.
        InvalidKey: A key breaks the rules.
        InvalidValue: A value is longer than 6,000 characters.
    """
    params: dict[str, str] = {}
    twice: list[str] = []
    for index, (key, value) in enumerate(pairs):
        at = f"{path}[{index}]." if path else ""
        check_key(key, "parameter", f"{at}key")
        check_text(value, MAX_PARAM_VALUE, "Param value", f"{at}value")
        if key in params:
            twice.append(key)
        params[key] = value
    if twice:
        raise DuplicateParams(
            f"Duplicate parameter keys have been submitted: {twice}. Please ensure the request "
            "contains only one param value per param key."
        )
    return params


def check_run_tags(pairs: Sequence[tuple[str, str]], path: str = "tags") -> dict[str, str]:
    """Return tags by key, each checked; a later one replaces an earlier one of the same key.

    Args:
        pairs: Their keys and values.
        path: Path of the list from the request's root; empty where the request is one tag.

    Raises:
        InvalidKey: A key breaks the rules.
        InvalidValue: A value is longer than 8,000 characters.
    """
    for index, (key, value) in enumerate(pairs):
        at = f"{path}[{index}]." if path else ""
        check_key(key, "tag", f"{at}key")
        check_text(value, MAX_TAG_VALUE, f"{at}value", f"{at}value")
    return dict(pairs)


def news_of(batch: Batch, stage: LifecycleStage, known: Known) -> News:
    """Return what of a batch is new to its run, and count it as known from then on.

    Raises:
        RunNotActive: The run was deleted.
        ParamChanged: A parameter has another value; `known` is then unchanged.
    """
    if stage is not LifecycleStage.ACTIVE:
        raise RunNotActive(batch.run_id, stage=stage)
    changed = [
        {"key": key, "old_value": known.params[key], "new_value": value}
        for key, value in batch.params.items()
        if known.params.get(key, value) != value
    ]
    if changed:
        raise ParamChanged(
            f"Changing param values is not allowed. Params were already logged='{changed}' "
            f"for run ID='{batch.run_id}'.",
            metadata={"run_id": batch.run_id, **changed[0]},
        )
    params = {key: value for key, value in batch.params.items() if key not in known.params}
    tags = {key: value for key, value in batch.tags.items() if known.tags.get(key) != value}
    inputs = tuple(dict.fromkeys(one for one in batch.inputs if one not in known.inputs))
    known.params.update(params)
    known.tags.update(tags)
    known.inputs.update(inputs)
    return News(params, tags, inputs)
