"""Spans and durations of served calls."""

from __future__ import annotations

import contextvars

import pytest
from opentelemetry import trace

from tessera_kit.telemetry import names
from tessera_kit.telemetry.calls import MethodCalls, ServerCalls
from tessera_kit.telemetry.metrics import Metrics
from tessera_kit.telemetry.sampling import BoundedShare

TRACE, SPAN = "ab" * 16, "cd" * 8


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def calls(metrics: Metrics) -> MethodCalls:
    return ServerCalls(metrics, None, BoundedShare(0.0, 0.0)).method("a.B/C")


def served(calls: MethodCalls, *metadata: tuple[str, str]) -> trace.SpanContext:
    """The span context of a call that is served in a context of its own."""

    def serve() -> trace.SpanContext:
        began = calls.begin(metadata)
        current = trace.get_current_span().get_span_context()
        assert began[1].get_span_context() == current
        calls.end(began, "OK")
        return current

    return contextvars.Context().run(serve)


def test_each_call_begins_a_trace_of_its_own(calls: MethodCalls, metrics: Metrics) -> None:
    contexts = [served(calls) for _ in range(50)]
    assert all(context.is_valid and not context.trace_flags.sampled for context in contexts)
    assert len({context.trace_id for context in contexts}) == 50
    assert len({context.span_id for context in contexts}) == 50
    told = metrics.histogram(names.RPC_SERVER_DURATION).labels("a.B/C", "OK").collect()
    counts = [one.value for one in next(iter(told)).samples if one.name.endswith("_count")]
    assert counts == [50.0]


def test_a_call_joins_the_trace_that_its_caller_names(calls: MethodCalls) -> None:
    context = served(calls, ("traceparent", f"00-{TRACE}-{SPAN}-00"))
    assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (TRACE, SPAN)
    malformed = served(calls, ("traceparent", "00-x"))
    assert malformed.is_valid
    assert malformed.trace_id != context.trace_id
