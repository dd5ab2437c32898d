"""What monitoring listens to on the bus, and what becomes of it.

- tessera.inference.rows.v1, by Faust: `InferenceRowsWritten` moves the windows of the monitors of
  that table.
- tessera.monitoring.label.v1, in batches: `LabelObserved` is kept and joined.
- tessera.catalog.grant.v1: `AccessChanged` ends what is kept of decisions.

What cannot be understood goes to the topic's dead-letter topic with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from services.monitoring.convert import messages
from services.monitoring.domain.windows import RequestRange
from services.monitoring.handlers.labels import LabelIntake
from services.monitoring.handlers.stream import RowsWritten
from services.monitoring.ports import Label, RowBatch
from tessera.events.v1 import inference_events_pb2, monitoring_events_pb2
from tessera_kit.bus.batches import BatchConsumer
from tessera_kit.bus.dead_letters import DeadLetters
from tessera_kit.bus.envelope import ConsumedRecord, MalformedEvent, from_record
from tessera_kit.bus.producer import Publisher
from tessera_kit.bus.retry import RetryPolicy, is_retryable
from tessera_kit.bus.topics import topic_for
from tessera_kit.config import KafkaConfig
from tessera_kit.errors import FieldViolation, InvalidArgument
from tessera_kit.rpc.validation import validate
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter, histogram

__all__ = ["LABELS_TOPIC", "ROWS_TOPIC", "LabelConsumer", "RowHandling", "label_of"]

_log = logging.getLogger(__name__)

ROWS_TOPIC: Final = topic_for(inference_events_pb2.InferenceRowsWritten).name
LABELS_TOPIC: Final = topic_for(monitoring_events_pb2.LabelObserved).name
ROWS_GROUP: Final = "tessera-monitoring"
LABELS_GROUP: Final = "tessera-monitoring-labels"

Observe = Callable[[Sequence[RowsWritten]], Coroutine[Any, Any, None]]


class RowHandling:
    """Gives records of the rows topic their effect, however long that takes.

    Args:
        observe: What to do with the rows.
        dead_letters: Where records go that are no such event.
        retry: How failures that may pass are tried again.
    """

    def __init__(
        self, observe: Observe, dead_letters: Publisher, retry: RetryPolicy | None = None
    ) -> None:
        self._observe = observe
        self._dead_letters = DeadLetters(dead_letters)
        self._retry = retry or RetryPolicy(budget_seconds=None)

    async def handle(self, records: Sequence[ConsumedRecord]) -> None:
        """Return when each record had its effect or is a dead letter."""
        began = time.perf_counter()
        counter(names.BUS_CONSUMED).labels(ROWS_TOPIC, ROWS_GROUP).inc(len(records))
        sound: list[tuple[ConsumedRecord, RowsWritten]] = []
        for record in records:
            try:
                sound.append((record, _rows_of(record)))
            except InvalidArgument as error:
                await self._dead_letters.put(record, ROWS_GROUP, error, 1)
        if sound:
            await self._observe_until_done(sound)
        histogram(names.BUS_PROCESS_DURATION).labels(ROWS_TOPIC, ROWS_GROUP, "ok").observe(
            time.perf_counter() - began
        )

    async def _observe_until_done(
        self, sound: Sequence[tuple[ConsumedRecord, RowsWritten]]
    ) -> None:
        attempts = 0
        while True:
            attempts += 1
            try:
                return await self._observe([rows for _, rows in sound])
            except Exception as error:
                if not is_retryable(error):
                    for record, _ in sound:
                        await self._dead_letters.put(record, ROWS_GROUP, error, attempts)
                    return None
                _log.warning("new rows are not looked at yet, trying again: %s", error)
            delay = self._retry.delay(attempts, 0.0) or self._retry.maximum_seconds
            await asyncio.sleep(delay)


def _rows_of(record: ConsumedRecord) -> RowsWritten:
    data = from_record(record).data
    if not isinstance(data, inference_events_pb2.InferenceRowsWritten):
        raise MalformedEvent("the event does not tell of rows")
    validate(data)
    first = messages.time_us(data.first_request_time)
    last = messages.time_us(data.last_request_time)
    if not data.table_full_name or first > last or data.first_request_id > data.last_request_id:
        raise MalformedEvent("table_full_name must be set and first not be after last")
    ids = (data.first_request_id, data.last_request_id)
    return RowsWritten(data.table_full_name, RowBatch(RequestRange(first, last), ids))


class LabelConsumer:
    """Takes labels from the bus, in batches.

    Args:
        kafka: Brokers.
        intake: What to do with them.
        dead_letters: Where records go that are no labels.
    """

    def __init__(self, kafka: KafkaConfig, intake: LabelIntake, dead_letters: Publisher) -> None:
        self._intake = intake
        self._consumer = BatchConsumer(
            kafka,
            group=LABELS_GROUP,
            topics=[LABELS_TOPIC],
            handle=self.take,
            dead_letters=dead_letters,
            max_records=10_000,
            max_wait=0.5,
        )

    async def run(self) -> None:
        """Consume until cancelled."""
        await self._consumer.run()

    async def take(self, records: Sequence[ConsumedRecord]) -> None:
        """Give labels their effect.

        Raises:
            InvalidArgument: One of the records is no label; nothing was done.
        """
        await self._intake.take([label_of(record) for record in records])


def label_of(record: ConsumedRecord) -> Label:
    """The label that a record holds.

    Raises:
        InvalidArgument: It is malformed; the message names the header or field.
    """
    data = from_record(record).data
    if not isinstance(data, monitoring_events_pb2.LabelObserved):
        raise MalformedEvent("the event is no label")
    validate(data)
    if bool(data.tessera_request_id) == bool(data.client_request_id):
        rule = "must be set, or client_request_id, and not both"
        violation = FieldViolation("tessera_request_id", rule)
        raise MalformedEvent(f"tessera_request_id {rule}", violations=[violation])
    return messages.label(data)
