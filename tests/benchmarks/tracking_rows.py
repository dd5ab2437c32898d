"""Many runs and a long history, written straight into the two databases: the same in both."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRICS = 4
PARAMS = 2
_START = 1_700_000_000_000


def _runs(count: int) -> Iterator[tuple[int, str, list[float], list[str], str]]:
    chance = random.Random(1)  # noqa: S311 - the same runs every time
    for number in range(count):
        values = [chance.random() for _ in range(METRICS)]
        params = [str(chance.randrange(8)) for _ in range(PARAMS)]
        yield number, f"{number:032x}", values, params, "ab"[number % 2]


def fill_tessera(database: Path, experiment_id: str, count: int) -> None:
    """Add runs to an experiment that is there."""
    with sqlite3.connect(database, timeout=60) as db:
        first = db.execute("SELECT coalesce(max(run_no), 0) + 1 FROM runs").fetchone()[0]

        def rows(kind: str) -> Iterator[tuple[Any, ...]]:
            for number, run_id, values, params, team in _runs(count):
                no, at = first + number, (_START + number) * 1000
                if kind == "runs":
                    place = f"s3://bench/{run_id}"
                    yield (
                        *(no, run_id, experiment_id, f"run {number}", "FINISHED", at, at + 1),
                        *(place, "active", 0, "admin", "e", None),
                    )
                elif kind == "latest_metrics":
                    for key, value in enumerate(values):
                        yield f"m{key}", no, 1, at, 0, value, value, value
                elif kind == "run_params":
                    yield from ((no, f"p{key}", value) for key, value in enumerate(params))
                else:
                    yield no, "team", team

        for table, width in (("runs", 13), ("latest_metrics", 8), ("run_params", 3)):
            _insert(db, table, width, rows(table))
        _insert(db, "run_tags", 3, rows("run_tags"))
    db.close()


def fill_mlflow(database: Path, experiment_id: str, count: int) -> None:
    """As `fill_tessera`, for MLflow's tables."""
    with sqlite3.connect(database, timeout=60) as db:

        def rows(kind: str) -> Iterator[tuple[Any, ...]]:
            for number, run_id, values, params, team in _runs(count):
                at = _START + number
                if kind == "runs":
                    place = f"mlflow-artifacts:/{run_id}"
                    yield (
                        *(run_id, f"run {number}", "UNKNOWN", "", "", "admin", "FINISHED", at),
                        *(at, "", "active", place, int(experiment_id), None),
                    )
                elif kind == "latest_metrics":
                    for key, value in enumerate(values):
                        yield f"m{key}", value, at, 1, 0, run_id
                elif kind == "params":
                    yield from ((f"p{key}", value, run_id) for key, value in enumerate(params))
                else:
                    yield "team", team, run_id

        for table, width in (("runs", 14), ("latest_metrics", 6), ("params", 3), ("tags", 3)):
            _insert(db, table, width, rows(table))
    db.close()


def fill_mlflow_history(database: Path, run_id: str, key: str, points: int) -> None:
    """Add a history to a run that is there."""
    with sqlite3.connect(database, timeout=60) as db:
        rows = ((key, step * 0.5, _START + step, run_id, step, 0) for step in range(points))
        _insert(db, "metrics", 6, rows)
        last = points - 1
        _insert(db, "latest_metrics", 6, iter([(key, last * 0.5, _START + last, last, 0, run_id)]))
    db.close()


def _insert(
    db: sqlite3.Connection, table: str, width: int, rows: Iterator[tuple[Any, ...]]
) -> None:
    marks = ", ".join("?" * width)
    db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
