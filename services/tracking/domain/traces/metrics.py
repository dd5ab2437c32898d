"""Figures over many traces, spans or assessments: which there are, and how they are computed.

Names, dimensions and rules are MLflow's (`QueryTraceMetrics`).
"""

from __future__ import annotations

import enum
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.search.syntax import Filter
from services.tracking.domain.traces.assessment import AssessmentKind, text_of
from services.tracking.domain.traces.span import Span
from services.tracking.domain.traces.trace import NAME_TAG, Trace
from services.tracking.errors import InvalidValue

__all__ = [
    "Aggregation",
    "AssessmentFact",
    "AssessmentFilter",
    "DataPoint",
    "Figure",
    "Measure",
    "MetricsQuery",
    "Subject",
    "TraceFact",
    "aggregated",
    "assessment_measures",
    "check_metrics_query",
    "measures_of_assessment",
    "measures_of_trace",
    "metadata_key",
    "span_measures",
    "time_bucket",
    "trace_measures",
]

_SESSION: Final = "mlflow.trace.session"
_USAGE: Final = "mlflow.trace.tokenUsage"
_COST: Final = "mlflow.llm.cost"
_WORDS: Final = {"yes": 1.0, "no": 0.0}


class Subject(enum.StrEnum):
    """What figures are about."""

    TRACES = "TRACES"
    SPANS = "SPANS"
    ASSESSMENTS = "ASSESSMENTS"


class Aggregation(enum.StrEnum):
    """How many values become one."""

    COUNT = "COUNT"
    SUM = "SUM"
    AVG = "AVG"
    PERCENTILE = "PERCENTILE"
    MIN = "MIN"
    MAX = "MAX"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure that is asked for."""

    aggregation: Aggregation
    percentile: float = 50.0
    """0 to 100; of PERCENTILE only."""

    @property
    def label(self) -> str:
        """Under which name it is answered, as `AVG` or `P95.0`."""
        if self.aggregation is Aggregation.PERCENTILE:
            return f"P{self.percentile}"
        return str(self.aggregation)


@dataclass(frozen=True, slots=True)
class AssessmentFilter:
    """Which assessments count; empty for any."""

    name: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsQuery:
    """Which figures, of what."""

    subject: Subject
    metric: str
    figures: Sequence[Figure]
    dimensions: Sequence[str] = ()
    """By what they are told apart."""
    traces: Filter = ()
    """Conditions of the traces."""
    spans: Filter = ()
    """Conditions of the spans; of SPANS only."""
    assessments: AssessmentFilter = AssessmentFilter()
    """Conditions of the assessments; of ASSESSMENTS only."""
    interval_seconds: int = 0
    """Length of the spans of time that they are told apart by; 0 for none."""
    start: Micros | None = None
    end: Micros | None = None
    limit: int = 1000
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Measure:
    """One value that counts."""

    at: Micros
    dimensions: tuple[str, ...]
    """One per dimension that is asked for."""
    value: float
    identity: str = ""
    """Values of one identity count once where a COUNT is asked for; empty for all."""
    count: int = 1
    """How often there is such a value."""


@dataclass(frozen=True, slots=True)
class DataPoint:
    """Figures of one combination of dimensions."""

    dimensions: Mapping[str, str]
    values: Mapping[str, float]


_COUNT: Final = frozenset({Aggregation.COUNT})
_SPREAD: Final = frozenset(
    {Aggregation.AVG, Aggregation.MIN, Aggregation.MAX, Aggregation.PERCENTILE}
)
_TOTALS: Final = _SPREAD | {Aggregation.SUM}
_TOKENS: Final = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
_COSTS: Final = ("input_cost", "output_cost", "total_cost")
_MODEL: Final = ("span_model_name", "span_model_provider")
_METRICS: Final[Mapping[Subject, Mapping[str, tuple[frozenset[Aggregation], tuple[str, ...]]]]] = {
    Subject.TRACES: {
        "trace_count": (_COUNT, ("trace_name", "trace_status")),
        "session_count": (_COUNT, ()),
        "latency": (_SPREAD, ("trace_name",)),
        **dict.fromkeys(_TOKENS, (_TOTALS, ("trace_name",))),
    },
    Subject.SPANS: {
        "span_count": (_COUNT, ("span_name", "span_type", "span_status", *_MODEL)),
        "latency": (_SPREAD, ("span_name", "span_status")),
        **dict.fromkeys(_COSTS, (_TOTALS, _MODEL)),
    },
    Subject.ASSESSMENTS: {
        "assessment_count": (_COUNT, ("assessment_name", "assessment_value")),
        "assessment_value": (_SPREAD, ("assessment_name",)),
    },
}


def check_metrics_query(query: MetricsQuery) -> None:
    """Check that there are such figures.

    Raises:
        InvalidValue: There are not.
    """
    metrics = _METRICS[query.subject]
    if query.metric not in metrics:
        known = ", ".join(metrics)
        raise InvalidValue(f"metric_name must be one of {known}", "metric_name")
    aggregations, dimensions = metrics[query.metric]
    if not query.figures:
        raise InvalidValue("aggregations must not be empty", "aggregations")
    for figure in query.figures:
        if figure.aggregation not in aggregations:
            known = ", ".join(sorted(aggregations))
            raise InvalidValue(
                f"{figure.aggregation} is not offered of {query.metric}; use one of {known}",
                "aggregations",
            )
        if not 0 <= figure.percentile <= 100:
            raise InvalidValue("percentile_value must lie between 0 and 100", "aggregations")
    for dimension in query.dimensions:
        if dimension not in dimensions:
            known = ", ".join(dimensions) or "none"
            raise InvalidValue(
                f"{query.metric} has no dimension {dimension[:60]}; it has: {known}", "dimensions"
            )
    if query.interval_seconds < 0:
        raise InvalidValue("time_interval_seconds must be positive", "time_interval_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFact:
    """What equal traces have of what a query of TRACES asks for; the rest is as it is by itself."""

    at: Micros
    name: str | None = None
    state: str = ""
    duration: Micros | None = None
    text: str = ""
    """The metadata that `metadata_key` names."""
    count: int = 1
    """How many traces they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessmentFact:
    """What equal assessments have of what a query of ASSESSMENTS asks for."""

    at: Micros
    name: str = ""
    value: Any = None
    count: int = 1
    """How many assessments they are."""


def metadata_key(metric: str) -> str:
    """Return which metadata of traces a metric is made of; empty when of none."""
    if metric == "session_count":
        return _SESSION
    return _USAGE if metric in _TOKENS else ""


def measures_of_trace(query: MetricsQuery, fact: TraceFact) -> Iterator[Measure]:
    """Return what traces add to figures."""
    value: float | None = 1.0
    identity = ""
    if query.metric == "session_count":
        value, identity = (1.0 if fact.text else None), fact.text
    elif query.metric == "latency":
        value = None if fact.duration is None else fact.duration / 1000
    elif query.metric in _TOKENS:
        value = _number_in(fact.text, query.metric)
    known = {"trace_name": fact.name, "trace_status": fact.state}
    yield from _measured(query, fact.at, known, value, identity, fact.count)


def measures_of_assessment(query: MetricsQuery, fact: AssessmentFact) -> Iterator[Measure]:
    """Return what assessments add to figures."""
    value = 1.0 if query.metric == "assessment_count" else _assessed(fact.value)
    known = {"assessment_name": fact.name, "assessment_value": text_of(fact.value)}
    yield from _measured(query, fact.at, known, value, "", fact.count)


def trace_measures(query: MetricsQuery, trace: Trace) -> Iterator[Measure]:
    """Return what one trace adds."""
    fact = TraceFact(
        at=trace.requested_at,
        name=trace.tags.get(NAME_TAG),
        state=str(trace.state),
        duration=trace.duration,
        text=trace.metadata.get(metadata_key(query.metric), ""),
    )
    yield from measures_of_trace(query, fact)


def assessment_measures(query: MetricsQuery, trace: Trace) -> Iterator[Measure]:
    """Return what the assessments of one trace add."""
    wanted = query.assessments
    for said in trace.assessments:
        if said.kind is AssessmentKind.ISSUE or not said.valid:
            continue
        if wanted.name not in {"", said.name} or wanted.kind not in {"", str(said.kind)}:
            continue
        fact = AssessmentFact(at=trace.requested_at, name=said.name, value=said.value)
        yield from measures_of_assessment(query, fact)


def span_measures(query: MetricsQuery, span: Span) -> Iterator[Measure]:
    """Return what one span adds."""
    known = {
        "span_name": span.name,
        "span_type": span.attributes.get("mlflow.spanType", "UNKNOWN"),
        "span_status": span.status.upper(),
        "span_model_name": span.attributes.get("mlflow.llm.model"),
        "span_model_provider": span.attributes.get("mlflow.llm.provider"),
    }
    value: float | None = 1.0
    if query.metric == "latency":
        value = span.duration / 1_000_000
    elif query.metric in _COSTS:
        value = _number_in(span.attributes.get(_COST, ""), query.metric)
    yield from _measured(query, span.started_at // 1000, known, value)


def aggregated(query: MetricsQuery, measures: Iterable[Measure]) -> list[DataPoint]:
    """Return the figures, by time and dimensions."""
    groups: dict[tuple[str, ...], list[Measure]] = defaultdict(list)
    for measure in measures:
        bucket = (
            (time_bucket(measure.at, query.interval_seconds),) if query.interval_seconds else ()
        )
        groups[*bucket, *measure.dimensions].append(measure)
    names = [*(["time_bucket"] if query.interval_seconds else []), *query.dimensions]
    points = [
        DataPoint(
            dict(zip(names, key, strict=True)),
            {figure.label: _figure(figure, those) for figure in query.figures},
        )
        for key, those in sorted(groups.items())
    ]
    return points[query.offset : query.offset + query.limit]


def time_bucket(at: Micros, interval_seconds: int) -> str:
    """Return when the span of time began that a time lies in."""
    seconds = at // 1_000_000 // interval_seconds * interval_seconds
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _measured(
    query: MetricsQuery,
    at: Micros,
    known: Mapping[str, str | None],
    value: float | None,
    identity: str = "",
    count: int = 1,
) -> Iterator[Measure]:
    dimensions = tuple(known[name] for name in query.dimensions)
    if value is None or not math.isfinite(value) or None in dimensions:
        return
    yield Measure(at, tuple(str(one) for one in dimensions), value, identity, count)


def _figure(figure: Figure, measures: Sequence[Measure]) -> float:
    if figure.aggregation is Aggregation.COUNT:
        identities = {one.identity for one in measures if one.identity}
        return float(len(identities) or sum(one.count for one in measures))
    values = np.repeat([one.value for one in measures], [one.count for one in measures])
    match figure.aggregation:
        case Aggregation.SUM:
            return float(values.sum())
        case Aggregation.AVG:
            return float(values.mean())
        case Aggregation.MIN:
            return float(values.min())
        case Aggregation.MAX:
            return float(values.max())
        case _:
            return float(np.quantile(values, figure.percentile / 100))


def _number_in(text: str, key: str) -> float | None:
    try:
        value = json.loads(text).get(key) if text else None
    except (ValueError, AttributeError):
        return None
    return float(value) if isinstance(value, int | float) else None


def _assessed(value: Any) -> float | None:
    if isinstance(value, bool | int | float):
        return float(value)
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None
