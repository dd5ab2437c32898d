"""Every metric, span and attribute name of Tessera, in one place.

Names follow the OpenTelemetry semantic conventions for RPC, messaging with Kafka and databases;
what they do not know is below `tessera.`. Prometheus shows a metric with `_` for `.` and its unit
as a suffix: `rpc.server.call.duration` in `s` is `rpc_server_call_duration_seconds`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

_LATENCY: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_COUNTS: Final = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)


class Instrument(enum.Enum):
    """How a metric is measured."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, meaning and labels."""

    name: str
    """OpenTelemetry name, with dots."""
    instrument: Instrument
    """How it is measured."""
    unit: str
    """UCUM unit: `s`, `By`, `{message}`, `1`."""
    description: str
    """What it measures, as a sentence."""
    attributes: tuple[str, ...] = ()
    """Attribute names, with dots; each becomes a Prometheus label."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets."""

    @property
    def prometheus_name(self) -> str:
        """The name on the Prometheus page, without a counter's `_total`."""
        suffix = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return self.name.replace(".", "_") + suffix

    @property
    def labels(self) -> tuple[str, ...]:
        """The attributes as Prometheus labels."""
        return tuple(name.replace(".", "_") for name in self.attributes)


# Attributes: RPC.
RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"

# Attributes: messaging.
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_GROUP: Final = "messaging.consumer.group.name"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_BATCH_COUNT: Final = "messaging.batch.message_count"
EVENT_TYPE: Final = "cloudevents.event_type"

# Attributes: databases.
DB_SYSTEM: Final = "db.system.name"
DB_OPERATION: Final = "db.operation.name"
DB_COLLECTION: Final = "db.collection.name"

# Attributes: ours.
ENDPOINT: Final = "tessera.endpoint.name"
ENTITY: Final = "tessera.served_entity.name"
MODEL: Final = "tessera.model.name"
MODEL_VERSION: Final = "tessera.model.version"
REQUEST_ID: Final = "tessera.request.id"
JOB_ID: Final = "tessera.job.id"
MONITOR: Final = "tessera.monitor.name"
TASK: Final = "tessera.task.name"
LOG_LEVEL: Final = "log.level"
OUTCOME: Final = "tessera.outcome"
KIND: Final = "tessera.kind"

# Span names. A call's span is named after its method, a message's `<operation> <topic>`.
SPAN_MODEL_INFER: Final = "model infer"
SPAN_SPOOL_APPEND: Final = "spool append"
SPAN_TABLE_INSERT: Final = "table insert"

# Metrics: RPC.
RPC_SERVER_DURATION: Final = Metric(
    "rpc.server.call.duration",
    Instrument.HISTOGRAM,
    "s",
    "Time from a call's arrival to its status.",
    (RPC_METHOD, RPC_STATUS),
    _LATENCY,
)
RPC_CLIENT_DURATION: Final = Metric(
    "rpc.client.call.duration",
    Instrument.HISTOGRAM,
    "s",
    "Time from a call's start to its status, its retries included.",
    (RPC_METHOD, RPC_STATUS),
    _LATENCY,
)
RPC_SERVER_ACTIVE: Final = Metric(
    "tessera.rpc.server.active_calls",
    Instrument.GAUGE,
    "{call}",
    "Calls that run now.",
    (SERVER_ADDRESS,),
)
AUTHORITY_REQUESTS: Final = Metric(
    "tessera.authority.requests",
    Instrument.COUNTER,
    "{request}",
    "Questions to the catalog's authority by what answered them: cache, catalog or stale.",
    (TASK, OUTCOME),
)

# Metrics: the bus.
BUS_SENT: Final = Metric(
    "messaging.client.sent.messages",
    Instrument.COUNTER,
    "{message}",
    "Messages that the broker acknowledged, or that failed to be.",
    (MESSAGING_DESTINATION, OUTCOME),
)
BUS_SEND_DURATION: Final = Metric(
    "messaging.client.operation.duration",
    Instrument.HISTOGRAM,
    "s",
    "Time from send to acknowledgement.",
    (MESSAGING_DESTINATION, MESSAGING_OPERATION),
    _LATENCY,
)
BUS_CONSUMED: Final = Metric(
    "messaging.client.consumed.messages",
    Instrument.COUNTER,
    "{message}",
    "Messages fetched.",
    (MESSAGING_DESTINATION, MESSAGING_GROUP),
)
BUS_PROCESS_DURATION: Final = Metric(
    "messaging.process.duration",
    Instrument.HISTOGRAM,
    "s",
    "Time to handle a message or a batch.",
    (MESSAGING_DESTINATION, MESSAGING_GROUP, OUTCOME),
    _LATENCY,
)
BUS_DEAD_LETTERS: Final = Metric(
    "tessera.bus.dead_letters",
    Instrument.COUNTER,
    "{message}",
    "Messages that went to a dead-letter topic.",
    (MESSAGING_DESTINATION, MESSAGING_GROUP),
)
BUS_DUPLICATES: Final = Metric(
    "tessera.bus.duplicates",
    Instrument.COUNTER,
    "{message}",
    "Messages skipped because their event was handled before.",
    (MESSAGING_DESTINATION, MESSAGING_GROUP),
)
BUS_DELIVERY_DELAY: Final = Metric(
    "tessera.bus.delivery.delay",
    Instrument.HISTOGRAM,
    "s",
    "Time from an event's making to the start of its handling.",
    (MESSAGING_DESTINATION, MESSAGING_GROUP),
    _LATENCY,
)
OUTBOX_PENDING: Final = Metric(
    "tessera.outbox.pending",
    Instrument.GAUGE,
    "{event}",
    "Events in the outbox that the broker has not acknowledged.",
)
OUTBOX_PUBLISHED: Final = Metric(
    "tessera.outbox.published",
    Instrument.COUNTER,
    "{event}",
    "Events that left the outbox.",
)

# Metrics: stores.
CLICKHOUSE_DURATION: Final = Metric(
    "db.client.operation.duration",
    Instrument.HISTOGRAM,
    "s",
    "Time of a database operation.",
    (DB_SYSTEM, DB_OPERATION),
    _LATENCY,
)
WRITER_ROWS: Final = Metric(
    "tessera.writer.rows",
    Instrument.COUNTER,
    "{row}",
    "Rows that a batch writer wrote or gave up on.",
    (DB_COLLECTION, OUTCOME),
)
WRITER_PENDING: Final = Metric(
    "tessera.writer.pending",
    Instrument.GAUGE,
    "{row}",
    "Rows that wait in a batch writer.",
    (DB_COLLECTION,),
)
WRITER_BATCH_ROWS: Final = Metric(
    "tessera.writer.batch.rows",
    Instrument.HISTOGRAM,
    "{row}",
    "Rows per batch.",
    (DB_COLLECTION,),
    _COUNTS,
)

# Metrics: tracking.
TRACKING_METRICS_LOGGED: Final = Metric(
    "tessera.tracking.metrics.logged",
    Instrument.COUNTER,
    "{metric}",
    "Metric points that runs logged.",
)
TRACKING_WEBHOOKS_GIVEN_UP: Final = Metric(
    "tessera.tracking.webhooks.given_up",
    Instrument.COUNTER,
    "{delivery}",
    "Events that a webhook's receiver did not take; each is kept with its reason.",
)
TRACKING_POINTS_CARRIED: Final = Metric(
    "tessera.tracking.points.carried",
    Instrument.COUNTER,
    "{point}",
    "Points of metrics that went from the log to ClickHouse.",
)
TRACKING_PURGED: Final = Metric(
    "tessera.tracking.purged",
    Instrument.COUNTER,
    "{thing}",
    "Deleted experiments, runs and logged models that were removed for good.",
    (KIND,),
)

# Metrics: training.
TRAINING_JOBS: Final = Metric(
    "tessera.training.jobs",
    Instrument.COUNTER,
    "{job}",
    "Jobs that ended, by how.",
    (OUTCOME,),
)
TRAINING_ACTIVE: Final = Metric(
    "tessera.training.active_jobs",
    Instrument.GAUGE,
    "{job}",
    "Jobs that run now.",
)

# Metrics: inference.
INFERENCE_REQUESTS: Final = Metric(
    "tessera.inference.requests",
    Instrument.COUNTER,
    "{request}",
    "Requests that the gateway answered.",
    (ENDPOINT, MODEL_VERSION, RPC_STATUS),
)
INFERENCE_DURATION: Final = Metric(
    "tessera.inference.request.duration",
    Instrument.HISTOGRAM,
    "s",
    "Time from a request's arrival at the gateway to its reply.",
    (ENDPOINT, MODEL_VERSION),
    _LATENCY,
)
INFERENCE_MODEL_DURATION: Final = Metric(
    "tessera.inference.model.duration",
    Instrument.HISTOGRAM,
    "s",
    "Time that the model runtime took, as the gateway saw it.",
    (ENDPOINT, MODEL_VERSION),
    _LATENCY,
)
INFERENCE_WAKE_DURATION: Final = Metric(
    "tessera.inference.wake.duration",
    Instrument.HISTOGRAM,
    "s",
    "Time that an idle model took to be loaded because somebody asked for it.",
    (),
    _LATENCY,
)

INFERENCE_SHADOWS: Final = Metric(
    "tessera.inference.shadows",
    Instrument.COUNTER,
    "{request}",
    "Requests mirrored to a shadow entity: answered, failed, dropped beyond its bound.",
    (ENDPOINT, ENTITY, OUTCOME),
)
INFERENCE_FALLBACKS: Final = Metric(
    "tessera.inference.fallbacks",
    Instrument.COUNTER,
    "{request}",
    "Requests asked of another entity, by the status of the one before.",
    (ENDPOINT, ENTITY, RPC_STATUS),
)
SPOOL_RECORDS: Final = Metric(
    "tessera.spool.records",
    Instrument.COUNTER,
    "{record}",
    "Payload records: appended, shipped to the bus, sampled out; lost or refused as it is full.",
    (OUTCOME,),
)
SPOOL_PENDING: Final = Metric(
    "tessera.spool.pending",
    Instrument.GAUGE,
    "By",
    "Bytes of the spool that are not on the bus yet.",
)
SPOOL_DELAY: Final = Metric(
    "tessera.spool.delay",
    Instrument.HISTOGRAM,
    "s",
    "Time from the arrival of a batch's first request to the batch being on the bus.",
    (),
    _LATENCY,
)
BODIES_REMOVED: Final = Metric(
    "tessera.inference.bodies.removed",
    Instrument.COUNTER,
    "{body}",
    "Bodies removed from the object store because their rows are no longer kept.",
)
SINK_ROWS: Final = Metric(
    "tessera.sink.rows",
    Instrument.COUNTER,
    "{row}",
    "Rows that the sink wrote to inference tables.",
    (ENDPOINT,),
)
TABLE_LAG: Final = Metric(
    "tessera.inference_table.lag",
    Instrument.HISTOGRAM,
    "s",
    "Time from a request's arrival to its row being readable.",
    (ENDPOINT,),
    _LATENCY,
)

# Metrics: monitoring.
MONITOR_WINDOWS: Final = Metric(
    "tessera.monitor.windows",
    Instrument.COUNTER,
    "{window}",
    "Windows that closed.",
    (MONITOR,),
)
MONITOR_LABELS: Final = Metric(
    "tessera.monitor.labels",
    Instrument.COUNTER,
    "{label}",
    "Labels by what became of them: joined, waiting, unknown.",
    (MONITOR, OUTCOME),
)
MONITOR_ALERTS: Final = Metric(
    "tessera.monitor.alerts",
    Instrument.COUNTER,
    "{alert}",
    "Alerts that fired.",
    (MONITOR,),
)

# Metrics: the process.
BACKGROUND_FAILURES: Final = Metric(
    "tessera.background.failures",
    Instrument.COUNTER,
    "{failure}",
    "Failures of background tasks that they recovered from.",
    (TASK,),
)
LOG_RECORDS: Final = Metric(
    "tessera.log.records",
    Instrument.COUNTER,
    "{record}",
    "Log records by severity.",
    (LOG_LEVEL,),
)
TELEMETRY_DROPPED: Final = Metric(
    "tessera.telemetry.dropped",
    Instrument.COUNTER,
    "{item}",
    "Spans and log records that were dropped because their store was too slow.",
    (TASK,),
)


def all_metrics() -> tuple[Metric, ...]:
    """Return every metric that this file declares."""
    return tuple(value for value in globals().values() if isinstance(value, Metric))
