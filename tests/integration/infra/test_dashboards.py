"""The query of every panel runs on a platform that lives, and shows what happened there."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from devstack import Stack
from infra.grafana.boards import promql
from infra.prometheus.embedded import pages as metric_pages
from tessera_kit.telemetry import names
from tests.dashboards import (
    CLICKHOUSE,
    PROMETHEUS,
    PanelQuery,
    Value,
    dashboards,
    queries,
    selectors,
    with_durations,
    with_macros,
    with_variables,
)
from tests.helpers import eventually
from tests.integration.infra.life import FIRST, WINDOW, WINDOWS, Life
from tests.integration.infra.prometheus import (
    Prometheus,
    get,
    labels_on,
    run_prometheus,
)

pytestmark = pytest.mark.timeout(300)

# They show something only when something went wrong, or for another kind of model or work.
QUIET = {
    "platform / Failed spans",
    "platform / Dead letters",
    "platform / Duplicates",
    "platform / Failed handling",
    "platform / Background failures",
    "platform / Telemetry that was dropped",
    "platform / Webhooks given up",
    "platform / Rows written in batches",
    "platform / Rows that wait to be written",
    "platform / Training jobs",
    "platform / Training jobs that ended",
    "platform / Points that runs logged",
    "platform / Purged for good",
    "platform / Warnings and errors logged",
    "serving / Duplicates and dead letters",
    "serving / Mirrored requests",
    "serving / Fallbacks",
    "trace / Logged in this trace",
    "monitoring / Root mean squared error",
    "monitoring / Mean absolute error",
    # Only numbers have these, and only categories those; a window may have no row of a class.
    "monitoring / Total variation distance",
    "monitoring / Chi-squared test, p-value",
}


@pytest.fixture(scope="module")
async def variables(life: Life, clickhouse: Any) -> dict[str, dict[str, Value]]:
    """What a person chooses on each page: of all offered, what this test made."""
    chosen: dict[str, dict[str, Value]] = {}
    for name, board in dashboards().items():
        mine = chosen[name] = {"service": ".*", "endpoint": ".*", "trace": life.trace_id}
        for variable in board["templating"]["list"]:
            if variable.get("datasource", {}).get("uid") != CLICKHOUSE:
                continue
            offered = await rows(clickhouse, with_variables(variable["query"]["rawSql"], mine))
            found = [str(row[0]) for row in offered]
            mine[variable["name"]] = found if variable["multi"] else pick(found, life)
    return chosen


def pick(offered: list[str], life: Life) -> str:
    schema, table = life.served.schema.split(".")[1], life.served.table.rpartition(".")[2]
    for value in offered:
        if (schema in value and table in value) or value in {life.monitor, "model_version"}:
            return value
    assert len(offered) == 1, offered
    return offered[0]


async def rows(clickhouse: Any, sql: str) -> list[tuple[Any, ...]]:
    return list((await clickhouse.query(sql)).result_rows)


def time_range(query: PanelQuery, life: Life) -> tuple[datetime, datetime]:
    if query.dashboard == "monitoring" and "otel_logs" not in query.text:
        return FIRST - WINDOW, FIRST + WINDOWS * WINDOW
    return life.begin, datetime.now(UTC) + timedelta(seconds=5)


@pytest.mark.parametrize("query", queries(CLICKHOUSE), ids=str)
async def test_sql(
    query: PanelQuery, life: Life, variables: dict[str, dict[str, Value]], clickhouse: Any
) -> None:
    text = with_variables(query.text.replace("$__", "\0"), variables[query.dashboard])

    async def answered() -> Any:
        sql = with_macros(text.replace("\0", "$__"), *time_range(query, life))
        result = await clickhouse.query(sql)
        # Spans and logs are written a second after they ended.
        return result if result.result_rows or str(query) in QUIET else None

    result = await eventually(answered, timeout=15, interval=0.25)
    if not result.result_rows:
        return
    if query.format == 0:
        assert result.column_names[0] == "time"
        times = [row[0] for row in result.result_rows]
        assert times == sorted(times)
        kinds = [kind.base_type for kind in result.column_types[1:]]
        assert any(kind.startswith(("Float", "UInt", "Int")) for kind in kinds), kinds
    if query.format == 2:
        assert result.column_names[:3] == ("timestamp", "body", "level")


@pytest.fixture(scope="module")
async def pages(platform: Stack, life: Life) -> dict[str, set[str]]:
    """Samples on all metrics pages, with the labels that they have there."""
    found: dict[str, set[str]] = {"up": set()}
    for url in metric_pages(platform).values():
        for name, labels in labels_on(await get(url)).items():
            found.setdefault(name, set()).update(labels)
    return found


@pytest.mark.parametrize("query", queries(PROMETHEUS), ids=str)
def test_series_are_on_the_pages_of_processes(
    query: PanelQuery, pages: dict[str, set[str]]
) -> None:
    others = {series.name for series in promql.OTHERS}
    ours = {metric.prometheus_name for metric in names.all_metrics()}
    for selector in selectors(query.text):
        if selector.name in pages:
            shown = pages[selector.name] | {"service", "job", "instance"}
            asked = {label for label in selector.labels if label != "le" or "le" in shown}
            assert asked <= shown
        else:
            # It appears with the first event of its kind.
            assert selector.name not in others
            stem = selector.name.removesuffix("_total").removesuffix("_bucket")
            assert stem.removesuffix("_count").removesuffix("_sum") in ours
            assert str(query) in QUIET


@pytest.fixture(scope="module")
async def prometheus(
    platform: Stack, life: Life, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Prometheus]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no prometheus program on PATH to evaluate the queries with")
    home: Path = tmp_path_factory.mktemp("prometheus")
    async with run_prometheus(program, home, metric_pages(platform)) as server:
        yield server


@pytest.mark.parametrize("query", queries(PROMETHEUS), ids=str)
async def test_promql(query: PanelQuery, life: Life, prometheus: Prometheus) -> None:
    chosen = {"service": ".*", "endpoint": ".*", "monitor": life.monitor}
    expression = with_variables(with_durations(query.text, "1m", "1h"), chosen)

    async def answered() -> bool:
        # A page that was read too late once leaves a gap.
        return bool(await prometheus.query(expression)) or str(query) in QUIET

    await eventually(answered, timeout=15, interval=0.5)
