"""Filters and orders: whatever is written, the SQL finds what the evaluator in memory finds."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.tracking.adapters.memory.store import InMemoryPoints, InMemoryStore
from services.tracking.adapters.sql.run_numbers import Narrowing
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.domain.batch import News
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Points
from services.tracking.domain.run import DatasetInput, Run, RunInfo, RunStatus
from services.tracking.domain.search.evaluate import run_values
from services.tracking.domain.search.paging import (
    position_after,
    read_position,
    write_position,
)
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import EXPERIMENTS, RUNS, Schema
from services.tracking.errors import InvalidFilter, InvalidOrderBy
from services.tracking.ports.store import RunQuery, Store
from services.tracking.ports.transaction import Transaction
from tessera_kit.ids import new_id
from tessera_kit.store.sql import Database
from tests.tracking_database import fresh_database, fresh_postgres

TEXTS = st.sampled_from(
    ["", "a", "A", "ab", "a%", "a_b", "*", "[a]", "é", "É", "x\ny", "it's", "\\"]
)
NUMBERS = st.sampled_from(
    [math.nan, 0.0, -1.0, 0.5, 1e300, math.inf, -math.inf, math.nan, 0.1 + 0.2]
)
KEYS = st.sampled_from(["k", "K", "a b", "1.é"])
TIMES = st.integers(0, 5_000)


@st.composite
def logged_runs(draw: st.DrawFn) -> list[tuple[dict[str, Any], News, list[Point]]]:
    """A few runs with what they logged; small pools of values, so that filters meet them."""
    runs = []
    for _ in range(draw(st.integers(1, 6))):
        fields = {
            "name": draw(TEXTS),
            "status": draw(st.sampled_from(list(RunStatus))),
            "started_at": draw(TIMES),
            "ended_at": draw(st.none() | TIMES),
            "created_by": draw(st.sampled_from(["ada", "bob"])),
        }
        news = News(
            draw(st.dictionaries(KEYS, TEXTS, max_size=2)),
            draw(st.dictionaries(KEYS, TEXTS, max_size=2)),
            tuple(draw(st.sets(st.builds(DatasetInput, TEXTS, TEXTS, TEXTS), max_size=2))),
        )
        metrics = draw(st.dictionaries(KEYS, NUMBERS, max_size=4))
        runs.append((fields, news, [Point(key, 1, 1, value) for key, value in metrics.items()]))
    return runs


def quoted(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from([f"{q}{text.replace(q, q * 2)}{q}" for q in "'\""])


@st.composite
def literals(draw: st.DrawFn) -> str:
    return draw(quoted(draw(TEXTS | st.sampled_from(["%a%", "_", "%", "A%", "%\\%", "%é"]))))


@st.composite
def fields(draw: st.DrawFn, *kinds: str) -> str:
    key = draw(KEYS)
    prefix = draw(st.sampled_from(kinds))
    quote = draw(st.sampled_from('`"'))
    bare = key not in {"a b"} and draw(st.booleans())
    return f"{prefix}.{key}" if bare else f"{prefix}.{quote}{key}{quote}"


ORDERED = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
TEXTUAL = st.sampled_from(["=", "!=", "LIKE", "ilike"])


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 5))
    if kind == 0:
        number = draw(
            st.sampled_from(["0", "0", "-1", ".5", "1e300", "-1e999", "0.30000000000000004"])
        )
        return f"{draw(fields('metrics', 'metric'))} {draw(ORDERED)} {number}"
    if kind == 1:
        field = draw(fields("params", "param", "parameter", "tags", "tag"))
        if draw(st.booleans()):
            return f"{field} {draw(st.sampled_from(['IS NULL', 'is not null']))}"
        return f"{field} {draw(TEXTUAL)} {draw(literals())}"
    if kind == 2:
        field = draw(
            st.sampled_from(["run_name", "attributes.status", "user_id", "attr.`run name`"])
        )
        value = draw(literals() | st.sampled_from(["'FINISHED'", "'ada'", "'F%'"]))
        return f"{field} {draw(TEXTUAL)} {value}"
    if kind == 3:
        field = draw(st.sampled_from(["start_time", "attributes.end_time", "run.created"]))
        return f"{field} {draw(ORDERED)} {draw(st.integers(-1, 6))}"
    field = "dataset." + draw(st.sampled_from(["name", "digest", "context"]))
    if kind == 4:
        return f"{field} {draw(TEXTUAL)} {draw(literals())}"
    listed = ", ".join(draw(st.lists(literals(), min_size=1, max_size=3)))
    return f"{field} {draw(st.sampled_from(['IN', 'not in']))} ({listed})"


FILTERS = st.lists(comparisons(), max_size=3).map(" AND ".join)
ORDERS = st.lists(
    st.tuples(
        fields("metrics", "params", "tags")
        | st.sampled_from(["run_name", "status", "start_time", "end_time", "artifact_uri"]),
        st.sampled_from(["", " ASC", " desc"]),
    ).map("".join),
    max_size=3,
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
async def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Database]:
    if request.param == "sqlite":
        config = await fresh_database(tmp_path_factory.mktemp("filters"))
    else:
        config = await fresh_postgres(request.getfixturevalue("postgres_url"))
    async with Database(config) as database:
        yield database


@pytest.fixture(scope="module")
def sql(database: Database) -> Store:
    return SqlStore(database, InMemoryPoints())


@pytest.fixture(scope="module")
def narrow(database: Database) -> Store:
    """The same rows, looked at as those of experiments with many runs are."""
    limits = Narrowing(least_runs=1, rows_per_run=1000, most=5, per_found=1)
    return SqlStore(database, InMemoryPoints(), limits)


async def fill(store: Store, experiment: Experiment, infos: list[RunInfo], runs: list[Any]) -> None:
    async with store.write() as work:
        await work.experiments.add(experiment)
        await work.commit()

    def task(work: Transaction) -> None:
        work.add_runs([Run(info) for info in infos])
        for info, (_, news, points) in zip(infos, runs, strict=True):
            work.log({info.run_id: [news]}, {})
            work.add_points({info.run_id: Points.of(points)})

    await store.transact(task)


async def pages(store: Store, query: RunQuery) -> list[str]:
    """The ids that a query finds, page by page, each position through its written form."""
    seen: list[str] = []
    async with store.read() as view:
        while True:
            found = [run async for run in view.runs.find(query)]
            seen += [run.info.run_id for run in found]
            if len(found) < query.limit:
                return seen
            last = found[-1]
            after = position_after(
                run_values(last),
                query.order,
                time=last.info.started_at,
                identifier=last.info.run_id,
            )
            assert read_position(write_position(after), query.order) == after
            query = replace(query, after=after)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(runs=logged_runs(), text=FILTERS, order=ORDERS, limit=st.integers(1, 4))
async def test_sql_finds_what_the_evaluator_finds(
    sql: Store, narrow: Store, runs: list[Any], text: str, order: list[str], limit: int
) -> None:
    experiment_id = new_id()
    experiment = Experiment(
        experiment_id=experiment_id,
        name=experiment_id,
        artifact_location="s3://x",
        created_by="ada",
        created_at=1,
        updated_at=1,
        etag="e",
    )
    infos = [
        RunInfo(
            run_id=new_id(),
            experiment_id=experiment_id,
            artifact_location=f"s3://x/{number % 2}",
            etag="e",
            **values,
        )
        for number, (values, _, _) in enumerate(runs)
    ]
    memory = InMemoryStore()
    for store in (sql, memory):
        await fill(store, experiment, infos, runs)
    query = RunQuery(
        experiment_ids=[experiment_id],
        filter=parse_filter(text, RUNS),
        order=parse_order_by(order, RUNS),
        limit=100,
    )
    expected = await pages(memory, query)
    assert await pages(sql, query) == expected
    assert await pages(narrow, query) == expected
    for store in (sql, narrow):
        assert await pages(store, replace(query, limit=limit)) == expected
    assert await pages(memory, replace(query, limit=limit)) == expected


WORDS = st.sampled_from(
    [
        *(
            "metrics",
            ".",
            "a",
            "`",
            "'",
            '"',
            "params.k",
            "AND",
            "=",
            "!=",
            "<=",
            "'x'",
            "1",
            "-1e5",
        ),
        *("(", ")", ",", "IS", "NOT", "NULL", "IN", "LIKE", "\x00", "status", "OR", "tags.`a b`"),
    ]
)


@settings(max_examples=500, deadline=None)
@given(text=st.text(max_size=40) | st.lists(WORDS, max_size=12).map(" ".join))
@pytest.mark.parametrize("schema", [RUNS, EXPERIMENTS], ids=["runs", "experiments"])
def test_any_text_parses_or_says_where_it_does_not(schema: Schema, text: str) -> None:
    try:
        parse_filter(text, schema)
    except InvalidFilter as error:
        assert 1 <= int(error.metadata["position"]) <= len(text) + 1
        assert error.violations[0].field == "filter"
    try:
        parse_order_by([text], schema)
    except InvalidOrderBy as error:
        assert 1 <= int(error.metadata["position"]) <= len(text) + 1
        assert error.violations[0].field == "order_by[0]"
