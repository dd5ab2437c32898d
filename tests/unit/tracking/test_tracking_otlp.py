"""OpenTelemetry's export messages as spans."""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64encode

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.tracking.convert.otlp import decode_export, inflate, spans_in
from services.tracking.errors import InvalidSpans


class TestOtlp:
    def test_json_and_protobuf_are_read_alike(self) -> None:
        told = {
            "resourceSpans": [
                {
                    "resource": {
                        "attributes": [{"key": "service.name", "value": {"stringValue": "app"}}]
                    },
                    "scopeSpans": [
                        {
                            "scope": {"name": "lib", "version": "1"},
                            "spans": [
                                {
                                    "traceId": "5B8EFFF798038103D269B633813FC60C",
                                    "spanId": "eee19b7ec3c1b174",
                                    "parentSpanId": "eee19b7ec3c1b173",
                                    "name": "I'm",
                                    "startTimeUnixNano": "1544712660000000001",
                                    "endTimeUnixNano": "1544712661000000002",
                                    "kind": 3,
                                    "status": {"code": 2, "message": "no"},
                                    "attributes": [
                                        {"key": "n", "value": {"intValue": "5"}},
                                        {"key": "b", "value": {"boolValue": True}},
                                        {
                                            "key": "l",
                                            "value": {
                                                "arrayValue": {"values": [{"doubleValue": 1.5}]}
                                            },
                                        },
                                    ],
                                    "unknown": 1,
                                }
                            ],
                        }
                    ],
                }
            ]
        }
        request = decode_export(json.dumps(told).encode(), "application/json; charset=utf-8")
        (span,) = spans_in(request)
        assert span.trace_id == "5b8efff798038103d269b633813fc60c"
        assert (span.span_id, span.parent_id) == ("eee19b7ec3c1b174", "eee19b7ec3c1b173")
        assert (span.started_at, span.duration) == (1544712660000000001, 1_000_000_001)
        assert (span.kind, span.status, span.status_message) == ("Client", "Error", "no")
        assert span.attributes == {"n": "5", "b": "true", "l": "[1.5]"}
        assert span.resource == {"service.name": "app"}
        again = decode_export(request.SerializeToString(), "application/x-protobuf")
        assert spans_in(again) == [span]

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (b"{}", "text/plain"),
            (b"{}", "application/json"),
            (b"[1]", "application/json"),
            (b"{", "application/json"),
            (b'{"resourceSpans": 5}', "application/json"),
            (b"\xff\xff", "application/x-protobuf"),
            (b"", "application/x-protobuf"),
        ],
    )
    def test_what_is_no_export_is_refused(self, body: bytes, content_type: str) -> None:
        with pytest.raises(InvalidSpans):
            decode_export(body, content_type)

    @pytest.mark.parametrize(
        "span",
        [
            {"traceId": "", "spanId": "eee19b7ec3c1b174"},
            {"traceId": "0" * 32, "spanId": "eee19b7ec3c1b174"},
            {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "ee"},
            {
                "traceId": "5b8efff798038103d269b633813fc60c",
                "spanId": "eee19b7ec3c1b174",
                "endTimeUnixNano": str(2**63),
            },
        ],
    )
    def test_spans_without_ids_or_times_are_refused(self, span: dict[str, str]) -> None:
        body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
        with pytest.raises(InvalidSpans):
            spans_in(decode_export(body.encode(), "application/json"))

    def test_bodies_may_be_compressed(self) -> None:
        plain = ExportTraceServiceRequest().SerializeToString() + b"x" * 100
        assert inflate(gzip.compress(plain), "gzip") == plain
        assert inflate(zlib.compress(plain), "deflate") == plain
        assert inflate(plain, "") == plain
        for body, encoding in (
            (b"none", "gzip"),
            (gzip.compress(plain)[:-9], "gzip"),
            (plain, "br"),
            (b64encode(plain), "deflate"),
        ):
            with pytest.raises(InvalidSpans):
                inflate(body, encoding)
