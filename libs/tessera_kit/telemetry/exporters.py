"""Where spans and log records leave the process: OTLP/HTTP, or straight into ClickHouse.

Both are fed from bounded queues by threads of the OpenTelemetry SDK: a slow store loses telemetry,
never requests.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import orjson
from opentelemetry import context as contexts
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tessera_kit.config import ClickHouseConfig, TelemetryConfig
from tessera_kit.telemetry import names
from tessera_kit.telemetry.clickhouse_tables import (
    LOGS_TABLE,
    SPANS_TABLE,
    create_statements,
    log_row,
    span_row,
)
from tessera_kit.telemetry.logs import attributes_of
from tessera_kit.telemetry.metrics import Metrics

__all__ = [
    "ClickHouseLogExporter",
    "ClickHouseSpanExporter",
    "LogExportHandler",
    "log_exporter",
    "span_exporter",
]

_TIMEOUT_SECONDS: Final = 5.0
_ATTEMPTS: Final = 2
_log = logging.getLogger(__name__)


def span_exporter(config: TelemetryConfig, metrics: Metrics) -> SpanExporter | None:
    """Return what sends spans away; None when they are to go nowhere."""
    if config.otlp_endpoint is not None:
        # Imported where it is used: it brings an HTTP stack that most processes do without.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=config.otlp_endpoint.rstrip("/") + "/v1/traces")
    if config.clickhouse is not None:
        return ClickHouseSpanExporter(config.clickhouse, metrics)
    return None


def log_exporter(config: TelemetryConfig, metrics: Metrics) -> LogRecordExporter | None:
    """Return what sends log records away; None when they stay on standard error."""
    if config.otlp_endpoint is not None:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        return OTLPLogExporter(endpoint=config.otlp_endpoint.rstrip("/") + "/v1/logs")
    if config.clickhouse is not None:
        return ClickHouseLogExporter(config.clickhouse, metrics)
    return None


class _Inserter:
    """Inserts rows into one table over ClickHouse's HTTP interface, on one kept connection."""

    def __init__(self, config: ClickHouseConfig, table: str, metrics: Metrics) -> None:
        self._config = config
        self._table = table
        self._connection: HTTPConnection | None = None
        self._table_made = False
        self._lock = threading.Lock()
        self._dropped = metrics.counter(names.TELEMETRY_DROPPED).labels(table)

    def insert(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Write the rows; on failure count them as dropped and return False."""
        body = b"\n".join(orjson.dumps(row) for row in rows)
        with self._lock:
            try:
                if not self._table_made:
                    self._make_table()
                self._post(f"INSERT INTO {self._table} FORMAT JSONEachRow", body)
            except (OSError, HTTPException) as error:
                self._dropped.inc(len(rows))
                _log.warning("dropped %d rows of %s: %s", len(rows), self._table, error)
                return False
        return True

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _make_table(self) -> None:
        database = self._config.database.replace("`", "")
        self._post(f"CREATE DATABASE IF NOT EXISTS `{database}`", b"", database="default")
        for statement in create_statements(self._table):
            self._post(statement, b"")
        self._table_made = True

    def _post(self, sql: str, body: bytes, database: str | None = None) -> None:
        query = urlencode({"database": database or self._config.database, "query": sql})
        headers = {
            "X-ClickHouse-User": self._config.user,
            "X-ClickHouse-Key": self._config.password.reveal(),
        }
        for attempt in range(_ATTEMPTS):
            connection = self._connection or self._connect()
            try:
                connection.request("POST", f"/?{query}", body, headers)
                response = connection.getresponse()
                answer = response.read()
                break
            except (OSError, HTTPException):
                connection.close()
                self._connection = None
                # A kept connection may have been closed by the server while it was idle.
                if attempt + 1 == _ATTEMPTS:
                    raise
        if response.status != 200:
            text = answer[:200].decode("utf-8", "replace")
            raise HTTPException(f"ClickHouse answered {response.status}: {text}")

    def _connect(self) -> HTTPConnection:
        url = urlsplit(self._config.url)
        kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
        self._connection = kind(url.hostname or "", url.port, timeout=_TIMEOUT_SECONDS)
        return self._connection


class ClickHouseSpanExporter(SpanExporter):
    """Writes spans to `otel_traces`, which it makes when it is missing."""

    def __init__(self, config: ClickHouseConfig, metrics: Metrics) -> None:
        self._inserter = _Inserter(config, SPANS_TABLE, metrics)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write one batch; a batch that fails twice is dropped and counted."""
        written = self._inserter.insert([span_row(span) for span in spans])
        return SpanExportResult.SUCCESS if written else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the connection."""
        self._inserter.close()


class ClickHouseLogExporter(LogRecordExporter):
    """Writes log records to `otel_logs`, which it makes when it is missing."""

    def __init__(self, config: ClickHouseConfig, metrics: Metrics) -> None:
        self._inserter = _Inserter(config, LOGS_TABLE, metrics)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Write one batch; a batch that fails twice is dropped and counted."""
        written = self._inserter.insert([log_row(record) for record in batch])
        return LogRecordExportResult.SUCCESS if written else LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        """Return at once: every batch is written when it is exported."""
        return True

    def shutdown(self) -> None:
        """Close the connection."""
        self._inserter.close()


_SEVERITIES: Final = {
    "DEBUG": SeverityNumber.DEBUG,
    "INFO": SeverityNumber.INFO,
    "WARNING": SeverityNumber.WARN,
    "ERROR": SeverityNumber.ERROR,
    "CRITICAL": SeverityNumber.FATAL,
}
# What the exporters themselves use: exporting its records would feed on itself.
_OWN: Final = ("opentelemetry", "urllib3", "requests", __name__)


class LogExportHandler(logging.Handler):
    """Hands log records to an exporter through a bounded queue."""

    def __init__(self, exporter: LogRecordExporter, resource: Resource) -> None:
        super().__init__()
        self._provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_log_record_processor(
            BatchLogRecordProcessor(exporter, schedule_delay_millis=1000, max_queue_size=8192)
        )
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; a full queue loses records, never blocks."""
        if record.name.startswith(_OWN):
            return
        attributes = attributes_of(record)
        if record.exc_info:
            attributes["exception.stacktrace"] = self._formatter.formatException(record.exc_info)
        self._provider.get_logger(record.name).emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                context=contexts.get_current(),
                severity_text=record.levelname,
                severity_number=_SEVERITIES.get(record.levelname, SeverityNumber.UNSPECIFIED),
                body=record.getMessage(),
                attributes=attributes,
            )
        )

    def close(self) -> None:
        """Send what is queued and stop."""
        self._provider.shutdown()
        super().close()
