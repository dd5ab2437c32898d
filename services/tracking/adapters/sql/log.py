"""The log of points: what acknowledges them, until they are in ClickHouse.

A row holds what one transaction added to one run, as packed numbers: the metric's number in
`latest_metrics`, the step, the time in microseconds, the value; 32 bytes a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from services.tracking.domain.points import Points

__all__ = ["LOG_COLUMNS", "PackedPoints", "log_rows", "unpacked"]

PackedPoints = npt.NDArray[np.void]

LOG_COLUMNS = ("run_no", "points", "data")
_POINT = np.dtype([("metric", "<i8"), ("step", "<i8"), ("timestamp", "<i8"), ("value", "<f8")])


def log_rows(
    points: Mapping[str, Points],
    numbers: Mapping[str, int],
    metrics: Iterable[tuple[int, str, int]],
) -> list[tuple[Any, ...]]:
    """Return the rows of LOG_COLUMNS for points.

    Args:
        points: Points, by run id.
        numbers: Numbers of the runs, by run id.
        metrics: Run number, key and metric number of every metric that a point is of.
    """
    metric_no = {(run_no, key): number for run_no, key, number in metrics}
    rows: list[tuple[Any, ...]] = []
    for run_id, added in points.items():
        if not len(added):
            continue
        run_no = numbers[run_id]
        own = np.array([metric_no[run_no, key] for key in added.keys], np.int64)
        packed = np.empty(len(added), _POINT)
        packed["metric"] = own[added.numbers]
        packed["step"] = added.steps
        packed["timestamp"] = added.timestamps
        packed["value"] = added.values
        rows.append((run_no, len(added), packed.tobytes()))
    return rows


def unpacked(data: Sequence[bytes]) -> PackedPoints:
    """Return the points of log rows, with the fields `metric`, `step`, `timestamp`, `value`."""
    return np.frombuffer(b"".join(data), _POINT)
