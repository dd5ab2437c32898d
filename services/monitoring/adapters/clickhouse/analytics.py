"""The analytics port on ClickHouse: a few set-based statements for many windows at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from services.monitoring.adapters.clickhouse import metric_rows, profile, quality, windows
from services.monitoring.adapters.clickhouse.discovery import json_keys_select
from services.monitoring.adapters.clickhouse.drift import drift_select
from services.monitoring.adapters.clickhouse.engine import Engine, Query, Result, quote
from services.monitoring.adapters.clickhouse.rows import sampled_rows
from services.monitoring.domain.columns import RowSchema
from services.monitoring.domain.metrics import Scope
from services.monitoring.domain.monitor import Monitor, PhysicalTable
from services.monitoring.domain.schemas import baseline_schema, inference_schema, table_schema
from services.monitoring.domain.windows import RequestRange, Touch, WindowRecord
from services.monitoring.errors import TableNotReadable
from services.monitoring.ports import (
    Label,
    MetricQuery,
    MetricRow,
    RowBatch,
    WindowJob,
    WindowResult,
)

__all__ = ["ClickHouseAnalytics"]

# Tables whose rows replace others are read as if they had; a label that is missing is null; rows
# that hold whole distributions travel in small blocks.
_SETTINGS: Mapping[str, Any] = {"final": 1, "join_use_nulls": 1, "max_block_size": 8192}
_DRIFT_SETTINGS: Mapping[str, Any] = {
    **_SETTINGS,
    "max_block_size": 128,
    "short_circuit_function_evaluation": "disable",
}


class ClickHouseAnalytics:
    """Statistics of watched tables, computed where the rows are.

    Args:
        engine: Where the watched tables and the metric tables are.
        database: The service's own database there.
    """

    def __init__(self, engine: Engine, database: str) -> None:
        self._engine = engine
        self._database = database

    async def table_columns(self, table: PhysicalTable) -> Mapping[str, str]:
        """Each column's type in ClickHouse's notation."""
        result = await self._engine.query(
            "SELECT name, type FROM system.columns "
            "WHERE database = {database:String} AND table = {table:String} ORDER BY position",
            {"database": table.database, "table": table.table},
        )
        if not result.rows:
            raise TableNotReadable(f"there is no table {table.database}.{table.table} to read")
        return {str(name): str(data_type) for name, data_type in result.rows}

    async def read_schema(
        self, monitor: Monitor, known: RowSchema | None, ranges: Sequence[RequestRange] | None
    ) -> RowSchema:
        """What rows of the monitor's table hold."""
        if monitor.inference is None:
            return known or table_schema(monitor, await self.table_columns(monitor.source))
        baseline: Mapping[str, str] = {}
        found = await self._query(json_keys_select(monitor.source, ranges))
        if monitor.baseline is not None:
            baseline = await self.table_columns(monitor.baseline.physical)
        return inference_schema(
            monitor, known, [(part, key, types) for part, key, types in found.rows], baseline
        )

    async def compute_baseline(self, monitor: Monitor, now: datetime) -> tuple[str, ...]:
        """Describe the baseline's table, and store its profile."""
        baseline = monitor.baseline
        if baseline is None:
            raise ValueError("the monitor has no baseline")
        schema = baseline_schema(monitor, await self.table_columns(baseline.physical))
        if not schema.columns:
            raise TableNotReadable(
                f"the baseline {baseline.table_full_name} has none of the watched columns"
            )
        source = f"{quote(baseline.physical.database)}.{quote(baseline.physical.table)}"
        counted = await self._engine.query(f"SELECT count() FROM {source}", None, _SETTINGS)
        is_large = int(counted.rows[0][0]) > baseline.sample_rows
        rows = sampled_rows(
            baseline.physical, schema, 0, baseline.sample_rows if is_large else None
        )
        key = profile.ProfileKey(monitor.id, monitor.version, profile.BASELINE, 0)
        await self._command(
            profile.profile_insert(self._database, key, rows, schema, {0: monitor.version})
        )
        await self._command(
            metric_rows.profile_insert_select(
                self._database, monitor, {0: monitor.version}, now, baseline=True
            )
        )
        return tuple(column.name for column in schema.slices)

    async def touched(
        self, monitor: Monitor, schema: RowSchema, batch: RowBatch | None
    ) -> list[Touch]:
        """The windows that rows of a batch are in; of the whole table when None."""
        found = await self._query(windows.touched_select(monitor, schema, batch))
        return [
            Touch(int(start), int(n), RequestRange(int(first), int(last)), int(latest))
            for start, n, first, last, latest in found.rows
        ]

    async def count_rows(
        self, monitor: Monitor, schema: RowSchema, records: Sequence[WindowRecord]
    ) -> dict[int, int]:
        """How many rows windows have now, by start."""
        if not records:
            return {}
        found = await self._query(
            windows.counts_select(
                monitor,
                schema,
                [record.start_us for record in records],
                _ranges(record.requests for record in records),
            )
        )
        return {int(start): int(count) for start, count in found.rows}

    async def compute(
        self,
        monitor: Monitor,
        schema: RowSchema,
        jobs: Sequence[WindowJob],
        baseline_slices: Sequence[str] | None,
        now: datetime,
    ) -> list[WindowResult]:
        """Compute profile, drift and quality of windows, and store them."""
        revisions = {job.start_us: job.revision for job in jobs}
        if schema.columns:
            rows = windows.watched_rows(
                monitor, schema, starts=list(revisions), ranges=_ranges(j.requests for j in jobs)
            )
            key = profile.ProfileKey(
                monitor.id, monitor.version, profile.INPUT, windows.length_us(monitor)
            )
            await self._command(
                profile.profile_insert(self._database, key, rows, schema, revisions)
            )
            await self._command(
                metric_rows.profile_insert_select(
                    self._database, monitor, revisions, now, baseline=False
                )
            )
            await self._compute_drift(monitor, jobs, revisions, baseline_slices, now)
        return await self.compute_quality(monitor, schema, jobs, now)

    async def _compute_drift(
        self,
        monitor: Monitor,
        jobs: Sequence[WindowJob],
        revisions: Mapping[int, int],
        baseline_slices: Sequence[str] | None,
        now: datetime,
    ) -> None:
        before = {job.start_us: job.before_us for job in jobs if job.before_us is not None}
        if not before and baseline_slices is None:
            return
        for scope in Scope:
            select = drift_select(
                self._database,
                monitor.id,
                scope,
                starts=list(revisions),
                before=before,
                baseline_slices=baseline_slices,
            )
            await self._command(
                metric_rows.drift_insert(monitor, select, scope, revisions, now), _DRIFT_SETTINGS
            )

    async def compute_quality(
        self, monitor: Monitor, schema: RowSchema, jobs: Sequence[WindowJob], now: datetime
    ) -> list[WindowResult]:
        """As `compute`, of counts and quality only."""
        ranges = _ranges(job.requests for job in jobs)
        rows = windows.watched_rows(
            monitor,
            _judged(schema),
            starts=[job.start_us for job in jobs],
            ranges=ranges,
        )
        if monitor.inference is not None:
            rows = quality.labelled_rows(self._database, monitor.source, rows, ranges)
        select = quality.window_select(rows, schema, monitor.inference)
        result = await self._query(select)
        found = [dict(zip(result.column_names, row, strict=True)) for row in result.rows]
        names, values = metric_rows.window_rows(
            monitor,
            found,
            {job.start_us: job.end_us for job in jobs},
            {job.start_us: job.revision for job in jobs},
            now,
        )
        if values:
            table = monitor.profile_table
            await self._engine.insert(table.table, values, names, database=table.database)
        whole = {int(row["window_start"]): row for row in found if row["slice_key"] == ""}
        return [
            WindowResult(
                job.start_us,
                int(whole.get(job.start_us, {}).get("row_count", 0)),
                int(whole.get(job.start_us, {}).get("label_count", 0)),
            )
            for job in jobs
        ]

    async def values(
        self, monitor: Monitor, starts: Collection[int], metrics: Collection[str]
    ) -> dict[int, dict[str, dict[str, float]]]:
        """Stored values over all rows, by window start, metric and column."""
        if not starts or not metrics:
            return {}
        found = await self._query(metric_rows.values_select(monitor, starts, metrics))
        values: dict[int, dict[str, dict[str, float]]] = {}
        for start, metric, column, value in found.rows:
            values.setdefault(int(start), {}).setdefault(metric, {})[column] = float(value)
        return values

    async def list_metrics(self, monitor: Monitor, query: MetricQuery) -> list[MetricRow]:
        """Stored values, in order."""
        found = await self._query(metric_rows.metrics_select(monitor, query))
        return [
            MetricRow(
                int(start), column, slice_key, slice_value, metric, drift, int(end), float(value)
            )
            for start, column, slice_key, slice_value, metric, drift, end, value in found.rows
        ]

    async def write_labels(self, labels: Sequence[Label]) -> None:
        """Keep labels; of several for one request, the one that was observed last."""
        if not labels:
            return
        await self._engine.insert(
            quality.LABELS,
            [
                [
                    label.endpoint,
                    "tessera" if label.tessera_request_id else "client",
                    label.tessera_request_id or label.client_request_id,
                    label.value,
                    label.observed_at,
                ]
                for label in labels
            ],
            ["endpoint", "id_kind", "request_id", "value", "observed_at"],
            database=self._database,
        )

    async def windows_of_labels(
        self, monitor: Monitor, schema: RowSchema, labels: Sequence[Label]
    ) -> list[int]:
        """Starts of the windows that the labelled requests' rows are in."""
        select = windows.labelled_windows_select(monitor, schema, labels)
        if select is None:
            return []
        return [int(start) for (start,) in (await self._query(select)).rows]

    async def forget(self, monitor_id: str) -> None:
        """Drop what was kept for a monitor beside its metric tables."""
        await self._engine.command(
            f"DELETE FROM {quote(self._database)}.{profile.COLUMN_PROFILES} "
            "WHERE monitor_id = {monitor_id:String}",
            {"monitor_id": monitor_id},
        )

    async def clear(self, monitor: Monitor) -> None:
        """Drop what an earlier monitor of the same name left in the metric tables."""
        for table in (monitor.profile_table, monitor.drift_table):
            place = f"{quote(table.database)}.{quote(table.table)}"
            left = await self._engine.query(
                f"SELECT 1 FROM {place} WHERE monitor_name = {{name:String}} LIMIT 1",
                {"name": monitor.name},
            )
            if left.rows:
                await self._engine.command(
                    f"DELETE FROM {place} WHERE monitor_name = {{name:String}}",
                    {"name": monitor.name},
                )

    async def _query(self, query: Query) -> Result:
        return await self._engine.query(query.sql, query.bound, _SETTINGS)

    async def _command(self, query: Query, settings: Mapping[str, Any] = _SETTINGS) -> None:
        await self._engine.command(query.sql, query.bound, settings)


def _ranges(ranges: Iterable[RequestRange | None]) -> list[RequestRange] | None:
    """The ranges to look in; None, for everywhere, when one of them is not known."""
    known = []
    for one in ranges:
        if one is None:
            return None
        known.append(one)
    return known


def _judged(schema: RowSchema) -> RowSchema:
    """The schema with no more columns than are needed to count and judge rows."""
    return RowSchema(
        schema.columns[:1], schema.slices, schema.timestamp, schema.time_kind, schema.prediction
    )
