"""The archive of points in ClickHouse: large inserts, and reads that see each point once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

import numpy as np
import pyarrow as pa

from services.tracking.adapters.clickhouse.tables import Tables
from services.tracking.domain.buckets import Bucket, Steps, bucket_width
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Points
from services.tracking.ports.store import POINT_SCHEMA
from tessera_kit.arrow import arrow_stream
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.clickhouse_errors import TableNotFound

__all__ = ["ClickHousePoints"]

# FINAL: repeated points may lie in several parts until ClickHouse has merged them.
_HISTORY: Final = (
    "SELECT step, toUnixTimestamp64Micro(timestamp) AS at, value FROM metric_points FINAL "
    "WHERE run_id = {run_id:String} AND key = {key:String} AND step >= {step:Int64} "
    "AND (step, toUnixTimestamp64Micro(timestamp), isNaN(value), if(isNaN(value), 0, value)) "
    "> ({step:Int64}, {at:Int64}, {is_nan:UInt8}, {value:Float64}) "
    "ORDER BY step, timestamp, value LIMIT {limit:UInt32}"
)
_OF_METRIC: Final = "FROM metric_points WHERE run_id = {run_id:String} AND key = {key:String} "
# The ends are where the order of the table begins and ends: no other point is looked at.
_ENDS: Final = (
    f"SELECT (SELECT step {_OF_METRIC} ORDER BY run_id, key, step LIMIT 1), "
    f"(SELECT step {_OF_METRIC} ORDER BY run_id DESC, key DESC, step DESC LIMIT 1)"
)
# More would begin to read what the ends do not need.
_ONE_THREAD: Final = {"max_threads": 1}
_NUMBERS: Final = "NOT isNaN(value)"
_BUCKET: Final = (
    "min(step), max(step), toUnixTimestamp64Micro(min(timestamp)), "
    "toUnixTimestamp64Micro(max(timestamp)), count(), countIf(isNaN(value)) AS nans, "
    f"if(nans = count(), nan, minIf(value, {_NUMBERS})), "
    f"if(nans = count(), nan, maxIf(value, {_NUMBERS})), avgIf(value, {_NUMBERS}) "
    "FROM metric_points FINAL WHERE run_id = {run_id:String} "
)
_BUCKETS: Final = (
    f"SELECT {_BUCKET} AND key = {{key:String}} "
    "AND step BETWEEN {first:Int64} AND {last:Int64} "
    # The difference wraps around as the conversion does, so it is right for any two steps.
    "GROUP BY intDiv(toUInt64(step - {first:Int64}), {width:UInt64}) AS bucket ORDER BY bucket"
)
_ALL_ENDS: Final = (
    "SELECT toString(key), min(step), max(step) FROM metric_points "
    "WHERE run_id = {run_id:String} AND key IN {keys:Array(String)} GROUP BY key"
)
_CURVES: Final = (
    "SELECT indexOf({keys:Array(String)}, toString(key)) AS place, "
    f"{_BUCKET} AND key IN {{keys:Array(String)}} "
    "GROUP BY place, intDiv(toUInt64(step - {firsts:Array(Int64)}[place]), "
    "{widths:Array(UInt64)}[place]) AS bucket ORDER BY place, bucket"
)
_EXPORT: Final = (
    "SELECT run_id, toString(key) AS key, step, timestamp, value FROM metric_points FINAL "
    "WHERE run_id IN {run_ids:Array(String)} AND (empty({keys:Array(String)}) "
    "OR key IN {keys:Array(String)}) ORDER BY run_id, key, step, timestamp, value"
)
_DELETE: Final = "DELETE FROM metric_points WHERE run_id IN {run_ids:Array(String)}"
# Runs that one statement names: their ids travel in its URL.
_RUNS_AT_ONCE: Final = 100
_BEFORE_ALL: Final = Point("", -(2**63), -1, -math.inf)


class ClickHousePoints:
    """The point archive in one table that drops repeated points when it merges.

    Args:
        client: Whose configured database is the service's own; made when points first arrive.
    """

    def __init__(self, client: ClickHouse) -> None:
        self._client = client
        self._tables = Tables(client)

    async def add(self, points: Mapping[str, Points]) -> None:
        """Store points durably."""
        await self._tables.make()
        data = await asyncio.to_thread(_arrow, points)
        await self._client.insert_bytes(
            "metric_points", POINT_SCHEMA.names, data, format="ArrowStream"
        )

    async def delete(self, run_ids: Collection[str]) -> None:
        """Forget all points of runs."""
        ordered = sorted(run_ids)
        with suppress(TableNotFound):
            for at in range(0, len(ordered), _RUNS_AT_ONCE):
                chosen = {"run_ids": ordered[at : at + _RUNS_AT_ONCE]}
                await self._client.command(_DELETE, chosen)

    async def history(
        self, run_id: str, key: str, *, after: Point | None, limit: int
    ) -> list[Point]:
        """Return points of a metric by step, time and value."""
        place = after or _BEFORE_ALL
        is_nan = place.value != place.value
        parameters = {
            "run_id": run_id,
            "key": key,
            "step": place.step,
            "at": place.timestamp,
            "is_nan": int(is_nan),
            "value": 0.0 if is_nan else place.value,
            "limit": limit,
        }
        try:
            rows = (await self._client.query(_HISTORY, parameters)).rows
        except TableNotFound:
            return []
        return [Point(key, step, timestamp, value) for step, timestamp, value in rows]

    async def buckets(self, run_id: str, key: str, steps: Steps, count: int) -> list[Bucket]:
        """Return a metric as buckets."""
        metric = {"run_id": run_id, "key": key}
        first, last = steps
        try:
            if first is None or last is None:
                [(least, greatest)] = (await self._client.query(_ENDS, metric, _ONE_THREAD)).rows
                first = least if first is None else first
                last = greatest if last is None else last
            if first is None or last is None or first > last:
                return []
            span = {"first": first, "last": last, "width": bucket_width(first, last, count)}
            rows = (await self._client.query(_BUCKETS, {**metric, **span})).rows
        except TableNotFound:
            return []
        return [Bucket(*row) for row in rows]

    async def curves(
        self, run_id: str, keys: Sequence[str], count: int
    ) -> Mapping[str, list[Bucket]]:
        """Return metrics as buckets."""
        chosen: dict[str, object] = {"run_id": run_id, "keys": list(keys)}
        try:
            rows = (await self._client.query(_ALL_ENDS, chosen)).rows
            ends = {key: (first, last) for key, first, last in rows}
            known = [key for key in keys if key in ends]
            if not known:
                return {}
            spans = {
                "keys": known,
                "firsts": [ends[key][0] for key in known],
                "widths": [bucket_width(*ends[key], count) for key in known],
            }
            rows = (await self._client.query(_CURVES, {**chosen, **spans})).rows
        except TableNotFound:
            return {}
        found: dict[str, list[Bucket]] = {key: [] for key in known}
        for place, *values in rows:
            found[known[place - 1]].append(Bucket(*values))
        return {key: buckets for key, buckets in found.items() if buckets}

    async def export(
        self, run_ids: Collection[str], keys: Collection[str]
    ) -> AsyncIterator[pa.RecordBatch]:
        """Return all points of runs as Arrow batches."""
        ordered = sorted(run_ids)
        for at in range(0, len(ordered), _RUNS_AT_ONCE):
            chosen = {"run_ids": ordered[at : at + _RUNS_AT_ONCE], "keys": sorted(keys)}
            try:
                async for batch in self._client.stream_arrow(_EXPORT, chosen):
                    yield batch.cast(POINT_SCHEMA)
            except TableNotFound:
                return


def _arrow(points: Mapping[str, Points]) -> memoryview:
    """Return points as an Arrow stream; names travel once."""
    runs = [run_id for run_id, added in points.items() if len(added)]
    blocks = [points[run_id] for run_id in runs]
    block = Points.joined(blocks)
    run_numbers = np.repeat(np.arange(len(runs)), [len(one) for one in blocks])
    table = pa.table(
        {
            "run_id": pa.DictionaryArray.from_arrays(run_numbers, pa.array(runs, pa.string())),
            "key": pa.DictionaryArray.from_arrays(block.numbers, pa.array(block.keys, pa.string())),
            "step": block.steps,
            "timestamp": pa.array(block.timestamps, pa.timestamp("us", "UTC")),
            "value": block.values,
        }
    )
    return arrow_stream(table)
