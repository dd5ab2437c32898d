"""A trace: what is known of it beside its spans, and the rules of its life.

Two writers make a trace, in any order: spans arrive as they end, and the client that began the
trace tells its summary when the root span has ended. What the client says holds from then on;
until then the spans tell.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from services.tracking.domain.keys import check_text
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.traces.assessment import Assessment
from services.tracking.domain.traces.span import Span, trace_id_of
from services.tracking.domain.traces.summary import SpanSummary, summary_of
from services.tracking.errors import InvalidKey, InvalidValue

__all__ = [
    "LINKED_PROMPTS_TAG",
    "MAX_LINKS",
    "NAME_TAG",
    "SPANS_LOCATION_TAG",
    "SPANS_STORED",
    "Trace",
    "TraceState",
    "check_pairs",
    "check_trace_id",
    "told_by_client",
    "told_by_spans",
    "with_totals",
]

NAME_TAG: Final = "mlflow.traceName"
SPANS_LOCATION_TAG: Final = "mlflow.trace.spansLocation"
SPANS_STORED: Final = "TRACKING_STORE"
"""What the tag of the spans' place says where the spans are here and not among the artifacts."""
LINKED_PROMPTS_TAG: Final = "mlflow.linkedPrompts"
MAX_LINKS: Final = 100
"""Most traces that one request may link to a run."""
_SOURCE_RUN: Final = "mlflow.sourceRun"
_USAGE: Final = "mlflow.trace.tokenUsage"
_COST: Final = "mlflow.trace.cost"
_SESSION: Final = "mlflow.trace.session"
_USER: Final = "mlflow.trace.user"
_KEY_LIMIT: Final = 250
_VALUE_LIMIT: Final = 8000
_ID_LIMIT: Final = 250
_PREVIEW_LIMIT: Final = 10_000


class TraceState(enum.StrEnum):
    """How a trace ended, if it did."""

    UNSPECIFIED = "STATE_UNSPECIFIED"
    OK = "OK"
    ERROR = "ERROR"
    IN_PROGRESS = "IN_PROGRESS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What is known of a trace beside its spans."""

    trace_id: str
    """`tr-` and the 32 hexadecimal digits of the OpenTelemetry trace id, where it has one."""
    experiment_id: str
    """The experiment that it belongs to, for good."""
    requested_at: Micros
    """When it began."""
    duration: Micros | None = None
    """How long it took, in microseconds; None while it is under way."""
    state: TraceState = TraceState.IN_PROGRESS
    """How it ended."""
    client_request_id: str | None = None
    """The caller's own id of the request."""
    request_preview: str | None = None
    """The beginning of what was asked."""
    response_preview: str | None = None
    """The beginning of what was answered."""
    finalized: bool = False
    """Whether the client told its summary, which spans then no longer change."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags, by key; they may change."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Facts that do not change, by key."""
    runs: frozenset[str] = frozenset()
    """Runs that it is linked to, the one that it was made in included."""
    prompts: frozenset[str] = frozenset()
    """Prompt versions that it used, as `name/version`."""
    assessments: Sequence[Assessment] = ()
    """What people and judges say of it, the oldest first."""

    @property
    def ended_at(self) -> Micros | None:
        """When it ended; None while it is under way."""
        return None if self.duration is None else self.requested_at + self.duration


def check_trace_id(trace_id: str) -> str:
    """Return `trace_id` unchanged when a trace may have it.

    Raises:
        InvalidValue: It is empty, longer than 250 characters, or holds a NUL.
    """
    if not trace_id:
        raise InvalidValue("Trace ID must be provided.", "trace_id")
    return check_text(trace_id, _ID_LIMIT, "Trace ID", "trace_id")


def check_pairs(pairs: Mapping[str, str], what: str, path: str) -> None:
    """Check tags or metadata: keys of at most 250 characters, values of at most 8,000.

    Raises:
        InvalidKey: A key is empty or too long.
        InvalidValue: A value is too long or holds a NUL.
    """
    for key, value in pairs.items():
        if not key or len(key) > _KEY_LIMIT or "\x00" in key:
            raise InvalidKey(
                f"Invalid {what} key: '{key[:_KEY_LIMIT]}'. It must have 1 to {_KEY_LIMIT} "
                "characters, none of them NUL",
                f"{path}[{key[:40]!r}]",
            )
        check_text(value, _VALUE_LIMIT, f"{what.capitalize()} value", f"{path}[{key[:40]!r}]")


def told_by_client(before: Trace | None, told: Trace) -> Trace:
    """Return the trace after its client told its summary.

    Args:
        before: What spans told so far; None when nothing was known.
        told: What the client says.

    Raises:
        InvalidKey, InvalidValue: A text breaks the rules.
        InvalidValue: The trace belongs to another experiment.
    """
    check_trace_id(told.trace_id)
    check_pairs(told.tags, "tag", "trace_info.tags")
    check_pairs(told.metadata, "metadata", "trace_info.trace_metadata")
    check_text(told.client_request_id or "", _ID_LIMIT, "Client request ID", "client_request_id")
    told = replace(
        told,
        finalized=told.state is not TraceState.IN_PROGRESS,
        request_preview=_beginning(told.request_preview, "request_preview"),
        response_preview=_beginning(told.response_preview, "response_preview"),
    )
    if before is None:
        return _linked(told)
    if before.experiment_id != told.experiment_id:
        raise InvalidValue(
            f"trace {told.trace_id} belongs to experiment {before.experiment_id} and cannot be "
            f"moved to {told.experiment_id}",
            "trace_info.trace_location",
        )
    known = {one.assessment_id for one in told.assessments}
    return _linked(
        replace(
            told,
            finalized=told.finalized or before.finalized,
            client_request_id=told.client_request_id or before.client_request_id,
            request_preview=told.request_preview or before.request_preview,
            response_preview=told.response_preview or before.response_preview,
            tags={**before.tags, **told.tags},
            metadata={**before.metadata, **told.metadata},
            runs=before.runs | told.runs,
            prompts=before.prompts | told.prompts,
            assessments=(
                *(one for one in before.assessments if one.assessment_id not in known),
                *told.assessments,
            ),
        )
    )


def told_by_spans(before: Trace | None, experiment_id: str, spans: Sequence[Span]) -> Trace:
    """Return the trace after spans of it arrived.

    Args:
        before: What was known of it; None when nothing was.
        experiment_id: Where it belongs when nothing was known.
        spans: At least one; all of one trace.
    """
    told = summary_of(spans)
    if before is None:
        before = Trace(
            trace_id=trace_id_of(spans[0].trace_id),
            experiment_id=experiment_id,
            requested_at=told.started_at,
        )
    after = replace(
        before,
        tags={**told.resource_tags, **before.tags, **told.tags, SPANS_LOCATION_TAG: SPANS_STORED},
        metadata={**_noticed(told), **before.metadata},
        request_preview=before.request_preview or told.request_preview,
        response_preview=before.response_preview or told.response_preview,
    )
    if before.finalized:
        return _linked(after)
    started = min(before.requested_at, told.started_at)
    ended = max(told.ended_at, before.ended_at or told.ended_at)
    return _linked(
        replace(
            after,
            requested_at=started,
            duration=ended - started,
            state=_state_of(before.state, told),
        )
    )


def with_totals(trace: Trace, usage: Mapping[str, float], cost: Mapping[str, float]) -> Trace:
    """Return an unfinalized trace with what all its spans together used and cost."""
    if trace.finalized:
        return trace
    totals = {
        key: json.dumps(dict(total)) for key, total in ((_USAGE, usage), (_COST, cost)) if total
    }
    return replace(trace, metadata={**trace.metadata, **totals})


def _beginning(text: str | None, field: str) -> str | None:
    if text is None:
        return None
    return check_text(text[:_PREVIEW_LIMIT], _PREVIEW_LIMIT, "Preview", field)


def _state_of(before: TraceState, told: SpanSummary) -> TraceState:
    if told.failed is None or before in {TraceState.OK, TraceState.ERROR}:
        return before
    return TraceState.ERROR if told.failed else TraceState.OK


def _noticed(told: SpanSummary) -> dict[str, str]:
    noticed = {_SESSION: told.session, _USER: told.user}
    return {key: value for key, value in noticed.items() if value}


def _linked(trace: Trace) -> Trace:
    """Links that tags and metadata tell are links like any other."""
    run = trace.metadata.get(_SOURCE_RUN)
    return replace(
        trace,
        runs=trace.runs | ({run} if run else set()),
        prompts=trace.prompts | _prompts_in(trace.tags.get(LINKED_PROMPTS_TAG, "")),
    )


def _prompts_in(tag: str) -> set[str]:
    try:
        return {f"{one['name']}/{one['version']}" for one in json.loads(tag)} if tag else set()
    except (ValueError, TypeError, KeyError):
        # Anybody may set the tag to any text.
        return set()
