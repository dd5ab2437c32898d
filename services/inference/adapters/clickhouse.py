"""Inference tables in ClickHouse: written by the sink, counted for callers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NamedTuple

from services.inference.adapters.arrow_rows import ArrowRows
from services.inference.domain.bodies import Side, StoredBody
from services.inference.domain.canary import FAULTS, Sight
from services.inference.domain.endpoint import InferenceTable
from services.inference.domain.explanation import KEPT_COLUMNS, KeptRequest
from services.inference.ports import RowCount, TableStatistics
from services.inference.sink.rows import Row
from tessera_kit.store.clickhouse import ClickHouse, qualified_name
from tessera_kit.store.clickhouse_errors import QueryRejected, TableNotFound

__all__ = ["ClickHousePayloads"]

_SPARE_ROWS: Final = 1000
_IDS_PER_QUERY: Final = 500
_COLUMNS_SECONDS: Final = 30.0
_MOST_TABLES: Final = 1024
_INSERT_SETTINGS: Final = {"async_insert": 0}


class _Known(NamedTuple):
    """What a table's columns were when it was asked."""

    until: float
    """When to ask again, of the monotonic clock."""
    columns: ArrowRows


class ClickHousePayloads:
    """See `ports.PayloadStore` and `ports.TableReader`.

    Args:
        client: Any database; names are qualified.
    """

    def __init__(self, client: ClickHouse) -> None:
        self._client = client
        self._known: dict[InferenceTable, _Known] = {}

    async def existing(self, table: InferenceTable, request_ids: Sequence[str]) -> frozenset[str]:
        """Which of the request ids have a row."""
        # Ids of one batch lie side by side in the table's order: one short read finds them all.
        # Where strangers' ids lie far apart, they are asked for one by one.
        most = 2 * len(request_ids) + _SPARE_ROWS
        result = await self._client.query(
            f"SELECT tessera_request_id FROM {_name(table)} WHERE tessera_request_id >= "  # noqa: S608
            "{first:String} AND tessera_request_id <= {last:String} LIMIT {most:UInt64}",
            {"first": min(request_ids), "last": max(request_ids), "most": most},
        )
        wanted = frozenset(request_ids)
        if len(result.rows) < most:
            return wanted.intersection(row[0] for row in result.rows)
        found: set[str] = set()
        for start in range(0, len(request_ids), _IDS_PER_QUERY):
            result = await self._client.query(
                f"SELECT DISTINCT tessera_request_id FROM {_name(table)} "  # noqa: S608
                "WHERE tessera_request_id IN {ids:Array(String)}",
                {"ids": list(request_ids[start : start + _IDS_PER_QUERY])},
            )
            found.update(row[0] for row in result.rows)
        return wanted & found

    async def insert(self, table: InferenceTable, rows: Sequence[Row], token: str) -> None:
        """Write rows; they can be read when it returns."""
        known = self._known.get(table)
        if known is not None and time.monotonic() < known.until:
            try:
                await self._send(table, known.columns, rows, token)
                return
            except (QueryRejected, TableNotFound):
                # The table may have changed since its columns were read.
                self._known.pop(table, None)
        await self._send(table, await self._columns(table), rows, token)

    async def _columns(self, table: InferenceTable) -> ArrowRows:
        found = await self._client.query(f"DESCRIBE TABLE {_name(table)}")
        columns = ArrowRows({row["name"]: row["type"] for row in found.dicts()})
        if len(self._known) >= _MOST_TABLES:
            self._known.clear()
        self._known[table] = _Known(time.monotonic() + _COLUMNS_SECONDS, columns)
        return columns

    async def _send(
        self, table: InferenceTable, columns: ArrowRows, rows: Sequence[Row], token: str
    ) -> None:
        names, data = columns.stream(rows, time.time_ns() // 1000)
        await self._client.insert_bytes(
            table.table,
            names,
            data,
            format="ArrowStream",
            database=table.database,
            deduplication_token=token,
            settings=_INSERT_SETTINGS,
        )

    async def body(self, table: InferenceTable, request_id: str, side: Side) -> StoredBody | None:
        """What the row of a request holds of a body."""
        try:
            result = await self._client.query(
                f"SELECT request_date, {side.value}, {side.value}_object, logging_error_codes "  # noqa: S608
                f"FROM {_name(table)} WHERE tessera_request_id = {{id:String}} LIMIT 1",
                {"id": request_id},
            )
        except TableNotFound:
            return None
        for day, text, key, codes in result.rows:
            return StoredBody(day, text, key, tuple(codes))
        return None

    async def kept(self, table: InferenceTable, request_id: str) -> KeptRequest | None:
        """The row of a request."""
        found = await self._kept(
            table, "tessera_request_id = {id:String}", {"id": request_id, "most": 1}
        )
        return found[0] if found else None

    async def kept_of_client(
        self, table: InferenceTable, client_request_id: str, limit: int
    ) -> Sequence[KeptRequest]:
        """The newest requests that their callers gave an id."""
        where = "client_request_id = {id:String} AND route != 'SHADOW'"
        return await self._kept(table, where, {"id": client_request_id, "most": limit})

    async def _kept(
        self, table: InferenceTable, where: str, parameters: dict[str, Any]
    ) -> list[KeptRequest]:
        columns = ", ".join(KEPT_COLUMNS)
        try:
            result = await self._client.query(
                f"SELECT {columns} FROM {_name(table)} WHERE {where} "  # noqa: S608
                "ORDER BY tessera_request_id DESC, ingested_at DESC "
                "LIMIT 1 BY tessera_request_id LIMIT {most:UInt64}",
                parameters,
            )
        except TableNotFound:
            return []
        return [KeptRequest.of(row) for row in result.dicts()]

    async def days_with_bodies(
        self, table: InferenceTable, days: Sequence[date]
    ) -> frozenset[date]:
        """On which of the days requests arrived whose rows name an object."""
        try:
            result = await self._client.query(
                f"SELECT DISTINCT request_date FROM {_name(table)} "  # noqa: S608
                "WHERE request_date IN {days:Array(Date)} "
                "AND (request_object != '' OR response_object != '')",
                {"days": list(days)},
            )
        except TableNotFound:
            return frozenset()
        return frozenset(row[0] for row in result.rows)

    async def statistics(self, table: InferenceTable, since: datetime | None) -> TableStatistics:
        """Count the rows of requests from `since` on."""
        parameters = {"since": since or datetime(1970, 1, 1, tzinfo=UTC)}
        where = "WHERE request_time >= {since:DateTime64(6, 'UTC')}"
        lag = "greatest(dateDiff('microsecond', response_time, ingested_at), 0)"
        result = await self._client.query(
            "SELECT count() AS rows, uniqExact(tessera_request_id) AS requests, "  # noqa: S608
            f"countIf(status_code != 0) AS errors, quantileExact(0.5)({lag}) AS p50, "
            f"quantileExact(0.99)({lag}) AS p99, max({lag}) AS worst, "
            f"max(request_time) AS newest FROM {_name(table)} {where}",
            parameters,
        )
        totals: dict[str, Any] = result.dicts()[0]
        entities = await self._client.query(
            "SELECT served_entity_id, model_version, count() AS rows "  # noqa: S608
            f"FROM {_name(table)} {where} GROUP BY 1, 2 ORDER BY 1, 2",
            parameters,
        )
        return TableStatistics(
            rows=totals["rows"],
            distinct_requests=totals["requests"],
            errors=totals["errors"],
            lag_p50=timedelta(microseconds=int(totals["p50"])),
            lag_p99=timedelta(microseconds=int(totals["p99"])),
            lag_max=timedelta(microseconds=int(totals["worst"])),
            by_served_entity=tuple(RowCount(*row) for row in entities.rows),
            newest_request=totals["newest"] if totals["rows"] else None,
        )

    async def sight(
        self, table: InferenceTable, config_version: int, entity: str, since: datetime
    ) -> Sight:
        """What the requests since then say of a served entity."""
        failed = f"status_code IN ({', '.join(map(str, sorted(FAULTS)))})"
        weight = "if(sampling_fraction > 0, 1 / sampling_fraction, 1)"
        own, passed = (
            "served_entity_id = {entity:String}",
            "has(failed_entity_ids, {entity:String})",
        )
        model_time = "execution_duration_ms"
        result = await self._client.query(
            f"SELECT toInt64(round(sumIf({weight}, {own} OR {passed}))) AS requests, "  # noqa: S608
            f"toInt64(round(sumIf({weight}, {passed} OR ({own} AND {failed})))) AS errors, "
            f"ifNotFinite(quantileIf(0.99)({model_time}, {own}), 0) AS p99, "
            f"ifNotFinite(quantileIf(0.99)({model_time}, NOT {own}), 0) AS others "
            f"FROM {_name(table)} WHERE request_time >= {{since:DateTime64(6, 'UTC')}} "
            "AND config_version = {version:Int64} AND route IN ('PRIMARY', 'FALLBACK')",
            {"entity": entity, "since": since, "version": config_version},
        )
        found = result.dicts()[0]
        return Sight(found["requests"], found["errors"], found["p99"], found["others"])


def _name(table: InferenceTable) -> str:
    return qualified_name(table.database, table.table)
