"""The log of points: what acknowledges them, until they are in ClickHouse.

A row holds what one transaction added to one run: the names of its metrics as JSON, and per point
the place of its metric among them, the step, the time in microseconds and the value, packed into 28
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from services.tracking.domain.points import Points

__all__ = ["LOG_COLUMNS", "log_rows", "unpacked"]

LOG_COLUMNS = ("run_no", "points", "keys", "data")
_POINT = np.dtype([("number", "<i4"), ("step", "<i8"), ("timestamp", "<i8"), ("value", "<f8")])


def log_rows(points: Mapping[str, Points], numbers: Mapping[str, int]) -> list[tuple[Any, ...]]:
    """Return the rows of LOG_COLUMNS for points.

    Args:
        points: Points, by run id.
        numbers: Numbers of the runs, by run id.
    """
    rows: list[tuple[Any, ...]] = []
    for run_id, added in points.items():
        if not len(added):
            continue
        packed = np.empty(len(added), _POINT)
        packed["number"] = added.numbers
        packed["step"] = added.steps
        packed["timestamp"] = added.timestamps
        packed["value"] = added.values
        rows.append((numbers[run_id], len(added), json.dumps(added.keys), packed.tobytes()))
    return rows


def unpacked(keys: str, data: bytes) -> Points:
    """Return the points of a log row."""
    packed = np.frombuffer(data, _POINT)
    return Points(
        tuple(json.loads(keys)),
        packed["number"].astype(np.int64),
        packed["step"],
        packed["timestamp"],
        packed["value"],
    )
