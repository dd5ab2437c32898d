"""What the main job found, asked of the platform when it is over. No figure in it is a constant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from tessera.catalog.v1 import lineage_service_pb2
from tessera.client.aio.client import AsyncClient
from tessera.inference.v1 import inference_service_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera.quickstart.lifecycle import Turn, Year
from tessera.quickstart.plan import DRIFT_METRIC, DRIFT_THRESHOLD, WATCHED, Plan


@dataclass(slots=True)
class Results:
    """Figures for programs, and what the page shows."""

    figures: dict[str, Any]
    plan: Plan
    turns: Sequence[Turn]
    windows: Sequence[monitor_pb2.Window]
    alerts: Sequence[monitor_pb2.Alert]
    drift: Sequence[monitor_pb2.MetricValue]
    quality: Sequence[monitor_pb2.MetricValue]
    lineage: Sequence[lineage_service_pb2.LineageEdge]
    rows: pa.Table
    """One row per request: `request_time`, `model_version`, `probability`, `delayed`."""
    seconds: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> bytes:
        """The figures, indented; what is not a number is null."""
        return orjson.dumps(self.figures, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)


async def collect(
    client: AsyncClient, plan: Plan, year: Year, seconds: Mapping[str, float]
) -> Results:
    """Asks the platform what is in its tables, and compares that with what was sent."""
    endpoint = await client.inference.get_endpoint(plan.endpoint)
    statistics = await client.inference.table_statistics(plan.endpoint)
    windows = await client.monitoring.windows(plan.monitor)
    alerts = await client.monitoring.alerts(plan.monitor)
    drift = await client.monitoring.metrics(plan.monitor, metrics=[DRIFT_METRIC])
    quality = await client.monitoring.metrics(
        plan.monitor, metrics=["roc_auc"], slice_key="model_version"
    )
    lineage = await client.lineage.get(
        lineage_service_pb2.LINEAGE_NODE_TYPE_ENDPOINT, plan.endpoint
    )
    versions = await client.models.list_versions(plan.model)
    stored = await client.tables.read(
        endpoint.inference_table_full_name,
        columns=["tessera_request_id", "request_time", "model_version", "status_code"],
    )
    rows = _with_outcomes(stored, year)
    figures = {
        **_counts(year, stored, statistics),
        "labels_joined": sum(window.label_count for window in windows),
        "windows": len(windows),
        "drift_windows": len(_drifted(drift)),
        "alerts": len(alerts),
        "model_versions": len(versions),
        "auc_by_version": _auc_by_version(rows),
        "promoted": any(turn.kind == "promoted" for turn in year.turns),
        "lineage_edges": len(lineage),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    return Results(
        figures=figures,
        plan=plan,
        turns=year.turns,
        windows=windows,
        alerts=alerts,
        drift=drift,
        quality=quality,
        lineage=lineage,
        rows=rows,
        seconds=seconds,
    )


def _counts(
    year: Year,
    stored: pa.Table,
    statistics: inference_service_pb2.GetInferenceTableStatisticsResponse,
) -> dict[str, Any]:
    """Rows that are missing or doubled are counted over the ids, not by comparing totals."""
    ids = stored["tessera_request_id"].to_pylist()
    return {
        "requests_sent": year.sent,
        "responses_ok": len(year.answers),
        "responses_failed": len(year.failures),
        "inference_table_rows": len(ids),
        "rows_lost": len({answer.request_id for answer in year.answers}.difference(ids)),
        "rows_duplicated": len(ids) - len(set(ids)),
        "table_lag_p50_ms": _milliseconds(statistics.lag_p50),
        "table_lag_p99_ms": _milliseconds(statistics.lag_p99),
        "table_lag_max_ms": _milliseconds(statistics.lag_max),
        "labels_sent": year.labels,
    }


def _milliseconds(duration: Any) -> float:
    return float(round(duration.seconds * 1e3 + duration.nanos / 1e6, 1))


def _with_outcomes(stored: pa.Table, year: Year) -> pa.Table:
    by_id = {answer.request_id: answer for answer in year.answers}
    found = [by_id.get(request_id) for request_id in stored["tessera_request_id"].to_pylist()]
    probability = [answer.probability if answer else math.nan for answer in found]
    delayed = [answer.delayed if answer else math.nan for answer in found]
    return pa.table(
        {
            "request_time": stored["request_time"],
            "model_version": stored["model_version"],
            "probability": pa.array(probability, pa.float64()),
            "delayed": pa.array(delayed, pa.float64()),
        }
    )


def _drifted(drift: Sequence[monitor_pb2.MetricValue]) -> set[datetime]:
    """The windows in which a watched input drifted from the baseline."""
    return {
        value.window_start.ToDatetime(UTC)
        for value in drift
        if value.drift_type == "BASELINE"
        and value.column in WATCHED
        and value.value > DRIFT_THRESHOLD
    }


def _auc_by_version(rows: pa.Table) -> dict[str, float | None]:
    """The area under the ROC curve of each version, over the requests that it answered."""
    versions = rows["model_version"].to_numpy()
    scores, labels = rows["probability"].to_numpy(), rows["delayed"].to_numpy()
    known = np.isfinite(scores) & np.isfinite(labels)
    return {
        str(version): _auc(scores[chosen], labels[chosen])
        for version in np.unique(versions[versions > 0])
        if (chosen := known & (versions == version)).any()
    }


def _auc(scores: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float | None:
    """Mann-Whitney's U over all pairs; ties count half. None when only one class is there."""
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]
    statistic = ranks[labels > 0].sum() - positives * (positives + 1) / 2
    return round(float(statistic / (positives * negatives)), 4)
