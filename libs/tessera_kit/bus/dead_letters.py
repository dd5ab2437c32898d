"""Dead letters: records that could not be handled, kept whole beside the reason."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from tessera_kit.bus.envelope import ConsumedRecord, Record
from tessera_kit.bus.producer import Publisher
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.bus.topics import dead_letter_topic, original_topic
from tessera_kit.errors import TesseraError
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["HEADER_PREFIX", "DeadLetters", "reason_of"]

_log = logging.getLogger(__name__)

HEADER_PREFIX = "dead_letter_"
"""Of what is added: reason, message, error, group, topic, partition, offset, attempts, time."""

_LONGEST_MESSAGE = 2000
_BACKOFF = RetryPolicy(initial_seconds=0.2, budget_seconds=None)


def reason_of(error: BaseException) -> str:
    """Why handling failed, as `REASON: text`, short enough for a header or a log line."""
    reason = error.reason if isinstance(error, TesseraError) else type(error).__name__
    return f"{reason}: {error}"[:_LONGEST_MESSAGE]


class DeadLetters:
    """Writes what a consumer cannot handle to its topic's dead-letter topic.

    Key, value and headers stay as they were, so a record can be sent again once its cause is
    mended: events are handled once by their id, and a dead one was not handled.

    Args:
        publisher: Where to write.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._counter = counter(names.BUS_DEAD_LETTERS)

    async def put(
        self, record: ConsumedRecord, group: str, error: BaseException, attempts: int
    ) -> None:
        """Set a record aside; returns when it is durable, however long the broker is away."""
        topic = dead_letter_topic(original_topic(record.topic))
        letter = Record(topic, record.key, record.value, _headers(record, group, error, attempts))
        _log.error(
            "%s: %s[%d]@%d goes to %s: %s",
            *(group, record.topic, record.partition, record.offset, topic, reason_of(error)),
            exc_info=None if isinstance(error, TesseraError) else error,
        )
        failures = 0
        while True:
            try:
                await self._publisher.publish_records([letter])
                break
            except TesseraError as failure:
                failures += 1
                _log.warning("%s: cannot write to %s yet: %s", group, topic, reason_of(failure))
                await asyncio.sleep(_BACKOFF.delay(failures, 0.0) or 0.0)
        self._counter.labels(record.topic, group).inc()


def _headers(
    record: ConsumedRecord, group: str, error: BaseException, attempts: int
) -> tuple[tuple[str, bytes], ...]:
    reason = error.reason if isinstance(error, TesseraError) else "UNHANDLED"
    added = {
        "reason": reason,
        "message": str(error)[:_LONGEST_MESSAGE],
        "error": type(error).__name__,
        "group": group,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "attempts": str(attempts),
        "time": datetime.now(UTC).isoformat(),
    }
    kept = [header for header in record.headers if not header[0].startswith(HEADER_PREFIX)]
    return (
        *kept,
        *((HEADER_PREFIX + name, text.encode("utf-8", "replace")) for name, text in added.items()),
    )
