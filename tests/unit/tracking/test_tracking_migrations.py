"""What older versions kept survives the way to the newest tables."""

from __future__ import annotations

import math
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from services.tracking.adapters.memory.store import InMemoryPoints
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.domain.lifecycle import micros_of
from services.tracking.domain.metrics import Extremes, Point
from services.tracking.domain.retention import Kind
from tessera_kit.config import DatabaseConfig
from tessera_kit.store.migrate import migrate
from tessera_kit.store.sql import Database


async def test_rows_of_points_become_the_log(tmp_path: Path) -> None:
    file = tmp_path / "tracking.db"
    config = DatabaseConfig(f"sqlite+aiosqlite:///{file}")
    await migrate(config.url, "tracking", revision="2026_11_23_initial")
    with sqlite3.connect(file) as db:
        db.execute("INSERT INTO experiments VALUES ('e', 'e', 's3://b', 'active', 'a', 1, 1, 'x')")
        db.execute(
            "INSERT INTO runs VALUES "
            "(1, 'r', 'e', 'n', 'RUNNING', 1, NULL, 's3://b/r', 'active', 0, 'a', 'x')"
        )
        db.executemany(
            "INSERT INTO latest_metrics VALUES (?, 1, ?, 2, 5, ?, ?)",
            [(1, "loss", 0, 0.25), (2, "odd", 1, 0.0)],
        )
        db.executemany(
            "INSERT INTO metric_points VALUES (?, ?, 5, ?, ?)",
            [(1, 1, 0, 0.5), (1, 2, 0, 0.25), (2, 2, 1, 0.0)],
        )
    db.close()
    await migrate(config.url, "tracking")
    async with Database(config) as database:
        store = SqlStore(database, InMemoryPoints())
        for _ in range(2):
            async with store.read() as view:
                run = await view.runs.get("r")
                loss = await view.metrics.history("r", "loss", after=None, limit=9)
                [odd] = await view.metrics.history("r", "odd", after=None, limit=9)
            assert loss == [Point("loss", 1, 5, 0.5), Point("loss", 2, 5, 0.25)]
            assert (odd.step, math.isnan(odd.value)) == (2, True)
            assert run is not None
            assert run.metrics["loss"] == Point("loss", 2, 5, 0.25)
            assert run.extremes == {"loss": Extremes(0.25, 0.5)}
            await store.carrier.settle(["r"])


async def test_what_was_deleted_before_has_its_whole_retention_ahead(tmp_path: Path) -> None:
    file = tmp_path / "tracking.db"
    config = DatabaseConfig(f"sqlite+aiosqlite:///{file}")
    await migrate(config.url, "tracking", revision="2026_11_27_review_pages")
    with sqlite3.connect(file) as db:
        db.executemany(
            "INSERT INTO experiments VALUES (?, ?, 's3://b', ?, 'a', 1, 1, 'x')",
            [("e1", "one", "active"), ("e2", "two", "deleted")],
        )
        db.executemany(
            "INSERT INTO runs VALUES "
            "(?, ?, ?, 'n', 'RUNNING', 1, NULL, 's3://b/r', ?, ?, 'a', 'x')",
            [(1, "r1", "e1", "active", 0), (2, "r2", "e1", "deleted", 0)],
        )
    db.close()
    before = micros_of(datetime.now(UTC))
    await migrate(config.url, "tracking")
    async with Database(config) as database, SqlStore(database, InMemoryPoints()).read() as view:
        for kind, gone in ((Kind.EXPERIMENT, "e2"), (Kind.RUN, "r2")):
            [found] = await view.purges.deleted(kind, by=2**62, limit=9)
            assert found.id == gone
            assert found.deleted_at is not None
            assert found.deleted_at >= before
        active = await view.runs.info("r1")
    assert active is not None
    assert active.deleted_at is None
