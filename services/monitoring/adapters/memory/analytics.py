"""The analytics port over rows in memory, row by row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.monitoring.adapters.memory import statistics
from services.monitoring.adapters.memory.rows import (
    Request,
    Row,
    event_us,
    json_type,
    request_rows,
    samples_of,
    slots,
    table_values,
)
from services.monitoring.adapters.memory.statistics import Sample
from services.monitoring.domain.columns import RowSchema
from services.monitoring.domain.metrics import METRICS, TABLE_COLUMN, DriftType
from services.monitoring.domain.monitor import (
    InferenceProfile,
    Monitor,
    PhysicalTable,
    ProblemType,
    SnapshotProfile,
)
from services.monitoring.domain.schemas import baseline_schema, inference_schema, table_schema
from services.monitoring.domain.windows import (
    RequestRange,
    Touch,
    WindowRecord,
    microseconds,
    window_start,
)
from services.monitoring.errors import TableNotReadable
from services.monitoring.ports import (
    Label,
    MetricQuery,
    MetricRow,
    RowBatch,
    WindowJob,
    WindowResult,
)

__all__ = ["InMemoryAnalytics"]


@dataclass(slots=True)
class _Kept:
    """What was computed for one monitor."""

    samples: dict[tuple[int, str, str, str], Sample] = field(default_factory=dict)
    baseline: dict[tuple[str, str, str], Sample] = field(default_factory=dict)


class InMemoryAnalytics:
    """Tables, labels and metrics in dictionaries; the caller fills `requests`, `rows`, `types`."""

    def __init__(self) -> None:
        self.requests: dict[PhysicalTable, list[Request]] = defaultdict(list)
        self.rows: dict[PhysicalTable, list[dict[str, Any]]] = defaultdict(list)
        self.types: dict[PhysicalTable, dict[str, str]] = {}
        self._labels: dict[tuple[str, str, str], Label] = {}
        self._kept: dict[str, _Kept] = defaultdict(_Kept)
        self._metrics: dict[str, dict[tuple[Any, ...], tuple[int, float, int]]] = defaultdict(dict)

    async def table_columns(self, table: PhysicalTable) -> Mapping[str, str]:
        """Each column's type in ClickHouse's notation."""
        if table not in self.types:
            raise TableNotReadable(f"there is no table {table.database}.{table.table} to read")
        return self.types[table]

    async def read_schema(
        self, monitor: Monitor, known: RowSchema | None, ranges: Sequence[RequestRange] | None
    ) -> RowSchema:
        """What rows of the monitor's table hold."""
        if monitor.inference is None:
            return known or table_schema(monitor, await self.table_columns(monitor.source))
        baseline: Mapping[str, str] = {}
        if monitor.baseline is not None:
            baseline = await self.table_columns(monitor.baseline.physical)
        types: dict[tuple[str, str], set[str]] = defaultdict(set)
        for request in self._requests(monitor.source, ranges):
            for part, body in (("input", request.inputs), ("output", request.outputs)):
                for key, values in body.items():
                    types[part, key].update(map(json_type, values))
        found = [(part, key, sorted(seen)) for (part, key), seen in sorted(types.items())]
        return inference_schema(monitor, known, found, baseline)

    async def compute_baseline(self, monitor: Monitor, now: datetime) -> tuple[str, ...]:
        """Describe the baseline's table."""
        baseline = monitor.baseline
        if baseline is None:
            raise ValueError("the monitor has no baseline")
        schema = baseline_schema(monitor, await self.table_columns(baseline.physical))
        if not schema.columns:
            raise TableNotReadable(
                f"the baseline {baseline.table_full_name} has none of the watched columns"
            )
        rows = [
            Row(0, 0, *table_values(row, schema))
            for row in self.rows[baseline.physical][: baseline.sample_rows]
        ]
        self._kept[monitor.id].baseline = {
            (key, value, column): sample
            for (_, key, value, column), sample in samples_of(rows, schema).items()
        }
        return tuple(column.name for column in schema.slices)

    async def touched(
        self, monitor: Monitor, schema: RowSchema, batch: RowBatch | None
    ) -> list[Touch]:
        """The windows that rows of a batch are in; of the whole table when None."""
        found: dict[int, Touch] = {}
        for row in self._rows(monitor, schema, None if batch is None else [batch.requests]):
            ids = None if batch is None else batch.request_ids
            own = None if row.request is None else row.request.tessera_request_id
            if ids is not None and own is not None and not ids[0] <= own <= ids[1]:
                continue
            time = row.event_us if row.request is None else microseconds(row.request.request_time)
            before = found.get(row.start_us)
            found[row.start_us] = Touch(
                row.start_us,
                1 + (0 if before is None else before.row_count),
                RequestRange(time, time).merge(None if before is None else before.requests),
                max(row.event_us, row.event_us if before is None else before.latest_us),
            )
        return [found[start] for start in sorted(found)]

    async def count_rows(
        self, monitor: Monitor, schema: RowSchema, windows: Sequence[WindowRecord]
    ) -> dict[int, int]:
        """How many rows windows have now, by start."""
        wanted = {record.start_us for record in windows}
        rows = self._rows(monitor, schema, None)
        return dict(Counter(row.start_us for row in rows if row.start_us in wanted))

    async def compute(
        self,
        monitor: Monitor,
        schema: RowSchema,
        jobs: Sequence[WindowJob],
        baseline_slices: Sequence[str] | None,
        now: datetime,
    ) -> list[WindowResult]:
        """Compute profile, drift and quality of windows, and store them."""
        kept = self._kept[monitor.id]
        by_start = {job.start_us: job for job in jobs}
        rows = [
            row
            for row in self._rows(monitor, schema, None, jobs[0].start_us)
            if row.start_us in by_start
        ]
        samples = samples_of(rows, schema)
        kept.samples |= samples
        for (start, key, value, column), sample in samples.items():
            self._keep(monitor, by_start[start], (column, key, value), statistics.profile(sample))
        for (start, key, value, column), sample in samples.items():
            job = by_start[start]
            if baseline_slices is not None:
                at = (key, value) if key in baseline_slices else ("", "")
                reference = kept.baseline.get((*at, column))
                self._keep_drift(monitor, job, (column, key, value), sample, reference, "BASELINE")
            if job.before_us is not None:
                reference = kept.samples.get((job.before_us, key, value, column))
                self._keep_drift(
                    monitor, job, (column, key, value), sample, reference, "CONSECUTIVE"
                )
        for start, key, value in {place[:3] for place in samples}:
            at = (key, value) if key in (baseline_slices or ()) else ("", "")
            mine = _of_slot(kept.samples, (start, key, value))
            job = by_start[start]
            if baseline_slices is not None:
                other = _of_slot(kept.baseline, at)
                shared = {name: mine[name] for name in mine if name in other}
                self._keep_presence(monitor, job, (key, value), shared, other, "BASELINE")
            if job.before_us is not None:
                other = _of_slot(kept.samples, (job.before_us, key, value))
                self._keep_presence(monitor, job, (key, value), mine, other, "CONSECUTIVE")
        return await self.compute_quality(monitor, schema, jobs, now)

    async def compute_quality(
        self, monitor: Monitor, schema: RowSchema, jobs: Sequence[WindowJob], now: datetime
    ) -> list[WindowResult]:
        """As `compute`, of counts and quality only."""
        results = []
        every = list(self._rows(monitor, schema, None, jobs[0].start_us))
        for job in jobs:
            rows = [row for row in every if row.start_us == job.start_us]
            groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
            for row in rows:
                for slot in slots(row, schema):
                    groups[slot].append(row)
            whole: Mapping[str, float] = {}
            for (key, value), members in groups.items():
                found = {"row_count": float(len(members)), **self._quality(monitor, members)}
                self._keep(monitor, job, (TABLE_COLUMN, key, value), found)
                whole = found if key == "" else whole
            results.append(WindowResult(job.start_us, len(rows), int(whole.get("label_count", 0))))
        return results

    async def values(
        self, monitor: Monitor, starts: Collection[int], metrics: Collection[str]
    ) -> dict[int, dict[str, dict[str, float]]]:
        """Stored values over all rows, by window start, metric and column."""
        kind = DriftType.BASELINE if monitor.baseline is not None else DriftType.CONSECUTIVE
        found: dict[int, dict[str, dict[str, float]]] = {}
        for (start, column, key, _, metric, drift), kept in self._metrics[monitor.id].items():
            if start in starts and key == "" and metric in metrics and drift in ("", kind.value):
                found.setdefault(start, {}).setdefault(metric, {})[column] = kept[1]
        return found

    async def list_metrics(self, monitor: Monitor, query: MetricQuery) -> list[MetricRow]:
        """Stored values, in order."""
        rows = sorted(
            MetricRow(start, column, key, value, metric, drift, end, number)
            for (start, column, key, value, metric, drift), (end, number, _) in self._metrics[
                monitor.id
            ].items()
        )
        after = None if query.after is None else _place(query.after)
        return [
            row
            for row in rows
            if (not query.metrics or row.metric in query.metrics)
            and (not query.columns or row.column in query.columns)
            and row.slice_key == query.slice_key
            and (query.start_us is None or row.start_us >= query.start_us)
            and (query.end_us is None or row.start_us < query.end_us)
            and (after is None or _place(row) > after)
        ][: query.limit]

    async def write_labels(self, labels: Sequence[Label]) -> None:
        """Keep labels; of several for one request, the one that was observed last."""
        for label in labels:
            own = label.tessera_request_id
            place = (label.endpoint, "own" if own else "their", own or label.client_request_id)
            before = self._labels.get(place)
            if before is None or before.observed_at <= label.observed_at:
                self._labels[place] = label

    async def windows_of_labels(
        self, monitor: Monitor, schema: RowSchema, labels: Sequence[Label]
    ) -> list[int]:
        """Starts of the windows that the labelled requests' rows are in."""
        own = {label.tessera_request_id for label in labels if label.tessera_request_id}
        their = {label.client_request_id for label in labels if not label.tessera_request_id}
        starts = {
            row.start_us
            for row in self._rows(monitor, schema, None)
            if row.request is not None
            and (row.request.tessera_request_id in own or row.request.client_request_id in their)
        }
        return sorted(starts)

    async def clear(self, monitor: Monitor) -> None:
        """Nothing is shared by monitors here."""

    async def forget(self, monitor_id: str) -> None:
        """Drop what was kept for a monitor."""
        self._kept.pop(monitor_id, None)

    def _keep(
        self,
        monitor: Monitor,
        job: WindowJob,
        subject: tuple[str, str, str],
        found: Mapping[str, float],
        drift: str = "",
    ) -> None:
        kept = self._metrics[monitor.id]
        for metric, value in found.items():
            place = (job.start_us, *subject, metric, drift)
            before = kept.get(place)
            if metric in METRICS and (before is None or before[2] <= job.revision):
                kept[place] = (job.end_us, float(value), job.revision)

    def _keep_drift(
        self,
        monitor: Monitor,
        job: WindowJob,
        subject: tuple[str, str, str],
        sample: Sample,
        reference: Sample | None,
        drift: str,
    ) -> None:
        if reference is not None and reference.numeric is sample.numeric:
            self._keep(monitor, job, subject, statistics.drift(sample, reference), drift)

    def _keep_presence(
        self,
        monitor: Monitor,
        job: WindowJob,
        slot: tuple[str, str],
        mine: Mapping[str, Sample],
        other: Mapping[str, Sample],
        drift: str,
    ) -> None:
        if other:
            now = {name for name, sample in mine.items() if sample.present}
            then = {name for name, sample in other.items() if sample.present and name in mine}
            added, missing = (float(len(names)) for names in (now - then, then - now))
            found = {
                "non_null_columns_delta.added": added,
                "non_null_columns_delta.missing": missing,
            }
            self._keep(monitor, job, (TABLE_COLUMN, *slot), found, drift)

    def _quality(self, monitor: Monitor, rows: Sequence[Row]) -> Mapping[str, float]:
        profile = monitor.inference
        if profile is None:
            return {}
        judged = []
        for row in rows:
            label = self._label(row)
            if label is not None and row.prediction is not None:
                judged.append((row.prediction, label))
        if profile.problem_type is ProblemType.REGRESSION:
            return statistics.regression_quality(judged)
        return statistics.binary_quality(judged, profile.decision_threshold)

    def _label(self, row: Row) -> float | None:
        request = row.request
        if request is None or not row.is_alone:
            return None
        own = self._labels.get((request.endpoint, "own", request.tessera_request_id))
        their = self._labels.get((request.endpoint, "their", request.client_request_id))
        found = own or (their if request.client_request_id else None)
        return None if found is None else found.value

    def _requests(
        self, table: PhysicalTable, ranges: Sequence[RequestRange] | None
    ) -> Iterable[Request]:
        for request in self.requests[table]:
            time = microseconds(request.request_time)
            inside = ranges is None or any(r.first_us <= time <= r.last_us for r in ranges)
            mirrored = request.tessera_request_id[36:38] == ".s"
            if request.status_code == 0 and inside and not mirrored:
                yield request

    def _rows(
        self,
        monitor: Monitor,
        schema: RowSchema,
        ranges: Sequence[RequestRange] | None,
        snapshot_us: int = 0,
    ) -> Iterable[Row]:
        profile = monitor.profile
        if isinstance(profile, InferenceProfile):
            for request in self._requests(monitor.source, ranges):
                yield from request_rows(request, schema, microseconds(profile.granularity))
            return
        for row in self.rows[monitor.source]:
            if isinstance(profile, SnapshotProfile):
                yield Row(snapshot_us, snapshot_us, *table_values(row, schema))
                continue
            time = event_us(row[profile.timestamp_column])
            if time is not None:
                start = window_start(time, microseconds(profile.granularity))
                yield Row(start, time, *table_values(row, schema))


def _of_slot(samples: Mapping[Any, Sample], slot: tuple[Any, ...]) -> dict[str, Sample]:
    """The samples of a window and slice, or of a slice of the baseline, by column."""
    return {place[-1]: sample for place, sample in samples.items() if place[:-1] == slot}


def _place(row: MetricRow) -> tuple[int, str, str, str, str, str]:
    return (row.start_us, row.column, row.slice_key, row.slice_value, row.metric, row.drift_type)
