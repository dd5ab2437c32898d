"""Twins in memory of the inference tables and of the log that their rows come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np

from services.inference.domain.bodies import Side, StoredBody
from services.inference.domain.canary import FAULTS, Sight
from services.inference.domain.endpoint import InferenceTable
from services.inference.domain.explanation import KeptRequest
from services.inference.errors import SpoolFull, StoreUnavailable
from services.inference.ports import RowCount, TableStatistics
from services.inference.sink.rows import Row

__all__ = ["InMemoryCapture", "InMemoryPayloads"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class InMemoryPayloads:
    """`ports.PayloadStore` and `ports.TableReader`; it can fail as a database does."""

    def __init__(self) -> None:
        self.fail_after_insert = False
        """Make the next insert happen and be reported as failed."""
        self.hide = False
        """Pretend until the next insert that no row is there, as for one that has not ended yet."""
        self.lose_insert = False
        """Make the next insert fail with its token noted and its rows lost, as a killed server."""
        self._rows: dict[InferenceTable, list[Row]] = {}
        self._tokens: set[tuple[InferenceTable, str]] = set()

    def rows(self, table: InferenceTable) -> list[Row]:
        """What a table holds."""
        return list(self._rows.get(table, ()))

    async def body(self, table: InferenceTable, request_id: str, side: Side) -> StoredBody | None:
        """What the row of a request holds of a body."""
        for row in self._rows.get(table, ()):
            if row.request_id == request_id:
                values = row.values
                codes = tuple(values["logging_error_codes"])
                return StoredBody(
                    *(_day(row), values[side.value], values[f"{side.value}_object"], codes)
                )
        return None

    async def kept(self, table: InferenceTable, request_id: str) -> KeptRequest | None:
        """The row of a request."""
        for row in self._rows.get(table, ()):
            if row.request_id == request_id and not self.hide:
                return _kept(row)
        return None

    async def kept_of_client(
        self, table: InferenceTable, client_request_id: str, limit: int
    ) -> Sequence[KeptRequest]:
        """The newest requests that their callers gave an id."""
        found = [
            _kept(row)
            for row in self._rows.get(table, ())
            if row.values["client_request_id"] == client_request_id
            and row.values["route"] != "SHADOW"
        ]
        return sorted(found, key=lambda one: one.request_id, reverse=True)[:limit]

    async def days_with_bodies(
        self, table: InferenceTable, days: Sequence[date]
    ) -> frozenset[date]:
        """On which of the days requests arrived whose rows name an object."""
        found = {
            _day(row)
            for row in self._rows.get(table, ())
            if row.values["request_object"] or row.values["response_object"]
        }
        return frozenset(days) & found

    def expire(self, table: InferenceTable, before: date) -> None:
        """Drop the rows of earlier days, as a table's TTL does."""
        rows = self._rows.get(table, [])
        self._rows[table] = [row for row in rows if _day(row) >= before]

    async def statistics(self, table: InferenceTable, since: datetime | None) -> TableStatistics:
        """Count the rows; nobody tells when they were written, so their lag is zero."""
        micros = 0 if since is None else int(since.timestamp() * 1_000_000)
        rows = [row for row in self._rows.get(table, ()) if row.request_us >= micros]
        entities = Counter(
            (row.values["served_entity_id"], row.values["model_version"]) for row in rows
        )
        none = timedelta()
        newest = max((row.request_us for row in rows), default=None)
        return TableStatistics(
            rows=len(rows),
            distinct_requests=len({row.request_id for row in rows}),
            errors=sum(row.values["status_code"] != 0 for row in rows),
            lag_p50=none,
            lag_p99=none,
            lag_max=none,
            by_served_entity=tuple(
                RowCount(name, version, count)
                for (name, version), count in sorted(entities.items())
            ),
            newest_request=(None if newest is None else _EPOCH + timedelta(microseconds=newest)),
        )

    async def sight(
        self, table: InferenceTable, config_version: int, entity: str, since: datetime
    ) -> Sight:
        """What the requests since then say of a served entity."""
        micros = (since - _EPOCH) // timedelta(microseconds=1)
        rows = [
            (row.values, 1 / (row.values["sampling_fraction"] or 1))
            for row in self._rows.get(table, ())
            if row.request_us >= micros
            and row.values["config_version"] == config_version
            and row.values["route"] in ("PRIMARY", "FALLBACK")
        ]
        own = [pair for pair in rows if pair[0]["served_entity_id"] == entity]
        passed = [pair for pair in rows if entity in pair[0]["failed_entity_ids"]]
        failed = [pair for pair in own if pair[0]["status_code"] in FAULTS]
        times = [values["execution_duration_ms"] for values, _ in own]
        others = [
            values["execution_duration_ms"]
            for values, _ in rows
            if values["served_entity_id"] != entity
        ]
        return Sight(
            requests=round(sum(weight for _, weight in own + passed)),
            errors=round(sum(weight for _, weight in failed + passed)),
            p99_ms=float(np.quantile(times, 0.99)) if times else 0.0,
            others_p99_ms=float(np.quantile(others, 0.99)) if others else 0.0,
        )

    async def existing(self, table: InferenceTable, request_ids: Sequence[str]) -> frozenset[str]:
        """Which of the request ids have a row."""
        if self.hide:
            return frozenset()
        return frozenset(request_ids) & {row.request_id for row in self._rows.get(table, ())}

    async def insert(self, table: InferenceTable, rows: Sequence[Row], token: str) -> None:
        """Write rows."""
        self.hide = False
        if (table, token) not in self._tokens:
            self._tokens.add((table, token))
            if self.lose_insert:
                self.lose_insert = False
                raise StoreUnavailable("the connection broke")
            self._rows.setdefault(table, []).extend(rows)
        if self.fail_after_insert:
            self.fail_after_insert = False
            raise StoreUnavailable("the connection broke")


def _kept(row: Row) -> KeptRequest:
    requested_at = _EPOCH + timedelta(microseconds=row.request_us)
    return KeptRequest.of({**row.values, "request_time": requested_at})


def _day(row: Row) -> date:
    return (_EPOCH + timedelta(microseconds=row.request_us)).date()


class InMemoryCapture:
    """`ports.Capture` as a list.

    Args:
        room: Most bytes that it holds.
    """

    def __init__(self, room: int = 1 << 30) -> None:
        self.records: list[bytes] = []
        self.begun: dict[str, bytes] = {}
        self._room = room

    def append(self, *parts: bytes) -> None:
        """Keep a record."""
        record = b"".join(parts)
        self._take(len(record))
        self.records.append(record)

    def begin(self, name: str, record: bytes) -> None:
        """Note an answer in parts whose model is about to be asked."""
        self._take(len(record))
        self.begun[name] = record

    def add(self, name: str, more: bytes) -> None:
        """Add to what was noted."""
        if name in self.begun and len(more) <= self._room:
            self._take(len(more))
            self.begun[name] += more

    def end(self, name: str) -> None:
        """Forget what was noted."""
        self._room += len(self.begun.pop(name, b""))

    def _take(self, size: int) -> None:
        if size > self._room:
            raise SpoolFull("the log of payloads is full", retry_after=5.0)
        self._room -= size
