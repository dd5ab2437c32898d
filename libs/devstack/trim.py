"""Keeps the embedded broker's logs short: what every group has passed is removed from the store.

Tansu keeps each batch of a partition as an object and lists all of them to answer a fetch, and it
never removes one. It reads the listing anew each time, so that a removed batch is simply not there:
`earliest` is the first one left, and a fetch from before it begins there.

A batch is removed when all of this holds:

- its topic declares a time for which it keeps records (`retention.ms`) and is not compacted;
- a group reads the topic, and every group that does has committed past the batch. A group reads a
  topic when it has committed an offset of it, in any partition, or has a member that subscribes to
  it; where it has committed none in a partition, it has passed nothing there;
- it is older than `TrimRules.age` and not among the newest `TrimRules.kept` that are passed.

Readers without a group are not known to the broker and hold nothing.
"""

from __future__ import annotations

import json
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from devstack.bucket import Bucket, NotFound, StoredObject
from devstack.events import log

_OFFSET = re.compile(r"(?P<group>.+)/offsets/(?P<topic>[^/]+)/partitions/(?P<partition>\d+)\.json")

_HELD = (
    "%s/%d: more than a thousand batches wait for %s at offset %d, which makes reading new ones "
    "slow; delete a group that is given up"
)

Partition = tuple[str, int]


@dataclass(frozen=True)
class TrimRules:
    """What is kept although every group has passed it."""

    kept: int = 100
    """Newest batches of a partition, so that who looks finds something. At least one."""
    age: timedelta = timedelta(minutes=5)
    """Younger batches: the groups of a stack that is starting join one after another."""


@dataclass(frozen=True)
class Claims:
    """How far the groups have come."""

    committed: Mapping[tuple[str, Partition], int]
    """The offset that a group reads next in a partition, where it has committed one."""
    readers: Mapping[str, frozenset[str]]
    """The groups that read a topic."""

    def slowest(self, partition: Partition) -> tuple[int, Sequence[str]]:
        """The offset below which every group has read, and the groups that are no further.

        Without any group it is 0.
        """
        groups = sorted(self.readers.get(partition[0], ()))
        offsets = {group: self.committed.get((group, partition), 0) for group in groups}
        passed = min(offsets.values(), default=0)
        return passed, [group for group in groups if offsets[group] == passed]


class Trimmer:
    """Removes batches of one cluster, round by round.

    Args:
        bucket: Opens the bucket that the broker stores in.
        cluster: The broker's cluster id.
        rules: What is kept in any case.
    """

    def __init__(
        self, bucket: Callable[[], Bucket], cluster: str, rules: TrimRules | None = None
    ) -> None:
        self._bucket = bucket
        self._root = f"clusters/{cluster}/"
        self._rules = rules or TrimRules()
        self._known: dict[str, tuple[str, Any]] = {}
        self._settled: dict[Partition, int] = {}

    def run(self) -> int:
        """One round; returns how many batches were removed.

        A round removes at most a page of each partition, and asks nothing about a partition in
        which no group has moved since there was nothing left to remove.

        Raises:
            NotReady: The store refuses, or holds what this broker would not have written.
            OSError: The store does not answer.
        """
        with self._bucket() as bucket:
            claims = self._claims(bucket)
            return sum(
                self._trim(bucket, partition, *claims.slowest(partition))
                for topic in self._topics(bucket)
                for partition in partitions_to_trim(topic)
            )

    def _topics(self, bucket: Bucket) -> Sequence[Mapping[str, Any]]:
        try:
            topics = json.loads(bucket.read(f"{self._root}meta.json"))["topics"]
        except NotFound:
            return ()
        return [topic["topic"] for topic in topics.values()]

    def _claims(self, bucket: Bucket) -> Claims:
        prefix = f"{self._root}groups/consumers/"
        known = {
            one.key: self._known[one.key]
            if self._known.get(one.key, ("",))[0] == one.version
            else (one.version, json.loads(bucket.read(one.key)))
            for one in bucket.everything(prefix)
        }
        self._known = known
        return claims_of({key.removeprefix(prefix): value for key, (_, value) in known.items()})

    def _trim(
        self, bucket: Bucket, partition: Partition, passed: int, slowest: Sequence[str]
    ) -> int:
        if not slowest or self._settled.get(partition) == passed:
            return 0
        topic, number = partition
        page = bucket.page(f"{self._root}topics/{topic}/partitions/{number:010}/records/")
        now = datetime.now(UTC)
        removable = removable_batches(page.objects, passed, self._rules.kept)
        old = [one.key for one in removable if now - one.modified >= self._rules.age]
        if old:
            bucket.remove(old)
            log.debug("%s/%d: removed %d batches that every group has passed", *partition, len(old))
        all_seen = not page.token or _offset(page.objects[-1]) >= passed
        if all_seen and len(old) == len(removable):
            self._settled[partition] = passed
            if page.token:
                log.warning(_HELD, *partition, ", ".join(slowest), passed)
        return len(old)


def removable_batches(
    batches: Sequence[StoredObject], passed: int, kept: int
) -> Sequence[StoredObject]:
    """The batches whose records all lie below `passed`, without the newest `kept` of them.

    `batches` are the first ones of a partition, by offset. A batch ends at the latest where the
    next begins; where the last one ends is not known here, so it is kept.
    """
    ends = [_offset(batch) for batch in batches[1:]]
    whole = [batch for batch, end in zip(batches, ends, strict=False) if end <= passed]
    return whole[: len(whole) - kept] if len(whole) > kept else []


def claims_of(files: Mapping[str, Any]) -> Claims:
    """The claims that the broker's files tell of, each by its key below `groups/consumers/`."""
    committed: dict[tuple[str, Partition], int] = {}
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for key, content in files.items():
        if found := _OFFSET.fullmatch(key):
            group, topic = found["group"], found["topic"]
            committed[group, (topic, int(found["partition"]))] = content["offset"]
            readers[topic].add(group)
        else:
            for topic in _subscribed(content):
                readers[topic].add(key.removesuffix(".json"))
    return Claims(committed, {topic: frozenset(groups) for topic, groups in readers.items()})


def partitions_to_trim(topic: Mapping[str, Any]) -> Sequence[Partition]:
    """The partitions of a topic that says that it keeps its records for a time only, else none."""
    configs = {one["name"]: one["value"] for one in topic.get("configs") or ()}
    kept_for_ever = configs.get("retention.ms") in (None, "-1")
    if kept_for_ever or "compact" in (configs.get("cleanup.policy") or ""):
        return ()
    return [(topic["name"], number) for number in range(topic["num_partitions"])]


def _subscribed(group: Mapping[str, Any]) -> Iterable[str]:
    (state,) = group["state"].values()
    if state["protocol_type"] not in (None, "consumer"):
        return  # The members of other kinds of group say something else in their metadata.
    for member in group["members"].values():
        yield from subscription(bytes(member["join_response"]["metadata"]))


def subscription(metadata: bytes) -> Sequence[str]:
    """The topics of a member's `ConsumerProtocolSubscription`, of any version."""
    (count,) = struct.unpack_from(">i", metadata, 2)
    topics, position = [], 6
    for _ in range(count):
        (length,) = struct.unpack_from(">h", metadata, position)
        position += 2
        topics.append(metadata[position : position + length].decode())
        position += length
    return topics


def _offset(batch: StoredObject) -> int:
    return int(batch.key.rpartition("/")[2].removesuffix(".batch"))
