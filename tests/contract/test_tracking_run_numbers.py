"""Searches look at few runs where that suffices, on both databases, and find the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from services.tracking.adapters.memory.store import InMemoryPoints
from services.tracking.adapters.sql.run_numbers import Narrowing, RunNumbers
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Points
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import RUNS
from services.tracking.ports.store import RunQuery
from tessera_kit.store.sql import Database
from tests.tracking_database import append, fresh_database, fresh_postgres
from tests.tracking_rows import given, run

COUNT = 60
OTHERS = 120
LIMITS = Narrowing(least_runs=10, most=20, rows_per_run=1)
CANDIDATES = ("json_each", "ANY (")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
async def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Database]:
    """60 runs of one experiment; in 120 runs of another one all that they log is the same."""
    if request.param == "sqlite":
        config = await fresh_database(tmp_path_factory.mktemp("numbers"))
    else:
        config = await fresh_postgres(request.getfixturevalue("postgres_url"))
    async with Database(config) as database:
        store = SqlStore(database, InMemoryPoints())
        ours = [run(number) for number in range(COUNT)]
        await given(store, *ours, *(run(COUNT + number, "e2") for number in range(OTHERS)))
        logged = {f"r{COUNT + number}": {"everywhere": 1.0} for number in range(OTHERS)}
        for number in range(COUNT):
            # 7 and 60 have no factor in common: each value from 0 to 59, once.
            values = {"other": 7.0 * number % COUNT, "same": 1.0, "everywhere": float(number)}
            logged[f"r{number}"] = {"mine": float(number), **values}
            if number < 3:
                logged[f"r{number}"]["rare"] = float(number)
        points = {
            run_id: Points.of([Point(key, 1, 1, value) for key, value in values.items()])
            for run_id, values in logged.items()
        }
        await append(store, points)
        yield database


@pytest.mark.parametrize(
    ("text", "order", "narrowed"),
    [
        pytest.param("metrics.mine > 50", ["metrics.other"], True, id="few meet the filter"),
        pytest.param("metrics.mine > 50", [], True, id="and the newest are asked for"),
        pytest.param("metrics.mine > 5", ["metrics.other DESC"], True, id="the first of an order"),
        pytest.param("", ["metrics.other"], True, id="with no filter"),
        pytest.param("metrics.mine < 20", ["metrics.mine DESC"], True, id="of what is filtered"),
        pytest.param("metrics.mine > 5", ["metrics.same"], False, id="all stand at one place"),
        pytest.param("", ["metrics.rare"], False, id="more than have the metric"),
        pytest.param("", ["metrics.everywhere"], False, id="mostly other experiments' rows"),
        pytest.param("metrics.mine > 5", ["start_time"], False, id="an order by no metric"),
        pytest.param("params.p = 'x'", ["metrics.other"], False, id="none among the first"),
    ],
)
async def test_candidates(
    database: Database, text: str, order: list[str], *, narrowed: bool
) -> None:
    query = RunQuery(
        experiment_ids=["e1"],
        filter=parse_filter(text, RUNS),
        order=parse_order_by(order, RUNS),
        limit=5,
    )
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    engine = database.reader.sync_engine
    async with database.sessions() as session:
        whole = await RunNumbers(session, Narrowing()).find(query)
        sa.event.listen(engine, "before_cursor_execute", note)
        try:
            found = await RunNumbers(session, LIMITS).find(query)
        finally:
            sa.event.remove(engine, "before_cursor_execute", note)
    assert found == whole
    last = statements[-1]
    assert any(word in last for word in CANDIDATES) is narrowed, last
