"""The archive of points in ClickHouse: large inserts, and reads that see each point once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa

from services.tracking.adapters.clickhouse.tables import Tables
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Points
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.clickhouse_errors import TableNotFound

__all__ = ["ClickHousePoints"]

_INSERT: Final = (
    "INSERT INTO metric_points (run_id, key, step, timestamp, value) FORMAT ArrowStream"
)
# FINAL: repeated points may lie in several parts until ClickHouse has merged them.
_HISTORY: Final = (
    "SELECT step, toUnixTimestamp64Micro(timestamp) AS at, value FROM metric_points FINAL "
    "WHERE run_id = {run_id:String} AND key = {key:String} AND step >= {step:Int64} "
    "AND (step, toUnixTimestamp64Micro(timestamp), isNaN(value), if(isNaN(value), 0, value)) "
    "> ({step:Int64}, {at:Int64}, {is_nan:UInt8}, {value:Float64}) "
    "ORDER BY step, timestamp, value LIMIT {limit:UInt32}"
)
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
        await self._client.insert_bytes(_INSERT, data)

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


def _arrow(points: Mapping[str, Points]) -> bytes:
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
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
