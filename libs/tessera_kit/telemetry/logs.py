"""Structured logs: one JSON object per line on standard error, with the trace that it belongs to.

Log what happened and to which named thing; never payloads, tokens or other secrets. Extra fields
given as `extra={"rpc.method": ...}` become attributes of the record.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson
from opentelemetry import trace

from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics

__all__ = ["CountingHandler", "JsonFormatter", "attributes_of", "configure_logging"]

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
# Libraries that say at INFO what only matters when they are the suspect.
_QUIET: Final = (
    "aiobotocore",
    "aiokafka",
    "alembic",
    "botocore",
    "clickhouse_connect",
    "faust",
    "httpx",
    "mode",
    "urllib3",
)


def attributes_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the record's extra fields, with values that JSON holds."""
    return {
        key: value if isinstance(value, str | int | float | bool | None) else str(value)
        for key, value in record.__dict__.items()
        if key not in _STANDARD
    }


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON.

    Args:
        service: Name of the process, on every line.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; never raises for what was logged."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.trace_id:
            line["trace_id"] = f"{span.trace_id:032x}"
            line["span_id"] = f"{span.span_id:016x}"
        line.update(attributes_of(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class CountingHandler(logging.Handler):
    """Counts records by severity.

    Args:
        metrics: Where they are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._records = metrics.counter(names.LOG_RECORDS)

    def emit(self, record: logging.LogRecord) -> None:
        """Count one record."""
        self._records.labels(record.levelname).inc()


def configure_logging(service: str, level: str, stream: TextIO | None = None) -> logging.Handler:
    """Make the root logger write JSON lines, replacing what it wrote to before.

    Args:
        service: Name of the process.
        level: Least severity, as `INFO`.
        stream: Where to; standard error when None.

    Returns:
        The handler, for whoever wants to take it off again.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    return handler
