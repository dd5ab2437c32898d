"""What is done before offsets are committed, and since when a member works alone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from tessera_kit.bus.continuity import Continuity
from tessera_kit.bus.membership import OffsetCommitter
from tessera_kit.bus.producer import BusUnavailable
from tests.helpers import eventually

PARTITION = TopicPartition("test.committing.v1", 0)


class Group:
    """The part of the client that commits."""

    def __init__(self, order: list[str]) -> None:
        self._order = order

    async def commit(self, offsets: dict[TopicPartition, Any]) -> None:
        self._order.append(f"commit {offsets[PARTITION].offset}")


async def test_nothing_is_committed_before_what_must_be_done_first() -> None:
    order: list[str] = []
    failures = [BusUnavailable("away")]

    async def before() -> None:
        committer.done(PARTITION, 8)  # What is done meanwhile waits for the next time.
        if failures:
            order.append("failed")
            raise failures.pop()
        order.append("done")

    committer = OffsetCommitter(Group(order), "group", 0.0, before)
    committer.done(PARTITION, 7)
    task = asyncio.create_task(committer.run())

    await eventually(lambda: order == ["failed", "done", "commit 8"])
    task.cancel()
    await asyncio.wait([task])
    order.clear()
    failures.append(BusUnavailable("away"))
    committer.done(PARTITION, 9)
    await committer.finish([PARTITION])
    assert order == ["failed"]


def test_a_member_that_stood_still_is_not_sure_to_be_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    continuity = Continuity(2.0)
    for moment in (101.5, 103.0):
        now = moment
        continuity.beat()
    assert continuity.breaks == 0
    now = 105.5
    continuity.beat()
    assert continuity.breaks == 1
    continuity.end()
    assert continuity.breaks == 2
