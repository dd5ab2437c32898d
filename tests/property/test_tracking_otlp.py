"""Whatever comes to the OpenTelemetry door is either spans that can be kept, or refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from services.tracking.convert.otlp import decode_export, inflate, spans_in
from services.tracking.domain.traces.span import Span
from services.tracking.domain.traces.trace import Trace, told_by_spans
from services.tracking.errors import InvalidSpans

PROTOBUF, JSON = "application/x-protobuf", "application/json"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)
ids = st.sampled_from(["", "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174", "zz"]) | values
near_spans = st.fixed_dictionaries(
    {},
    optional={
        "traceId": ids,
        "spanId": ids,
        "parentSpanId": ids,
        "name": values,
        "startTimeUnixNano": values,
        "endTimeUnixNano": values,
        "kind": values,
        "status": values,
        "attributes": st.lists(values, max_size=2),
        "events": values,
        "links": st.lists(values, max_size=2),
    },
)


def read(body: bytes, content_type: str) -> list[Span]:
    try:
        return spans_in(decode_export(body, content_type))
    except InvalidSpans:
        return []


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for content_type in (PROTOBUF, JSON, ""):
        read(body, content_type)
    for encoding in ("gzip", "deflate", "br"):
        with suppress(InvalidSpans):
            inflate(body, encoding)


@given(values | st.lists(near_spans, max_size=3))
def test_any_json_is_read_or_refused(told: Any) -> None:
    for body in (told, {"resourceSpans": told}, {"resourceSpans": [{"scopeSpans": told}]}):
        read(json.dumps(body).encode(), JSON)
    spans = read(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": told}]}]}).encode(), JSON)
    assert_kept(spans)


@st.composite
def messages(draw: st.DrawFn) -> trace_pb2.Span:
    message = trace_pb2.Span(
        trace_id=(7).to_bytes(16, "big"),
        span_id=draw(st.integers(1, 4)).to_bytes(8, "big"),
        parent_span_id=draw(st.sampled_from([b"", (1).to_bytes(8, "big")])),
        name=draw(texts),
        start_time_unix_nano=draw(st.integers(0, 2**63 - 1)),
        end_time_unix_nano=draw(st.integers(0, 2**63 - 1)),
    )
    message.status.code = draw(st.sampled_from([0, 1, 2]))
    keys = st.sampled_from(
        ["mlflow.spanInputs", "gen_ai.usage.input_tokens", "mlflow.chat.tokenUsage", "session.id"]
    )
    for key, value in draw(st.dictionaries(keys | texts, texts, max_size=3)).items():
        message.attributes.add(key=key).value.string_value = value
    return message


@given(st.lists(messages(), min_size=1, max_size=4), st.lists(messages(), min_size=1, max_size=4))
def test_what_spans_tell_does_not_depend_on_how_they_are_cut_into_requests(
    one: list[trace_pb2.Span], two: list[trace_pb2.Span]
) -> None:
    first, second, both = (decoded(those) for those in (one, two, [*one, *two]))
    apart = told_by_spans(told_by_spans(None, "e", first), "e", second)
    together = told_by_spans(None, "e", both)
    assert (apart.requested_at, apart.duration) == (together.requested_at, together.duration)
    roots = {span.status for span in both if not span.parent_id}
    if len(roots) <= 1:
        assert apart.state == together.state
    assert_sound(apart)


def decoded(those: list[trace_pb2.Span]) -> list[Span]:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(those)
    return spans_in(decode_export(request.SerializeToString(), PROTOBUF))


def assert_kept(spans: list[Span]) -> None:
    for span in spans:
        assert len(span.trace_id) == 32
        assert len(span.span_id) == 16
        assert 0 <= span.started_at <= span.ended_at < 2**63
        assert trace_pb2.Span.FromString(span.encoded).span_id.hex() == span.span_id
        assert_sound(told_by_spans(None, "e", [span]))


def assert_sound(trace: Trace) -> None:
    assert trace.duration is not None
    assert trace.duration >= 0
    assert all(len(value) <= 8000 for value in trace.metadata.values())
    kept = (*trace.tags.values(), *trace.metadata.values(), *trace.metadata)
    for text in (*kept, trace.request_preview or "", trace.response_preview or ""):
        assert "\x00" not in text
