"""Telemetry of a process: the Prometheus door, OTLP, spans and logs in ClickHouse."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind

from tessera_kit.config import ClickHouseConfig, Secret, TelemetryConfig
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics
from tessera_kit.telemetry.propagation import new_span_context
from tessera_kit.telemetry.setup import active_telemetry, telemetry

log = logging.getLogger("services.catalog.test")


class Store:
    """An HTTP server that keeps what is posted to it, and may be told to fail."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                store.requests.append((self.path, dict(self.headers), body))
                self.send_response(store.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def rows(self, table: str) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for path, _, body in self.requests
            if f"INTO+{table}+" in path
            for line in body.splitlines()
        ]


@pytest.fixture
def store() -> Iterator[Store]:
    opened = Store()
    yield opened
    opened.close()


def get(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics") as response:
        return str(response.read().decode())


async def test_the_prometheus_door() -> None:
    metrics = Metrics()
    config = TelemetryConfig(metrics_listen="127.0.0.1:0")
    async with telemetry(config, "catalog", metrics=metrics) as started:
        assert active_telemetry() is started
        log.warning("careful")
        metrics.counter(names.BUS_DEAD_LETTERS).labels("topic", "group").inc(3)
        assert started.metrics_address is not None
        page = await asyncio.to_thread(get, started.metrics_address)
    line = 'tessera_bus_dead_letters_total{messaging_consumer_group_name="group",'
    assert line + 'messaging_destination_name="topic"} 3.0' in page
    assert 'tessera_log_records_total{log_level="WARNING"} 1.0' in page
    assert "process_resident_memory_bytes" in page
    assert "_created" not in page
    assert active_telemetry() is not started
    with pytest.raises(OSError):
        await asyncio.to_thread(get, started.metrics_address)


async def test_the_same_registry_serves_again() -> None:
    metrics = Metrics()
    config = TelemetryConfig(metrics_listen="127.0.0.1:0")
    for _ in range(2):
        async with telemetry(config, "catalog", metrics=metrics) as started:
            assert started.metrics_address is not None
            assert "python_gc" in await asyncio.to_thread(get, started.metrics_address)


def some_telemetry(tracer: trace.Tracer | None) -> None:
    assert tracer is not None
    link = Link(new_span_context(sampled=True), {"k": "v"})
    with tracer.start_as_current_span(
        "work", kind=SpanKind.CONSUMER, attributes={"a": 1}, links=[link]
    ) as span:
        span.add_event("happened", {"n": 2})
        log.info("inside %s", "work", extra={"tessera.job.id": "j1"})
        try:
            raise ValueError("no")
        except ValueError:
            log.exception("failed")


def configuration(url: str) -> TelemetryConfig:
    clickhouse = ClickHouseConfig(url, user="u", password=Secret("swordfish"), database="obs")
    return TelemetryConfig(clickhouse=clickhouse, sample_ratio=1.0)


async def test_spans_and_logs_go_to_clickhouse(store: Store) -> None:
    async with telemetry(configuration(store.url), "catalog", metrics=Metrics()) as started:
        some_telemetry(started.tracer)
    assert store.requests[0][1]["X-ClickHouse-Key"] == "swordfish"
    assert any("CREATE+TABLE" in path for path, _, _ in store.requests)
    (span,) = store.rows("otel_traces")
    assert (span["SpanName"], span["SpanKind"], span["ServiceName"]) == (
        "work",
        "Consumer",
        "catalog",
    )
    assert span["SpanAttributes"] == {"a": "1"}
    assert span["Events.Name"] == ["happened"]
    assert span["Links.Attributes"] == [{"k": "v"}]
    rows = {row["Body"]: row for row in store.rows("otel_logs")}
    inside = rows["inside work"]
    assert inside["TraceId"] == span["TraceId"]
    assert inside["SpanId"] == span["SpanId"]
    assert inside["LogAttributes"]["tessera.job.id"] == "j1"
    assert (inside["SeverityText"], inside["SeverityNumber"]) == ("INFO", 9)
    assert "ValueError: no" in rows["failed"]["LogAttributes"]["exception.stacktrace"]


async def test_a_store_that_fails_costs_telemetry_only(store: Store) -> None:
    store.status = 500
    metrics = Metrics()
    async with telemetry(configuration(store.url), "catalog", metrics=metrics) as started:
        some_telemetry(started.tracer)
    dropped = {
        table: metrics.registry.get_sample_value(
            "tessera_telemetry_dropped_total", {"tessera_task_name": table}
        )
        for table in ("otel_traces", "otel_logs")
    }
    assert dropped["otel_traces"] == 1


async def test_otlp(store: Store) -> None:
    config = TelemetryConfig(otlp_endpoint=store.url, sample_ratio=1.0)
    async with telemetry(config, "catalog", metrics=Metrics()) as started:
        some_telemetry(started.tracer)
    bodies = {path: body for path, _, body in store.requests}
    traces = ExportTraceServiceRequest.FromString(bodies["/v1/traces"])
    (span,) = traces.resource_spans[0].scope_spans[0].spans
    assert span.name == "work"
    logs = ExportLogsServiceRequest.FromString(bodies["/v1/logs"])
    records = [r for scope in logs.resource_logs[0].scope_logs for r in scope.log_records]
    assert {record.body.string_value for record in records} >= {"inside work", "failed"}
    assert {record.trace_id for record in records if record.trace_id} == {span.trace_id}


async def test_the_traces_begun_in_a_second_are_bounded_as_configured(store: Store) -> None:
    config = TelemetryConfig(
        otlp_endpoint=store.url, sample_ratio=1.0, most_traces_per_second=0.001
    )
    async with telemetry(config, "catalog", metrics=Metrics()) as started:
        servers = [started.server_calls() for _ in range(3)]
        assert [one.recorded.picks() for one in servers] == [True, False, False]


async def test_without_a_destination_nothing_is_recorded() -> None:
    async with telemetry(TelemetryConfig(), "catalog", metrics=Metrics()) as started:
        assert started.tracer is None


async def test_logs_are_json_with_trace_and_without_payload(
    capsys: pytest.CaptureFixture[str],
) -> None:
    context = new_span_context(sampled=False)
    async with telemetry(TelemetryConfig(log_level="INFO"), "catalog", metrics=Metrics()):
        with trace.use_span(NonRecordingSpan(context)):
            log.info("line\nbreak", extra={"rpc.method": "a/B", "strange": {1, 2} - {2}})
            log.debug("not shown")
        logging.getLogger("aiokafka").info("not shown")
    lines = capsys.readouterr().err.splitlines()
    (line,) = [json.loads(line) for line in lines]
    assert line["message"] == "line\nbreak"
    assert line["trace_id"] == f"{context.trace_id:032x}"
    assert line["rpc.method"] == "a/B"
    assert line["strange"] == "{1}"
    assert line["level"] == "INFO"


def test_every_metric_is_named_once_and_makes_an_instrument() -> None:
    metrics = Metrics()
    declared = names.all_metrics()
    assert len({metric.prometheus_name for metric in declared}) == len(declared) > 20
    for metric in declared:
        make = getattr(metrics, metric.instrument.value)
        assert make(metric) is make(metric)
        assert bool(metric.buckets) == (metric.instrument is names.Instrument.HISTOGRAM)
        assert metric.description.endswith(".")
    with pytest.raises(TypeError):
        metrics.gauge(names.BUS_SENT)
