"""What a filter and an order mean of a thing in memory; the SQL must say the same."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from services.tracking.domain.evaluation import EvaluationDataset
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.run import Run
from services.tracking.domain.search.regex import matches_regex
from services.tracking.domain.search.syntax import (
    SPAN_ATTRIBUTES,
    Comparison,
    Field,
    FieldKind,
    Filter,
    Operator,
    OrderKey,
    ValueKind,
)
from services.tracking.domain.traces.assessment import AssessmentKind, number_of, text_of
from services.tracking.domain.traces.span import Span, span_text
from services.tracking.domain.traces.trace import Trace

__all__ = [
    "Values",
    "dataset_values",
    "experiment_values",
    "matches",
    "position_of",
    "run_values",
    "span_values",
    "trace_values",
]

Values: TypeAlias = Callable[[Field], Sequence[Any]]
"""What a thing has in a field: none, one, or several of data sets. Times are in microseconds."""


@lru_cache(maxsize=256)
def _pattern(like: str, ignore_case: bool) -> re.Pattern[str]:
    parts = {"%": ".*", "_": "."}
    pattern = "".join(parts.get(character) or re.escape(character) for character in like)
    # Cases of ASCII only: the databases of both profiles agree on these.
    flags = re.DOTALL | (re.IGNORECASE | re.ASCII if ignore_case else re.NOFLAG)
    return re.compile(f"(?:{pattern})\\Z", flags)


_COMPARE: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_EQUAL: operator.ge,
    Operator.LIKE: lambda text, pattern: bool(_pattern(pattern, False).match(text)),
    Operator.ILIKE: lambda text, pattern: bool(_pattern(pattern, True).match(text)),
    Operator.RLIKE: lambda text, pattern: matches_regex(pattern, text),
    Operator.IN: lambda text, texts: text in texts,
    Operator.NOT_IN: lambda text, texts: text not in texts,
}


def matches(values: Values, conditions: Filter) -> bool:
    """Whether all conditions hold."""
    return all(_holds(values(condition.field), condition) for condition in conditions)


def _holds(found: Sequence[Any], condition: Comparison) -> bool:
    if condition.operator is Operator.IS_NULL:
        return not found
    if condition.operator is Operator.IS_NOT_NULL:
        return bool(found)
    compare = _COMPARE[condition.operator]
    if condition.field.values is ValueKind.TIME:
        found = [micros // 1000 for micros in found]
    elif condition.field.values is ValueKind.ANY:
        as_asked = number_of if isinstance(condition.value, float) else text_of
        found = [one for value in found if (one := as_asked(value)) is not None]
    return any(compare(value, condition.value) for value in found)


def position_of(values: Values, key: OrderKey) -> tuple[int, Any]:
    """Return a thing's place by one key: 0 and its value, 1 for NaN, 2 for none."""
    found = values(key.field)
    if not found:
        return 2, None
    value = found[0]
    return (1, None) if value != value else (0, value)


def run_values(run: Run) -> Values:
    """Return how to look up what a run has in a field."""
    info = run.info
    attributes = {
        "run_id": info.run_id,
        "run_name": info.name,
        "status": str(info.status),
        "artifact_uri": info.artifact_location,
        "user_id": info.created_by,
        "start_time": info.started_at,
        "end_time": info.ended_at,
    }

    def values(field: Field) -> Sequence[Any]:
        if field.kind is FieldKind.METRIC:
            return [point.value] if (point := run.metrics.get(field.key)) is not None else []
        if field.kind is FieldKind.PARAM:
            return _present(run.params.get(field.key))
        if field.kind is FieldKind.TAG:
            return _present(run.tags.get(field.key))
        if field.kind is FieldKind.DATASET:
            return [getattr(one, field.key) for one in run.inputs]
        return _present(attributes[field.key])

    return values


def _looked_up(attributes: Mapping[str, Any], tags: Mapping[str, str]) -> Values:
    def values(field: Field) -> Sequence[Any]:
        if field.kind is FieldKind.TAG:
            return _present(tags.get(field.key))
        return _present(attributes[field.key])

    return values


def experiment_values(experiment: Experiment) -> Values:
    """Return how to look up what an experiment has in a field."""
    attributes = {
        "experiment_id": experiment.experiment_id,
        "name": experiment.name,
        "creation_time": experiment.created_at,
        "last_update_time": experiment.updated_at,
    }
    return _looked_up(attributes, experiment.tags)


def dataset_values(dataset: EvaluationDataset) -> Values:
    """Return how to look up what an evaluation data set has in a field."""
    attributes = {
        "name": dataset.name,
        "created_by": dataset.created_by,
        "last_updated_by": dataset.updated_by,
        "created_time": dataset.created_at,
        "last_update_time": dataset.updated_at,
    }
    return _looked_up(attributes, dataset.tags)


def trace_values(trace: Trace) -> Values:
    """Return how to look up what a trace has in a field; of its spans it knows nothing."""
    attributes = {
        "trace_id": trace.trace_id,
        "status": str(trace.state),
        "client_request_id": trace.client_request_id,
        "experiment_id": trace.experiment_id,
        "timestamp": trace.requested_at,
        "execution_time": trace.duration,
        "end_time": trace.ended_at,
    }
    links = {"run": sorted(trace.runs), "prompt": sorted(trace.prompts)}

    def values(field: Field) -> Sequence[Any]:
        match field.kind:
            case FieldKind.TAG:
                return _present(trace.tags.get(field.key))
            case FieldKind.METADATA:
                return _present(trace.metadata.get(field.key))
            case FieldKind.LINK:
                return links[field.key]
            case FieldKind.FEEDBACK | FieldKind.EXPECTATION:
                kind = AssessmentKind(field.kind.value)
                those = (one for one in trace.assessments if one.kind is kind)
                return [one.value for one in those if one.name == field.key]
            case FieldKind.ISSUE:
                issues = (one for one in trace.assessments if one.kind is AssessmentKind.ISSUE)
                return [one.name for one in issues]
            case _:
                return _present(attributes[field.key])

    return values


def span_values(span: Span) -> Values:
    """Return how to look up what a span has in a field."""

    def values(field: Field) -> Sequence[Any]:
        match field.key:
            case "name":
                return [span.name]
            case "type":
                return [span.attributes.get("mlflow.spanType", "UNKNOWN")]
            case "status":
                return [span.status.upper()]
            case "content":
                return [span_text(span)]
            case key:
                return _present(span.attributes.get(key.removeprefix(SPAN_ATTRIBUTES)))

    return values


def _present(value: Any) -> Sequence[Any]:
    return [] if value is None else [value]
