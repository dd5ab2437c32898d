"""Spans and durations of served calls and of calls made, lean enough to be on for every one.

A served call joins the trace that its caller names. A call without one begins a trace, of which the
configured share is recorded, so many in a second at most; the rest get ids all the same, so that
their log lines and events can be told to belong together. A call made has a span where the current
trace is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import perf_counter, perf_counter_ns, time_ns

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind, Status, StatusCode, Tracer
from prometheus_client import Histogram

from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics, histogram
from tessera_kit.telemetry.propagation import new_span_context, parse_traceparent, traceparent_of
from tessera_kit.telemetry.sampling import DECIDED, BoundedShare

__all__ = ["ClientMethod", "MethodCalls", "ServerCalls"]

_tracer = trace.get_tracer("tessera_kit.rpc")

# What the RPC conventions count as the server's own failure.
_FAILURES = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
_SPARE = 4


class ServerCalls:
    """Records the calls of one process's servers.

    Args:
        metrics: Where durations are counted.
        tracer: Makes the spans of recorded calls; none are recorded when None. The choice is made
            here, so its sampler should know `sampling.DECIDED`.
        recorded: Picks the traces begun here that are recorded.
    """

    def __init__(self, metrics: Metrics, tracer: Tracer | None, recorded: BoundedShare) -> None:
        self.duration: Histogram = metrics.histogram(names.RPC_SERVER_DURATION)
        self.tracer = tracer
        self.recorded = recorded

    def method(self, full_method: str, system: str = "grpc") -> MethodCalls:
        """Return the recorder of one method, `package.Service/Method`, of a protocol."""
        return MethodCalls(self, full_method, system)


class MethodCalls:
    """Records the calls of one method."""

    __slots__ = ("_attributes", "_calls", "_durations", "_method", "_spare")

    def __init__(self, calls: ServerCalls, method: str, system: str) -> None:
        self._calls = calls
        self._spare: list[tuple[Span, contexts.Context]] = []
        """Spans of calls to come, so that making them does not keep a caller waiting."""
        self._method = method
        self._attributes = {names.RPC_SYSTEM: system, names.RPC_METHOD: method}
        self._durations: dict[str, Histogram] = {}

    def begin(self, metadata: Iterable[tuple[str, str | bytes]]) -> tuple[float, Span]:
        """Start the call's clock and make its span the current one of this task."""
        remote, state = None, None
        for key, value in metadata:
            if key == "traceparent":
                remote = value
            elif key == "tracestate":
                state = value
        tracer, parent = self._calls.tracer, None
        if isinstance(remote, str):
            parent = parse_traceparent(remote, state if isinstance(state, str) else None)
        if parent is not None:
            span: Span = NonRecordingSpan(parent)
            context = trace.set_span_in_context(span)
            if tracer is not None and parent.trace_flags.sampled:
                span, context = self._recorded(tracer, context)
        elif tracer is not None and self._calls.recorded.picks():
            span, context = self._recorded(tracer, DECIDED)
        else:
            span, context = self._spare.pop() if self._spare else _unrecorded()
        contexts.attach(context)
        return perf_counter(), span

    def end(self, began: tuple[float, Span], code: str) -> None:
        """Stop the clock: `code` is the name of the gRPC status, as `OK`."""
        started, span = began
        duration = self._durations.get(code)
        if duration is None:
            duration = self._durations[code] = self._calls.duration.labels(self._method, code)
        duration.observe(perf_counter() - started)
        if span.is_recording():
            _end(span, code, _FAILURES)
        if len(self._spare) < _SPARE:
            self._spare.append(_unrecorded())

    def _recorded(self, tracer: Tracer, above: contexts.Context) -> tuple[Span, contexts.Context]:
        span = tracer.start_span(self._method, above, SpanKind.SERVER, attributes=self._attributes)
        return span, trace.set_span_in_context(span)

    def record_step(
        self,
        began: tuple[float, Span],
        name: str,
        kind: SpanKind,
        start: int,
        end: int,
        *,
        attributes: Mapping[str, str | int] | None = None,
        error: str | None = None,
    ) -> None:
        """Record a span inside a recorded call's own, after the fact.

        Args:
            began: What `begin` returned.
            name: The span's name.
            kind: Its kind.
            start: When the step began, as `time.perf_counter_ns` told.
            end: When it ended, likewise.
            attributes: The span's attributes.
            error: What kind of error ended the step; None when it succeeded.
        """
        span, tracer = began[1], self._calls.tracer
        if tracer is None:
            return
        epoch = time_ns() - perf_counter_ns()
        step = tracer.start_span(
            name,
            trace.set_span_in_context(span),
            kind,
            attributes=attributes,
            start_time=epoch + start,
        )
        if error is not None:
            step.set_attribute(names.ERROR_TYPE, error)
            step.set_status(Status(StatusCode.ERROR))
        step.end(epoch + end)


class ClientMethod:
    """Records the calls that this process makes of one method, `package.Service/Method`."""

    __slots__ = ("_attributes", "_durations", "_method")

    def __init__(self, method: str) -> None:
        self._method = method
        self._attributes = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: method}
        self._durations: dict[str, Histogram] = {}

    def begin(self) -> tuple[tuple[float, Span | None], str | None]:
        """Start the clock; returns what `end` takes, and the `traceparent` to send, if any."""
        current = trace.get_current_span()
        context = current.get_span_context()
        if not context.trace_id:
            return (perf_counter(), None), None
        if not context.trace_flags.sampled:
            return (perf_counter(), None), traceparent_of(context)
        span = _tracer.start_span(self._method, kind=SpanKind.CLIENT, attributes=self._attributes)
        return (perf_counter(), span), traceparent_of(span.get_span_context())

    def end(self, began: tuple[float, Span | None], code: str) -> None:
        """Stop the clock: `code` is the name of the gRPC status, as `OK`."""
        started, span = began
        duration = self._durations.get(code)
        if duration is None:
            children = histogram(names.RPC_CLIENT_DURATION)
            duration = self._durations[code] = children.labels(self._method, code)
        duration.observe(perf_counter() - started)
        if span is not None and span.is_recording():
            _end(span, code, None)


def _unrecorded() -> tuple[Span, contexts.Context]:
    """A span that begins a trace which is not recorded, and the context where it is current."""
    span = NonRecordingSpan(new_span_context(sampled=False))
    return span, trace.set_span_in_context(span, contexts.Context())


def _end(span: Span, code: str, failures: frozenset[str] | None) -> None:
    """End a call's span; `failures` are the codes that count as errors, all but OK when None."""
    span.set_attribute(names.RPC_STATUS, code)
    if code in failures if failures is not None else code != "OK":
        span.set_attribute(names.ERROR_TYPE, code)
        span.set_status(Status(StatusCode.ERROR))
    span.end()
