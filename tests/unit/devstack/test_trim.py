"""What is removed from the embedded broker's logs, and the upkeep that does it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from hypothesis import given
from hypothesis import strategies as st

from devstack import Home, ProcessPhase
from devstack.bucket import StoredObject
from devstack.events import EventLog
from devstack.keeper import Keeper
from devstack.spec import Kind, ProcessSpec, Upkeep
from devstack.trim import (
    Claims,
    claims_of,
    partitions_to_trim,
    removable_batches,
    subscription,
)
from tests.helpers import eventually

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def batches(*offsets: int) -> Sequence[StoredObject]:
    return [StoredObject(f"records/{offset:020}.batch", "", NOW) for offset in offsets]


def offsets(found: Sequence[StoredObject]) -> list[int]:
    return [int(one.key[-26:-6]) for one in found]


def member_of(*topics: str, kind: str | None = "consumer", formed: bool = True) -> dict[str, Any]:
    """A group's file as Tansu writes it, as far as it is read."""
    metadata = RoundRobinPartitionAssignor.metadata(list(topics)).encode()
    members = {"one": {"join_response": {"metadata": list(metadata)}}}
    return {
        "members": members,
        "state": {"Formed" if formed else "Forming": {"protocol_type": kind}},
    }


@given(
    st.sets(st.integers(0, 400), max_size=40).map(sorted), st.integers(0, 450), st.integers(1, 10)
)
def test_only_what_lies_whole_below_the_passed_offset_is_removed(
    begins: list[int], passed: int, kept: int
) -> None:
    removed = offsets(removable_batches(batches(*begins), passed, kept))
    assert removed == begins[: len(removed)]
    left = begins[len(removed) :]
    if removed:
        # The next batch begins at or before the offset, and so many that are passed stay.
        assert left[0] <= passed
        assert len([end for end in left[1:] if end <= passed]) == kept
    else:
        assert len([end for end in begins[1:] if end <= passed]) <= kept


def test_a_batch_that_a_group_is_in_the_middle_of_is_kept() -> None:
    assert offsets(removable_batches(batches(0, 10, 20, 30), passed=25, kept=1)) == [0]
    assert offsets(removable_batches(batches(0, 10, 20, 30), passed=29, kept=1)) == [0]
    assert offsets(removable_batches(batches(0, 10, 20, 30), passed=30, kept=1)) == [0, 10]


def test_the_slowest_group_of_a_topic_decides() -> None:
    claims = claims_of(
        {
            "fast/offsets/t/partitions/0000000000.json": {"offset": 9},
            "fast/offsets/t/partitions/0000000001.json": {"offset": 7},
            "of/a/path/offsets/t/partitions/0000000000.json": {"offset": 4},
            "elsewhere/offsets/u/partitions/0000000000.json": {"offset": 1},
        }
    )
    assert claims.readers["t"] == {"fast", "of/a/path"}
    assert claims.passed(("t", 0)) == 4
    # One of them has committed nothing here, so it may have everything to read yet.
    assert claims.passed(("t", 1)) == 0
    assert claims.passed(("u", 0)) == 1


def test_a_member_holds_what_it_subscribes_to_before_its_first_commit() -> None:
    committed = {"fast/offsets/t/partitions/0000000000.json": {"offset": 9}}
    for formed in (True, False):
        joined = {"new.json": member_of("s", "t", formed=formed), "fast.json": member_of("t")}
        claims = claims_of(committed | joined)
        assert claims.readers["t"] == {"fast", "new"}
        assert claims.passed(("t", 0)) == 0
    others = {"workers.json": member_of("t", kind="connect")}
    assert claims_of(committed | others).passed(("t", 0)) == 9
    assert Claims({}, {}).passed(("t", 0)) == 0


def test_topics_are_read_from_a_members_metadata() -> None:
    for topics in ([], ["one"], ["one", "tessera.two.v1", "é"]):
        metadata = RoundRobinPartitionAssignor.metadata(topics).encode()
        assert subscription(metadata) == topics


def test_only_topics_that_keep_records_for_a_time_are_trimmed() -> None:
    def topic(**configs: str) -> dict[str, Any]:
        named = [
            {"name": name.replace("_", "."), "value": value} for name, value in configs.items()
        ]
        return {"name": "t", "num_partitions": 2, "configs": named}

    assert partitions_to_trim(topic(retention_ms="1000")) == [("t", 0), ("t", 1)]
    assert partitions_to_trim(topic()) == ()
    assert partitions_to_trim(topic(retention_ms="-1")) == ()
    assert partitions_to_trim(topic(retention_ms="1000", cleanup_policy="compact,delete")) == ()
    assert partitions_to_trim({"name": "t", "num_partitions": 1, "configs": None}) == ()


async def test_upkeep_goes_on_after_a_round_that_failed_and_ends_with_the_process(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    for folder in (home.log_file("idle").parent, home.events_file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    rounds = SimpleNamespace(begun=0)

    async def healthy() -> None:
        return

    async def work() -> None:
        rounds.begun += 1
        if rounds.begun == 1:
            raise ValueError("the store is away")

    spec = ProcessSpec(
        name="idle",
        kind=Kind.ENGINE,
        command=(sys.executable, "-c", "import signal; signal.pause()"),
        environment=dict(os.environ),
        directory=tmp_path,
        probe=healthy,
        doors={},
        upkeep=Upkeep(work, interval_seconds=0.01),
    )
    keeper = Keeper(spec, home, {}, EventLog(home.events_file), lambda: None)
    keeping = asyncio.create_task(keeper.keep())
    await eventually(lambda: rounds.begun > 2)
    assert keeper.state.state is ProcessPhase.HEALTHY
    assert "the store is away" in home.events_file.read_text()
    await keeper.stop()
    await keeping
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
