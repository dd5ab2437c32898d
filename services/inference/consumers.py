"""What inference reads from the bus: the sink every payload record, the service alerts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final

from google.protobuf.message import Message

from services.inference.handlers.canaries import Canaries
from services.inference.sink.writer import GROUP, PayloadSink
from tessera.events.v1 import monitoring_events_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera_kit.bus.batches import BatchConsumer
from tessera_kit.bus.continuity import Continuity
from tessera_kit.bus.event import Event
from tessera_kit.bus.handling import Handler
from tessera_kit.bus.producer import Publisher
from tessera_kit.config import KafkaConfig

__all__ = ["ALERTS_GROUP", "TOPICS", "alert_handlers", "payload_consumer"]

ALERTS_GROUP: Final = "inference-canaries"
"""Consumer group of the service's own processes."""

TOPICS: Final = ("tessera.inference.payload.v1",)
"""What the sink reads."""


def alert_handlers(canaries: Canaries) -> Mapping[type[Message], Handler]:
    """What to do with each event that the service's own processes share."""

    async def on_alert(event: Event, _: Any) -> None:
        data = event.data
        assert isinstance(data, monitoring_events_pb2.AlertChanged)  # noqa: S101 - routed by type
        alert = data.alert
        if alert.state == monitor_pb2.ALERT_STATE_FIRING:
            fired_at = alert.fired_at.ToDatetime(UTC)
            await canaries.note_alert(data.table_full_name, alert.monitor, alert.rule, fired_at)

    return {monitoring_events_pb2.AlertChanged: on_alert}


_MOST_BYTES: Final = 8 << 20
"""Of a batch's records. A row has its tensors as bytes, as columns and as text, and the database
takes several times that to write and merge them."""


def payload_consumer(
    kafka: KafkaConfig,
    sink: PayloadSink,
    dead_letters: Publisher,
    continuity: Continuity,
    *,
    max_records: int,
    max_wait: float,
) -> BatchConsumer:
    """The consumer that hands payload records to the sink.

    Args:
        kafka: The bus.
        sink: Writes them.
        dead_letters: Where a record goes that the database itself refuses.
        continuity: The sink's.
        max_records: Most records of a batch.
        max_wait: Least seconds from the begin of a batch to that of the next.
    """
    return BatchConsumer(
        kafka,
        group=GROUP,
        topics=TOPICS,
        handle=sink.handle,
        dead_letters=dead_letters,
        max_records=max_records,
        max_bytes=_MOST_BYTES,
        max_wait=max_wait,
        before_commit=sink.tell,
        continuity=continuity,
    )
