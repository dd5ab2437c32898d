"""Traces and what is said of them, between the domain and MLflow's messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.trace.v1 import trace_pb2

from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.traces.assessment import Assessment, AssessmentKind
from services.tracking.domain.traces.metrics import (
    Aggregation,
    Figure,
    MetricsQuery,
    Subject,
)
from services.tracking.domain.traces.trace import Trace, TraceState
from services.tracking.handlers.traces import WholeTrace
from services.tracking.mlflow.convert import artifact_uri
from services.tracking.mlflow.errors import InvalidParameter
from services.tracking.mlflow.values import micros_of_millis

__all__ = [
    "assessment_fields",
    "assessment_of",
    "experiment_of_location",
    "metrics_query",
    "pairs_of",
    "trace_fields",
    "trace_info_fields",
    "trace_info_v2_fields",
    "trace_of",
    "value_of",
]

ARTIFACTS_TAG: Final = "mlflow.artifactLocation"
_EXPERIMENT: Final = "MLFLOW_EXPERIMENT"
_V2_STATES: Final = {TraceState.UNSPECIFIED: "TRACE_STATUS_UNSPECIFIED"}


def experiment_of_location(location: Any) -> str:
    """Return the experiment that a trace's location says.

    Raises:
        InvalidParameter: It says something else.
    """
    experiment_id: str = location.mlflow_experiment.experiment_id
    if not experiment_id:
        raise InvalidParameter(
            "trace_location must name an experiment: traces of this server belong to experiments"
        )
    return experiment_id


def trace_of(info: Any) -> Trace:
    """Return the trace of a `TraceInfoV3`.

    Raises:
        InvalidParameter: It has no experiment, or something said of it is of no known kind.
    """
    at = info.request_time.ToMicroseconds()
    return Trace(
        trace_id=info.trace_id,
        experiment_id=experiment_of_location(info.trace_location),
        requested_at=at,
        duration=(
            max(0, info.execution_duration.ToMicroseconds())
            if info.HasField("execution_duration")
            else None
        ),
        state=TraceState(type(info).State.Name(info.state)),
        client_request_id=info.client_request_id or None,
        request_preview=info.request_preview or info.request or None,
        response_preview=info.response_preview or info.response or None,
        tags=dict(info.tags),
        metadata=dict(info.trace_metadata),
        assessments=tuple(
            assessment_of(one, now=at, trace_id=info.trace_id) for one in info.assessments
        ),
    )


def trace_info_fields(trace: Trace) -> dict[str, Any]:
    """Return a trace as `TraceInfoV3`."""
    fields: dict[str, Any] = {
        "trace_id": trace.trace_id,
        "trace_location": {
            "type": _EXPERIMENT,
            "mlflow_experiment": {"experiment_id": trace.experiment_id},
        },
        "request_time": _time(trace.requested_at),
        "state": str(trace.state),
        "trace_metadata": dict(trace.metadata),
        "tags": _tags(trace),
        "assessments": [assessment_fields(one) for one in trace.assessments],
    }
    if trace.duration is not None:
        seconds, micros = divmod(trace.duration, 1_000_000)
        fields["execution_duration"] = f"{seconds}.{micros:06d}s"
    for name in ("client_request_id", "request_preview", "response_preview"):
        if (value := getattr(trace, name)) is not None:
            fields[name] = value
    return fields


def trace_fields(whole: WholeTrace) -> dict[str, Any]:
    """Return a trace with its spans, as `Trace`."""
    return {
        "trace_info": trace_info_fields(whole.trace),
        "spans": [
            MessageToDict(trace_pb2.Span.FromString(span.encoded), preserving_proto_field_name=True)
            for span in whole.spans
        ],
    }


def trace_info_v2_fields(trace: Trace) -> dict[str, Any]:
    """Return a trace as `TraceInfo`, which clients before 3.0 know."""
    fields: dict[str, Any] = {
        "request_id": trace.trace_id,
        "experiment_id": trace.experiment_id,
        "timestamp_ms": trace.requested_at // 1000,
        "status": _V2_STATES.get(trace.state, str(trace.state)),
        "request_metadata": _pairs(trace.metadata),
        "tags": _pairs(_tags(trace)),
    }
    if trace.duration is not None:
        fields["execution_time_ms"] = trace.duration // 1000
    return fields


def metrics_query(asked: Any, limit: int) -> MetricsQuery:
    """Return what a `QueryTraceMetrics` asks, without its filters."""
    kinds = asked.DESCRIPTOR.fields_by_name["view_type"].enum_type.values_by_number
    figures = []
    for one in asked.aggregations:
        names = one.DESCRIPTOR.fields_by_name["aggregation_type"].enum_type.values_by_number
        kind = Aggregation(names[one.aggregation_type].name)
        figures.append(Figure(kind, one.percentile_value) if one.percentile_value else Figure(kind))
    return MetricsQuery(
        subject=Subject(kinds[asked.view_type].name),
        metric=asked.metric_name,
        figures=figures,
        dimensions=list(asked.dimensions),
        interval_seconds=asked.time_interval_seconds,
        start=_micros(asked, "start_time_ms"),
        end=_micros(asked, "end_time_ms"),
        limit=limit,
    )


def _micros(asked: Any, name: str) -> Micros | None:
    return micros_of_millis(getattr(asked, name), name) if asked.HasField(name) else None


def pairs_of(messages: Iterable[Any]) -> dict[str, str]:
    """Return repeated messages of keys and values as a mapping."""
    return {one.key: one.value for one in messages}


def assessment_of(message: Any, *, now: Micros, trace_id: str = "") -> Assessment:
    """Return the assessment of a message.

    Raises:
        InvalidParameter: It says nothing.
    """
    kind, value, form, error = value_of(message)
    return Assessment(
        assessment_id=message.assessment_id,
        trace_id=trace_id or message.trace_id,
        name=message.assessment_name,
        kind=kind,
        value=value,
        format=form,
        error=error,
        rationale=message.rationale or None,
        source_type=type(message.source).SourceType.Name(message.source.source_type),
        source_id=message.source.source_id,
        metadata=dict(message.metadata),
        span_id=message.span_id or None,
        overrides=message.overrides or None,
        created_at=message.create_time.ToMicroseconds() or now,
        updated_at=message.last_update_time.ToMicroseconds() or now,
    )


def value_of(message: Any) -> tuple[AssessmentKind, Any, str, Mapping[str, str] | None]:
    """Return what an assessment's message says: kind, value, its serialization, and the error.

    Raises:
        InvalidParameter: It says nothing.
    """
    match message.WhichOneof("value"):
        case "feedback":
            told = message.feedback
            error = MessageToDict(told.error, preserving_proto_field_name=True)
            value = MessageToDict(told.value) if told.HasField("value") else None
            return AssessmentKind.FEEDBACK, value, "", error or None
        case "expectation" if message.expectation.HasField("serialized_value"):
            told = message.expectation.serialized_value
            return AssessmentKind.EXPECTATION, told.value, told.serialization_format, None
        case "expectation":
            return AssessmentKind.EXPECTATION, MessageToDict(message.expectation.value), "", None
        case "issue":
            return AssessmentKind.ISSUE, message.issue.issue_name, "", None
        case _:
            raise InvalidParameter("an assessment is a feedback, an expectation or an issue")


def assessment_fields(assessment: Assessment) -> dict[str, Any]:
    """Return an assessment as MLflow's message."""
    fields: dict[str, Any] = {
        "assessment_id": assessment.assessment_id,
        "assessment_name": assessment.name,
        "trace_id": assessment.trace_id,
        "source": {"source_type": assessment.source_type, "source_id": assessment.source_id},
        "create_time": _time(assessment.created_at),
        "last_update_time": _time(assessment.updated_at),
        "valid": assessment.valid,
        str(assessment.kind): _said(assessment),
    }
    for name in ("rationale", "span_id", "overrides"):
        if (value := getattr(assessment, name)) is not None:
            fields[name] = value
    if assessment.metadata:
        fields["metadata"] = dict(assessment.metadata)
    return fields


def _said(assessment: Assessment) -> dict[str, Any]:
    match assessment.kind:
        case AssessmentKind.ISSUE:
            return {"issue_name": assessment.value}
        case AssessmentKind.EXPECTATION if assessment.format:
            serialized = {
                "serialization_format": assessment.format,
                "value": assessment.value,
            }
            return {"serialized_value": serialized}
        case _:
            said: dict[str, Any] = {"value": assessment.value}
            return {**said, "error": dict(assessment.error)} if assessment.error else said


def _tags(trace: Trace) -> dict[str, str]:
    place = f"{trace.experiment_id}/traces/{trace.trace_id}/artifacts"
    return {**trace.tags, ARTIFACTS_TAG: artifact_uri(place)}


def _pairs(pairs: Mapping[str, str]) -> Sequence[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in sorted(pairs.items())]


def _time(micros: Micros) -> str:
    moment = Timestamp()
    moment.FromMicroseconds(micros)
    return moment.ToJsonString()
