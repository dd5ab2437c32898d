"""How long brokers may wait for records; Faust 0.15 says 1.5 s and has no setting for it."""

from __future__ import annotations

from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

__all__ = ["fetch_within"]


def fetch_within(application: Any, seconds: float) -> None:
    """Make an application's consumer ask the broker to answer within a time, records or none.

    A broker that is not woken by a record looks again when half of what is left has passed
    (`infra/adr/0005-bus.md`): the wait is then what an event waits for.

    Args:
        application: A Faust application that is not started.
        seconds: The longest wait of a fetch.
    """

    class Thread(AIOKafkaConsumerThread):
        def _create_worker_consumer(self, transport: Any) -> Any:
            consumer = super()._create_worker_consumer(transport)
            # aiokafka reads it when the consumer starts.
            consumer._fetch_max_wait_ms = int(seconds * 1000)
            return consumer

    class ThreadConsumer(Consumer):
        def _new_consumer_thread(self) -> Thread:
            return Thread(self, loop=self.loop, beacon=self.beacon)

    application.transport.Consumer = ThreadConsumer
