"""The tree of a parsed filter, and what may be searched for."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TypeAlias

__all__ = [
    "EVALUATION_DATASETS",
    "EXPERIMENTS",
    "ISSUES",
    "LOGGED_MODELS",
    "MODEL_VERSIONS",
    "REGISTERED_MODELS",
    "RUNS",
    "TRACES",
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
    METADATA = "metadata"
    SPAN = "span"
    FEEDBACK = "feedback"
    EXPECTATION = "expectation"
    ISSUE = "issue"
    LINK = "link"
    """What a trace is linked to; its key is `run` or `prompt`."""


class ValueKind(enum.Enum):
    """What a field's values are."""

    NUMBER = "number"
    """A double."""
    TIME = "time"
    """A time; filters give it in whole milliseconds since 1970."""
    TEXT = "text"
    """A text."""
    ANY = "any"
    """A JSON value; filters give a text or a number."""


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
    RLIKE = "RLIKE"
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
    """A float for a number, an int for a time in milliseconds, a tuple for IN, None for IS NULL.

    The pattern of RLIKE is one that `domain.search.regex` takes.
    """


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
    stand_ins: Mapping[str, Field] = dataclass_field(default_factory=dict)
    """Attribute names that mean a field of another kind."""
    operators: Mapping[FieldKind | Field, frozenset[Operator]] = dataclass_field(
        default_factory=dict
    )
    """What may be asked of fields for which the common rules do not hold."""


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

_EQUALITY = frozenset({Operator.EQUAL, Operator.NOT_EQUAL})
_PATTERNS = frozenset({Operator.LIKE, Operator.ILIKE, Operator.RLIKE})
_NULLS = frozenset({Operator.IS_NULL, Operator.IS_NOT_NULL})
_LISTS = frozenset({Operator.IN, Operator.NOT_IN})
_NUMERIC = frozenset({Operator.LESS, Operator.LESS_EQUAL, Operator.GREATER, Operator.GREATER_EQUAL})
_TRACE_NAME = Field(FieldKind.TAG, "mlflow.traceName", ValueKind.TEXT)
_TEXT = Field(FieldKind.SPAN, "content", ValueKind.TEXT)

TRACES = Schema(
    kinds={
        **_TAGS,
        **_ATTRIBUTES,
        **_aliases(FieldKind.ATTRIBUTE, "trace"),
        **_aliases(FieldKind.METADATA, "metadata", "request_metadata"),
        **_aliases(FieldKind.SPAN, "span"),
        **_aliases(FieldKind.FEEDBACK, "feedback"),
        **_aliases(FieldKind.EXPECTATION, "expectation"),
        **_aliases(FieldKind.ISSUE, "issue"),
    },
    attributes={
        **dict.fromkeys(("request_id", "trace_id"), ("trace_id", ValueKind.TEXT)),
        **{
            name: (name, ValueKind.TEXT)
            for name in ("status", "client_request_id", "experiment_id")
        },
        **dict.fromkeys(("timestamp", "timestamp_ms"), ("timestamp", ValueKind.TIME)),
        **dict.fromkeys(("end_time", "end_time_ms"), ("end_time", ValueKind.TIME)),
        # A length of time is kept and compared as a time is.
        **dict.fromkeys(
            ("execution_time", "execution_time_ms"), ("execution_time", ValueKind.TIME)
        ),
    },
    stand_ins={
        "name": _TRACE_NAME,
        "text": _TEXT,
        "run_id": Field(FieldKind.LINK, "run", ValueKind.TEXT),
        "prompt": Field(FieldKind.LINK, "prompt", ValueKind.TEXT),
    },
    operators={
        FieldKind.ATTRIBUTE: _EQUALITY | _PATTERNS | _LISTS,
        FieldKind.LINK: _EQUALITY | _LISTS,
        FieldKind.TAG: _EQUALITY | _PATTERNS | _NULLS,
        _TRACE_NAME: _EQUALITY | _PATTERNS | _NULLS | _LISTS,
        FieldKind.METADATA: _EQUALITY | _PATTERNS | _NULLS,
        FieldKind.SPAN: _EQUALITY | _PATTERNS | _LISTS,
        _TEXT: _PATTERNS,
        FieldKind.FEEDBACK: _EQUALITY | _PATTERNS | _NULLS | _NUMERIC,
        FieldKind.EXPECTATION: _EQUALITY | _PATTERNS | _NULLS | _NUMERIC,
        FieldKind.ISSUE: frozenset({Operator.EQUAL}),
    },
)
"""What SearchTraces understands."""
LOGGED_MODELS = Schema(
    kinds={
        **_aliases(FieldKind.METRIC, "metric", "metrics"),
        **_aliases(FieldKind.PARAM, "parameter", "parameters", "param", "params"),
        **_TAGS,
        **_ATTRIBUTES,
    },
    attributes={
        **{
            name: (name, ValueKind.TEXT)
            for name in ("model_id", "name", "model_type", "status", "experiment_id")
        },
        **dict.fromkeys(("source_run_id", "run_id"), ("source_run_id", ValueKind.TEXT)),
        **dict.fromkeys(
            ("creation_time", "creation_timestamp", "creation_timestamp_ms"),
            ("creation_time", ValueKind.TIME),
        ),
        **dict.fromkeys(
            ("last_updated_time", "last_updated_timestamp", "last_updated_timestamp_ms"),
            ("last_updated_time", ValueKind.TIME),
        ),
    },
    lists=frozenset({"model_id", "source_run_id", "run_id"}),
)
"""What SearchLoggedModels understands."""

_CHANGES = {
    "creation_timestamp": ("creation_timestamp", ValueKind.TIME),
    "last_updated_timestamp": ("last_updated_timestamp", ValueKind.TIME),
}

REGISTERED_MODELS = Schema(
    kinds={**_TAGS, **_ATTRIBUTES}, attributes={"name": ("name", ValueKind.TEXT), **_CHANGES}
)
"""What SearchRegisteredModels understands."""

MODEL_VERSIONS = Schema(
    kinds={**_TAGS, **_ATTRIBUTES},
    attributes={
        **{name: (name, ValueKind.TEXT) for name in ("name", "run_id", "source_path")},
        "version_number": ("version_number", ValueKind.NUMBER),
        **_CHANGES,
    },
    lists=frozenset({"name", "run_id"}),
)
"""What SearchModelVersions understands."""

EVALUATION_DATASETS = Schema(
    kinds={**_TAGS, **_ATTRIBUTES},
    attributes={
        **{name: (name, ValueKind.TEXT) for name in ("name", "created_by", "last_updated_by")},
        **{name: (name, ValueKind.TIME) for name in ("created_time", "last_update_time")},
    },
    lists=frozenset({"name"}),
)
"""What SearchEvaluationDatasets understands."""

ISSUES = Schema(
    kinds=_ATTRIBUTES,
    attributes={name: (name, ValueKind.TEXT) for name in ("status", "source_run_id")},
)
"""What SearchIssues understands."""

DATASET_KEYS = ("name", "digest", "context")
SPAN_KEYS = ("name", "type", "status", "content")
SPAN_ATTRIBUTES = "attributes."
"""How the name of a span's attribute begins, as in `span.attributes.model`."""
