"""The bus: what the kit's consumers handle in a second, beside a bare client on the same log."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from devstack import Stack
from tessera.events.v1 import monitoring_events_pb2
from tessera_kit.bus.batches import BatchConsumer
from tessera_kit.bus.consumer import ConsumerRunner
from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.producer import EventProducer
from tessera_kit.bus.tables import outbox_tables
from tessera_kit.bus.topics import Topic, TopicRegistry, dead_letter_topic
from tessera_kit.config import DatabaseConfig, KafkaConfig
from tessera_kit.store.sql import Database, UnitOfWork
from tests.benchmarks.results import Figure, Report, median, quantile
from tests.helpers import unique_name

RECORDS_WARM, RECORDS = 20_000, 100_000
"""Records that a consumer reads before the clock begins, and while it runs."""
EVENTS_WARM, EVENTS = 2_000, 20_000
ROUNDS = 4
SINGLES = 50
_LIMIT_SECONDS = 60.0
Label = monitoring_events_pb2.LabelObserved
Progress = Callable[[str], None]
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class _Bench:
    kafka: KafkaConfig
    registry: TopicRegistry
    topic: Topic
    producer: EventProducer
    database: Database


class Countdown:
    """Counts what arrives, and how long it took once the consumer was in its stride.

    A new consumer joins its group, looks for its offsets and finds its way into the log at its
    own pace, and fetches ahead meanwhile: none of that is its rate.

    Args:
        warm: Arrivals before the clock begins.
        wanted: Arrivals that are timed.
    """

    def __init__(self, warm: int, wanted: int) -> None:
        self._warm = warm
        self._total = warm + wanted
        self._count = 0
        self._begun: tuple[float, int] | None = None
        self._done: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def add(self, count: int) -> None:
        """Tells that so many more arrived."""
        self._count += count
        if self._begun is None:
            if self._count >= self._warm:
                self._begun = perf_counter(), self._count
        elif self._count >= self._total and not self._done.done():
            began, before = self._begun
            self._done.set_result((self._count - before) / (perf_counter() - began))

    async def rate(self) -> float:
        """Timed arrivals per second."""
        async with asyncio.timeout(_LIMIT_SECONDS):
            return await self._done


async def measure(stack: Stack, report: Report, tell: Progress) -> None:
    """Event by event with effects in SQLite, then in batches, then one at a time."""
    kafka = KafkaConfig.from_env(stack.environment)
    details: dict[str, object] = {}
    report.details["bus"] = details
    async with _bench(kafka) as bench:
        records = RECORDS_WARM + RECORDS
        tell(f"bus: {records:,} records to consume")
        events = _events(records)
        began = perf_counter()
        for start in range(0, records, RECORDS_WARM):
            await bench.producer.publish_many(events[start : start + RECORDS_WARM])
        published = records / (perf_counter() - began)
        rates: dict[str, list[float]] = {"raw": [], "batch": [], "runner": []}
        kinds = {"raw": _raw_rate, "batch": _batch_rate, "runner": _runner_rate}
        for number in range(1, ROUNDS + 1):
            tell(f"bus: round {number} of {ROUNDS}")
            # Whoever comes second finds the log in the caches of whoever came first.
            for kind in list(kinds) if number % 2 else list(reversed(kinds)):
                rates[kind].append(await kinds[kind](bench))
    tell("bus: publish to handled, one at a time")
    async with _bench(kafka) as bench:
        latencies = await _latencies(bench)
    details |= {**rates, "latencies_ms": latencies}
    raw = median(rates["raw"])
    name = "aiokafka getmany"
    report.figures += [
        Figure("bus", "published, acknowledged", published, "events/s"),
        Figure("bus", "BatchConsumer", median(rates["batch"]), "records/s", raw, name),
        Figure(
            "bus",
            "ConsumerRunner",
            median(rates["runner"]),
            "events/s",
            raw,
            name,
            note="each event once, effect and inbox in SQLite",
        ),
        *(
            Figure(
                "bus",
                f"publish to handled, {label}",
                quantile(latencies, share),
                "ms",
                higher_is_better=False,
                note="one event at a time",
            )
            for label, share in (("p50", 0.5), ("p99", 0.99))
        ),
    ]


@asynccontextmanager
async def _bench(kafka: KafkaConfig) -> AsyncIterator[_Bench]:
    """A topic and a database of their own, gone afterwards."""
    topic = Topic(f"bench.{unique_name()}.v1", 2, 1, (Label,), "the request's id")
    registry = TopicRegistry([topic])
    metadata = sa.MetaData()
    outbox_tables(metadata)
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as directory:
        url = f"sqlite+aiosqlite:///{Path(directory) / 'bench.sqlite'}"
        async with (
            Database(DatabaseConfig(url=url)) as database,
            EventProducer(kafka, registry=registry) as producer,
        ):
            async with database.engine.begin() as connection:
                await connection.run_sync(metadata.create_all)
            yield _Bench(kafka, registry, topic, producer, database)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([topic.name, dead_letter_topic(topic.name)])
    finally:
        await admin.close()


def _events(count: int) -> list[Event]:
    return [_event(str(number)) for number in range(count)]


def _event(request_id: str) -> Event:
    label = Label(endpoint="bench", tessera_request_id=request_id, value=1.0)
    label.observed_at.GetCurrentTime()
    return new_event(label, source="bench", key=request_id)


async def _raw_rate(bench: _Bench) -> float:
    """A bare consumer that only counts, and commits after each poll."""
    countdown = Countdown(RECORDS_WARM, RECORDS)
    consumer = AIOKafkaConsumer(
        bench.topic.name,
        bootstrap_servers=bench.kafka.bootstrap,
        group_id=unique_name("bench-raw"),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,
    )

    async def run() -> None:
        async with consumer:
            while True:
                found = await consumer.getmany(timeout_ms=1_000, max_records=5_000)
                if found:
                    await consumer.commit()
                    countdown.add(sum(map(len, found.values())))

    return await _while_running(run, countdown.rate)


async def _batch_rate(bench: _Bench) -> float:
    countdown = Countdown(RECORDS_WARM, RECORDS)

    async def handle(records: Sequence[ConsumedRecord]) -> None:
        countdown.add(len(records))

    consumer = BatchConsumer(
        bench.kafka,
        group=unique_name("bench-batch"),
        topics=[bench.topic.name],
        handle=handle,
        registry=bench.registry,
        max_wait=0.0,
    )
    return await _while_running(consumer.run, countdown.rate)


async def _runner_rate(bench: _Bench) -> float:
    countdown = Countdown(EVENTS_WARM, EVENTS)

    async def on_label(event: Event, uow: UnitOfWork) -> None:
        countdown.add(1)

    return await _while_running(_runner(bench, on_label).run, countdown.rate)


async def _latencies(bench: _Bench) -> list[float]:
    """Milliseconds from before an event is published until it is handled."""
    handled: asyncio.Queue[str] = asyncio.Queue()
    found: list[float] = []

    async def on_label(event: Event, uow: UnitOfWork) -> None:
        handled.put_nowait(event.id)

    async def until(event_id: str) -> None:
        async with asyncio.timeout(_LIMIT_SECONDS):
            while await handled.get() != event_id:
                pass

    async def singles() -> list[float]:
        first = _event("first")
        await bench.producer.publish(first)
        await until(first.id)
        for number in range(SINGLES):
            event = _event(f"single-{number}")
            began = perf_counter()
            await bench.producer.publish(event)
            await until(event.id)
            found.append((perf_counter() - began) * 1e3)
        return found

    return await _while_running(_runner(bench, on_label).run, singles)


def _runner(
    bench: _Bench, handler: Callable[[Event, UnitOfWork], Awaitable[None]]
) -> ConsumerRunner:
    return ConsumerRunner(
        bench.kafka,
        group=unique_name("bench-runner"),
        handlers={Label: handler},
        unit_of_work=lambda: UnitOfWork(bench.database),
        dead_letters=bench.producer,
        registry=bench.registry,
    )


async def _while_running(
    run: Callable[[], Awaitable[None]], question: Callable[[], Awaitable[Found]]
) -> Found:
    """What `question` answers while `run` runs."""
    running = asyncio.ensure_future(run())
    asking = asyncio.ensure_future(question())
    try:
        await asyncio.wait([running, asking], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        return await asking
    finally:
        asking.cancel()
        running.cancel()
        await asyncio.wait([running, asking])
