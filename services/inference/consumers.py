"""What inference reads from the bus: the sink reads every payload record."""

from __future__ import annotations

from typing import Final

from services.inference.sink.writer import GROUP, PayloadSink
from tessera_kit.bus.batches import BatchConsumer
from tessera_kit.bus.producer import Publisher
from tessera_kit.config import KafkaConfig

__all__ = ["TOPICS", "payload_consumer"]

TOPICS: Final = ("tessera.inference.payload.v1",)
"""What the sink reads; the service's own process reads only who may do what."""


def payload_consumer(
    kafka: KafkaConfig,
    sink: PayloadSink,
    dead_letters: Publisher,
    *,
    max_records: int,
    max_wait: float,
) -> BatchConsumer:
    """The consumer that hands payload records to the sink.

    Args:
        kafka: The bus.
        sink: Writes them.
        dead_letters: Where a record goes that the database itself refuses.
        max_records: Most records of a batch.
        max_wait: Seconds that the first record of a batch waits for others.
    """
    return BatchConsumer(
        kafka,
        group=GROUP,
        topics=TOPICS,
        handle=sink.handle,
        dead_letters=dead_letters,
        max_records=max_records,
        max_wait=max_wait,
    )
