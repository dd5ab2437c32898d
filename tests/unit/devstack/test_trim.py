"""What is removed from the embedded broker's logs, and the upkeep that does it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from hypothesis import given
from hypothesis import strategies as st

from devstack import Home, ProcessPhase
from devstack.bucket import LARGEST_PAGE, Bucket, NotFound, Page, StoredObject
from devstack.events import EventLog
from devstack.keeper import Keeper
from devstack.secrets import Credentials
from devstack.spec import Kind, ProcessSpec, Upkeep
from devstack.trim import (
    Claims,
    Trimmer,
    TrimRules,
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


class KeptBucket(Bucket):
    """A bucket in memory that counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 1, "tansu", "us-east-1", Credentials("key", "secret"))
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.listed: list[str] = []

    def put(self, key: str, content: Any = "", modified: datetime = NOW) -> None:
        self.objects[f"clusters/c/{key}"] = json.dumps(content).encode(), modified

    def commit(self, group: str, offset: int) -> None:
        self.put(
            f"groups/consumers/{group}/offsets/t/partitions/0000000000.json", {"offset": offset}
        )

    def batches(self) -> list[int]:
        return [int(key[-26:-6]) for key in sorted(self.objects) if key.endswith(".batch")]

    def page(self, prefix: str, token: str = "") -> Page:
        self.listed.append(prefix)
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > token)
        found = [
            StoredObject(key, self.objects[key][0].hex(), self.objects[key][1])
            for key in keys[:LARGEST_PAGE]
        ]
        return Page(found, found[-1].key if len(keys) > LARGEST_PAGE else "")

    def read(self, key: str) -> bytes:
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key][0]

    def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            del self.objects[key]


def bucket_with(batches: int, modified: datetime = NOW) -> KeptBucket:
    """A log of topic `t`, each batch of one record."""
    bucket = KeptBucket()
    configs = [{"name": "retention.ms", "value": "1000"}]
    topic = {"name": "t", "num_partitions": 1, "configs": configs}
    bucket.put("meta.json", {"topics": {"t": {"topic": topic}}})
    for offset in range(batches):
        bucket.put(f"topics/t/partitions/0000000000/records/{offset:020}.batch", "", modified)
    return bucket


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
    assert claims.slowest(("t", 0)) == (4, ["of/a/path"])
    # One of them has committed nothing here, so it may have everything to read yet.
    assert claims.slowest(("t", 1)) == (0, ["of/a/path"])
    assert claims.slowest(("u", 0)) == (1, ["elsewhere"])


def test_a_member_holds_what_it_subscribes_to_before_its_first_commit() -> None:
    committed = {"fast/offsets/t/partitions/0000000000.json": {"offset": 9}}
    for formed in (True, False):
        joined = {"new.json": member_of("s", "t", formed=formed), "fast.json": member_of("t")}
        claims = claims_of(committed | joined)
        assert claims.readers["t"] == {"fast", "new"}
        assert claims.slowest(("t", 0)) == (0, ["new"])
    others = {"workers.json": member_of("t", kind="connect")}
    assert claims_of(committed | others).slowest(("t", 0)) == (9, ["fast"])
    assert Claims({}, {}).slowest(("t", 0)) == (0, [])


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


def test_a_long_log_of_before_is_shortened_round_by_round_and_then_left_alone() -> None:
    bucket = bucket_with(2 * LARGEST_PAGE + 500)
    bucket.commit("g", 2 * LARGEST_PAGE + 500)
    trimmer = Trimmer(lambda: bucket, "c", TrimRules(kept=100))
    rounds = [trimmer.run() for _ in range(6)]
    assert sum(rounds) == 2 * LARGEST_PAGE + 500 - 101
    assert max(rounds) < LARGEST_PAGE
    assert rounds[-1] == 0
    assert bucket.batches() == [*range(2 * LARGEST_PAGE + 399, 2 * LARGEST_PAGE + 500)]
    # As long as no group moves, a round lists the groups alone.
    bucket.listed.clear()
    assert trimmer.run() == 0
    assert bucket.listed == ["clusters/c/groups/consumers/"]


def test_young_batches_are_kept_until_they_are_old() -> None:
    now = datetime.now(UTC)
    bucket = bucket_with(50, modified=now)
    bucket.commit("g", 50)
    trimmer = Trimmer(lambda: bucket, "c", TrimRules(kept=10, age=timedelta(hours=1)))
    assert trimmer.run() == 0
    for key, (content, _) in bucket.objects.items():
        bucket.objects[key] = content, now - timedelta(hours=2)
    assert trimmer.run() == 39


def test_who_holds_a_long_log_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    bucket = bucket_with(LARGEST_PAGE + 200)
    bucket.commit("fast", LARGEST_PAGE)
    bucket.commit("given up", 7)
    trimmer = Trimmer(lambda: bucket, "c", TrimRules(kept=1))
    trimmer.run()
    assert bucket.batches() == [*range(6, LARGEST_PAGE + 200)]
    trimmer.run()
    (warning,) = [one.getMessage() for one in caplog.records]
    assert warning.startswith("t/0: more than a thousand batches wait for given up at offset 7")


def test_a_topic_that_no_group_reads_and_a_store_without_topics_are_left_alone() -> None:
    bucket = bucket_with(300)
    assert Trimmer(lambda: bucket, "c", TrimRules(kept=1)).run() == 0
    assert bucket.listed == ["clusters/c/groups/consumers/"]
    assert Trimmer(KeptBucket, "c").run() == 0


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
    await eventually(lambda: not any("Keeper._tend" in repr(one) for one in asyncio.all_tasks()))
