"""The tree of a parsed filter, and what may be searched for."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "EXPERIMENTS",
    "RUNS",
    "Comparison",
    "Field",
    "FieldKind",
    "Filter",
    "Operator",
    "OrderKey",
    "Schema",
    "ValueKind",
]


class FieldKind(enum.Enum):
    """Where a field's value is kept."""

    METRIC = "metric"
    PARAM = "parameter"
    TAG = "tag"
    ATTRIBUTE = "attribute"
    DATASET = "dataset"


class ValueKind(enum.Enum):
    """What a field's values are."""

    NUMBER = "number"
    """A double."""
    TIME = "time"
    """A time; filters give it in whole milliseconds since 1970."""
    TEXT = "text"
    """A text."""


class Operator(enum.StrEnum):
    """How a field is compared."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_EQUAL = "<="
    GREATER = ">"
    GREATER_EQUAL = ">="
    LIKE = "LIKE"
    ILIKE = "ILIKE"
    IN = "IN"
    NOT_IN = "NOT IN"
    IS_NULL = "IS NULL"
    IS_NOT_NULL = "IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Field:
    """What a comparison or an order is about."""

    kind: FieldKind
    key: str
    """The metric's, parameter's or tag's name, or the attribute's one name."""
    values: ValueKind


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition."""

    field: Field
    operator: Operator
    value: float | int | str | tuple[str, ...] | None
    """A float for a number, an int for a time in milliseconds, a tuple for IN, None for IS NULL."""


Filter: TypeAlias = tuple[Comparison, ...]
"""Conditions that must all hold; empty for none."""


@dataclass(frozen=True, slots=True)
class OrderKey:
    """One key of an order."""

    field: Field
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """What can be searched for in one kind of thing."""

    kinds: Mapping[str, FieldKind]
    """Prefixes, with the kinds that they mean."""
    attributes: Mapping[str, tuple[str, ValueKind]]
    """Accepted attribute names, with the one name and the kind of value that they mean."""
    lists: frozenset[str] = frozenset()
    """Attributes that IN and NOT IN may be asked of."""


def _aliases(kind: FieldKind, *prefixes: str) -> dict[str, FieldKind]:
    return dict.fromkeys(prefixes, kind)


_TAGS = _aliases(FieldKind.TAG, "tag", "tags")
_ATTRIBUTES = _aliases(FieldKind.ATTRIBUTE, "attribute", "attributes", "attr")

RUNS = Schema(
    kinds={
        **_aliases(FieldKind.METRIC, "metric", "metrics"),
        **_aliases(FieldKind.PARAM, "parameter", "parameters", "param", "params"),
        **_TAGS,
        **_ATTRIBUTES,
        **_aliases(FieldKind.ATTRIBUTE, "run"),
        **_aliases(FieldKind.DATASET, "dataset", "datasets"),
    },
    attributes={
        **{name: (name, ValueKind.TEXT) for name in ("run_id", "run_name", "status", "user_id")},
        "artifact_uri": ("artifact_uri", ValueKind.TEXT),
        **dict.fromkeys(("run name", "Run name", "Run Name"), ("run_name", ValueKind.TEXT)),
        **dict.fromkeys(("start_time", "created", "Created"), ("start_time", ValueKind.TIME)),
        "end_time": ("end_time", ValueKind.TIME),
    },
    lists=frozenset({"run_id"}),
)
"""What SearchRuns understands."""

EXPERIMENTS = Schema(
    kinds={**_TAGS, **_ATTRIBUTES},
    attributes={
        "experiment_id": ("experiment_id", ValueKind.TEXT),
        "name": ("name", ValueKind.TEXT),
        "creation_time": ("creation_time", ValueKind.TIME),
        "last_update_time": ("last_update_time", ValueKind.TIME),
    },
)
"""What SearchExperiments understands."""

DATASET_KEYS = ("name", "digest", "context")
