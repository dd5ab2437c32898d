"""A Faust application inside the service: one agent over one topic, and a table of its state.

Faust runs as a mode service on the process's own loop. Its one agent has a concurrency of 1 and
acknowledges events itself, so an offset is committed only after its event had its effect. The table
is in memory, with a changelog topic behind it; what it holds can be rebuilt, so neither a lost
topic nor a changelog that is read to an early end does harm.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import faust

from services.monitoring.adapters.faust_fetch import fetch_within
from services.monitoring.domain.windows import StreamState
from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.bus.topics import ensure_topics
from tessera_kit.config import KafkaConfig

__all__ = ["FaustStream"]

_log = logging.getLogger(__name__)

_APP: Final = "tessera-monitoring"
_BACKOFF: Final = RetryPolicy(initial_seconds=0.5, maximum_seconds=10.0, budget_seconds=None)

_MOST_EVENTS: Final = 1000

Handle = Callable[[Sequence[ConsumedRecord]], Awaitable[None]]


class FaustStream:
    """Reads a topic of one partition with Faust, and keeps states in its table.

    The table is there while `run` runs.

    Args:
        kafka: Brokers, and how long they may wait for records.
        topic: What to read.
        data_dir: Where Faust keeps its local files.
        app_id: Consumer group, and the beginning of the changelog's name.
        interval_seconds: How long after one batch the next one begins at the earliest.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        topic: str,
        data_dir: Path,
        app_id: str = _APP,
        interval_seconds: float = 0.5,
    ) -> None:
        self._kafka = kafka
        self._topic = topic
        self._data_dir = data_dir
        self._app_id = app_id
        self._interval_seconds = interval_seconds
        self._began = 0.0
        self._table: Any = None

    def get(self, monitor_id: str) -> StreamState | None:
        """The state; None when it is not known."""
        document = None if self._table is None else self._table.get(monitor_id)
        if document is None:
            return None
        try:
            return StreamState.from_json(document)
        except (ValueError, TypeError):
            _log.warning("the state of monitor %s is not readable; it is rebuilt", monitor_id)
            return None

    def put(self, monitor_id: str, state: StreamState) -> None:
        """Replace the state. Only while a record is handled."""
        self._table[monitor_id] = state.to_json()

    async def run(self, handle: Handle) -> None:
        """Consume until cancelled; outages of the broker are waited out.

        Args:
            handle: Gives records their effect. What it raises ends the stream, which starts anew.
        """
        await asyncio.to_thread(self._data_dir.mkdir, parents=True, exist_ok=True)
        failures = 0
        while True:
            try:
                await ensure_topics(self._kafka)
                await self._run_once(handle)
                failures = 0
            except Exception as error:
                failures += 1
                _log.warning("the stream of %s ended, it starts anew: %r", self._topic, error)
                await asyncio.sleep(_BACKOFF.delay(failures, 0.0) or 0.0)

    async def _run_once(self, handle: Handle) -> None:
        """One life of the application."""
        failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        application = self._build(handle, failure)
        waiting: list[asyncio.Future[None]] = [failure]
        try:
            await application.start()
            waiting.append(asyncio.ensure_future(application.wait_until_stopped()))
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if failure.done():
                failure.result()
            if application.crash_reason is not None:
                raise application.crash_reason
        finally:
            for future in waiting:
                future.cancel()
            await application.stop()

    def _build(self, handle: Handle, failure: asyncio.Future[None]) -> Any:
        application = self._application()
        fetch_within(application, self._kafka.fetch_wait_seconds)
        topic = application.topic(
            self._topic,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            partitions=1,
        )
        self._table = application.Table("windows", partitions=1)

        async def follow(stream: Any) -> None:
            await self._follow(stream, handle, failure)

        async def note(*arguments: Any, **_: Any) -> None:
            _log.info("%s: works on %d partitions", self._app_id, len(arguments[-1]))

        application.agent(topic, name="rows", concurrency=1)(follow)
        application.on_partitions_assigned.connect(note, weak=False)
        return application

    def _application(self) -> Any:
        return faust.App(
            self._app_id,
            broker=[f"kafka://{broker}" for broker in self._kafka.bootstrap.split(",")],
            store="memory://",
            datadir=str(self._data_dir / "faust"),
            autodiscover=False,
            web_enabled=False,
            consumer_auto_offset_reset="earliest",
            topic_partitions=1,
            topic_disable_leader=True,
            broker_commit_interval=1.0,
            # A member that died is noticed, and a new one let in, after about a session.
            broker_session_timeout=self._kafka.session_seconds,
            broker_heartbeat_interval=self._kafka.session_seconds / 3,
            broker_rebalance_timeout=10.0,
            broker_request_timeout=30.0,
            stream_wait_empty=False,
            worker_redirect_stdouts=False,
        )

    async def _follow(self, stream: Any, handle: Handle, failure: asyncio.Future[None]) -> None:
        """Hand over the stream's events in batches, for as long as the application runs."""
        events: list[Any] = []
        # Left to itself, Faust acknowledges an event also when its handling is cancelled or
        # fails, and then commits past it.
        async for event in stream.noack().events():
            events.append(event)
            if len(events) < _MOST_EVENTS and await self._more_wait(stream):
                continue
            try:
                await handle([_record(event.message) for event in events])
            except Exception as error:
                # Held until the application is stopped: the next one reads the events again.
                if not failure.done():
                    failure.set_exception(error)
                await asyncio.Event().wait()
            for handled in events:
                await stream.ack(handled)
            events.clear()

    async def _more_wait(self, stream: Any) -> bool:
        """Let events gather for the interval; whether there are more now."""
        pause = self._began + self._interval_seconds - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        if not stream.channel.queue.empty():
            return True
        self._began = time.monotonic()
        return False


def _record(message: Any) -> ConsumedRecord:
    return ConsumedRecord(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=None if message.timestamp is None else int(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=tuple(message.headers or ()),
    )
