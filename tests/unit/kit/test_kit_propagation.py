"""W3C trace context."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tessera_kit.telemetry.propagation import (
    context_from_traceparent,
    current_trace_id,
    current_traceparent,
    new_span_context,
    new_traceparent,
    parse_traceparent,
    traceparent_of,
)

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_round_trip() -> None:
    context = parse_traceparent(GOOD)
    assert context is not None
    assert context.is_remote
    assert context.trace_flags.sampled
    assert traceparent_of(context) == GOOD


@pytest.mark.parametrize(
    "header",
    [
        "",
        GOOD[:-1],
        GOOD + "0",
        GOOD + "-extra",
        "ff" + GOOD[2:],
        GOOD.replace("a", "A"),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        GOOD.replace("-", "_"),
        "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        "\u0660" * 55,
    ],
)
def test_malformed_headers_begin_a_new_trace(header: str) -> None:
    assert parse_traceparent(header) is None


def test_a_later_version_may_append_fields() -> None:
    assert parse_traceparent("01" + GOOD[2:] + "-what-ever") is not None


@pytest.mark.parametrize("sampled", [True, False])
def test_agrees_with_the_sdk_s_own_propagator(sampled: bool) -> None:
    ours = new_span_context(sampled=sampled)
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(
        carrier, trace.set_span_in_context(NonRecordingSpan(ours))
    )
    assert carrier["traceparent"] == traceparent_of(ours)
    assert parse_traceparent(new_traceparent(sampled=sampled)) is not None


def test_kafka_headers_are_bytes() -> None:
    context = context_from_traceparent(
        [("ce_id", b"1"), ("traceparent", GOOD.encode()), ("tracestate", b"vendor=1")]
    )
    told = trace.get_current_span(context).get_span_context()
    assert traceparent_of(told) == GOOD
    assert told.trace_state.get("vendor") == "1"
    assert context_from_traceparent([("traceparent", b"\xff")]) is None
    assert context_from_traceparent([]) is None


def test_current() -> None:
    assert current_traceparent() is None
    assert current_trace_id() is None
    context = parse_traceparent(GOOD)
    assert context is not None
    with trace.use_span(NonRecordingSpan(context)):
        assert current_traceparent() == GOOD
        assert current_trace_id() == "0af7651916cd43dd8448eb211c80319c"
