"""Handling: what shares a transaction, what a failure costs, and how it ends when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from tessera_kit.bus.dead_letters import HEADER_PREFIX, DeadLetters
from tessera_kit.bus.envelope import ConsumedRecord, to_record
from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.handling import EventHandling, Stopping
from tessera_kit.bus.memory import InMemoryBus
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.bus.topics import Topic, TopicRegistry
from tessera_kit.errors import FailedPrecondition, Unavailable
from tests.helpers import eventually

TOPIC = "test.values.v1"
REGISTRY = TopicRegistry([Topic(TOPIC, 1, 1, (Int64Value, StringValue), "any")])
QUICK = RetryPolicy(initial_seconds=0.001, maximum_seconds=0.01)


class Store:
    """What committed units of work left, transaction by transaction."""

    def __init__(self) -> None:
        self.claimed: set[str] = set()
        self.transactions: list[list[int]] = []
        self.broken_commits = 0


class Unit:
    """A transaction over a Store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.claims: set[str] = set()
        self.effects: list[int] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def claim_events(self, group: str, event_ids: Sequence[str]) -> set[str]:
        assert len(event_ids) == len(set(event_ids))
        fresh = set(event_ids) - self._store.claimed
        self.claims |= fresh
        return set(fresh)

    async def commit(self) -> None:
        if self._store.broken_commits:
            self._store.broken_commits -= 1
            raise Unavailable("the database is away")
        self._store.claimed |= self.claims
        self._store.transactions.append(self.effects)


def records(values: Sequence[int], ids: Sequence[str] | None = None) -> list[ConsumedRecord]:
    made = []
    for offset, value in enumerate(values):
        event = new_event(
            Int64Value(value=value),
            source="test",
            key="k",
            event_id=None if ids is None else ids[offset],
        )
        record = to_record(event, REGISTRY)
        made.append(ConsumedRecord(TOPIC, 0, offset, 0, record.key, record.value, record.headers))
    return made


class Setting:
    def __init__(self, **settings: Any) -> None:
        self.store = Store()
        self.bus = InMemoryBus(REGISTRY)
        self.calls: list[int] = []
        self.refused: set[int] = set()
        self.away: dict[int, int] = {}
        self.offsets: list[int] = []
        self.stop = asyncio.Event()
        self.handling = EventHandling(
            group="group",
            handlers={Int64Value: self.handle},
            dead_letters=DeadLetters(self.bus),
            registry=REGISTRY,
            **{"unit_of_work": lambda: Unit(self.store), "retry": QUICK, **settings},
        )

    async def handle(self, event: Event, unit: Unit | None) -> None:
        value: int = event.data.value  # type: ignore[attr-defined]
        self.calls.append(value)
        if value in self.refused:
            raise FailedPrecondition("refused")
        if self.away.get(value):
            self.away[value] -= 1
            raise Unavailable("away")
        if unit is not None:
            unit.effects.append(value)

    async def run(self, batch: Sequence[ConsumedRecord]) -> None:
        await self.handling.handle(
            batch, self.stop, lambda record: self.offsets.append(record.offset)
        )

    @property
    def effects(self) -> list[int]:
        return [value for effects in self.store.transactions for value in effects]


async def test_events_share_transactions_and_offsets_follow_them() -> None:
    setting = Setting(transaction_seconds=60)
    await setting.run(records(range(1000)))
    assert setting.effects == setting.calls == list(range(1000))
    sizes = [len(effects) for effects in setting.store.transactions]
    assert sizes[0] == 8
    assert max(sizes) == 256
    assert [offset + 1 for offset in setting.offsets] == [
        sum(sizes[: n + 1]) for n in range(len(sizes))
    ]


async def test_slow_transactions_become_shorter() -> None:
    setting = Setting(transaction_seconds=0)
    await setting.run(records(range(100)))
    assert setting.effects == list(range(100))
    assert [len(effects) for effects in setting.store.transactions[-10:]] == [2] * 10


async def test_a_bad_event_costs_only_itself() -> None:
    setting = Setting()
    setting.refused = {5}
    await setting.run(records(range(20)))
    assert setting.effects == [n for n in range(20) if n != 5]
    assert setting.offsets[-1] == 19
    (letter,) = setting.bus.dead_letters(TOPIC)
    assert dict(letter.headers)[HEADER_PREFIX + "attempts"] == b"1"


async def test_a_doubled_event_in_one_transaction_has_one_effect() -> None:
    setting = Setting()
    await setting.run(records([1, 1, 2, 1], ids=["a", "a", "b", "a"]))
    await setting.run(records([1, 3], ids=["a", "c"]))
    assert setting.effects == [1, 2, 3]


async def test_a_commit_that_fails_is_tried_again_with_a_fresh_transaction() -> None:
    setting = Setting()
    setting.store.broken_commits = 3
    await setting.run(records([1, 2]))
    assert setting.effects == [1, 2]
    assert setting.calls.count(1) > 1


async def test_types_without_a_handler_are_passed_over_without_a_note() -> None:
    setting = Setting()
    text = to_record(new_event(StringValue(value="x"), source="test", key="k"), REGISTRY)
    other = ConsumedRecord(TOPIC, 0, 0, 0, text.key, text.value, text.headers)
    await setting.run([other, other])
    assert (setting.calls, setting.store.claimed, setting.offsets[-1]) == ([], set(), 0)


async def test_nothing_new_begins_after_stop() -> None:
    setting = Setting()
    setting.stop.set()
    with pytest.raises(Stopping):
        await setting.run(records([1, 2]))
    assert (setting.calls, setting.offsets) == ([], [])


@pytest.mark.parametrize("transactional", [True, False])
async def test_stop_ends_the_wait_for_another_attempt(transactional: bool) -> None:
    settings: dict[str, Any] = {} if transactional else {"unit_of_work": None}
    slow = RetryPolicy(initial_seconds=600, maximum_seconds=600, budget_seconds=None)
    setting = Setting(retry=slow, **settings)
    setting.away = {2: 1000}
    task = asyncio.ensure_future(setting.run(records([1, 2, 3])))
    await eventually(lambda: setting.calls.count(2) == (2 if transactional else 1))
    setting.stop.set()
    with pytest.raises(Stopping):
        await asyncio.wait_for(task, timeout=5)
    assert setting.offsets == [0]
    assert setting.bus.dead_letters(TOPIC) == []


async def test_without_transactions_each_event_is_done_with_on_its_own() -> None:
    setting = Setting(unit_of_work=None)
    setting.away = {1: 2}
    setting.refused = {3}
    await setting.run(records(range(5)))
    assert setting.calls == [0, 1, 1, 1, 2, 3, 4]
    assert setting.offsets == list(range(5))
    assert len(setting.bus.dead_letters(TOPIC)) == 1


async def test_a_dead_letter_waits_for_the_bus() -> None:
    setting = Setting()
    setting.refused = {1}
    publish = setting.bus.publish_records
    failures = 2

    async def flaky(letters: Any) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise Unavailable("the bus is away")
        await publish(letters)

    setting.bus.publish_records = flaky  # type: ignore[method-assign]
    await setting.run(records([1]))
    assert len(setting.bus.dead_letters(TOPIC)) == 1
    assert setting.offsets == [0]


async def test_a_dead_letter_that_dies_again_keeps_only_its_last_reason() -> None:
    setting = Setting()
    setting.refused = {1}
    await setting.run(records([1]))
    (first,) = setting.bus.dead_letters(TOPIC)
    await setting.run([first])
    _, second = setting.bus.dead_letters(TOPIC)
    added = [name for name, _ in second.headers if name.startswith(HEADER_PREFIX)]
    assert len(added) == len(set(added))
    assert second.value == first.value
