"""The dashboards are current, readable, and ask only for what exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.grafana import dashboards as made
from infra.grafana.boards import promql
from infra.grafana.boards.model import Panel, Prom, Sql
from tessera_kit.telemetry import names
from tests.dashboards import (
    PROMETHEUS,
    ROOT,
    SCRAPED,
    Selector,
    dashboards,
    declared,
    panels,
    queries,
    selectors,
    series_of,
    with_variables,
)

BOARDS = dashboards()


def test_committed_json_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert made.main(["check"]) == 0, capsys.readouterr().err


def test_check_notices_what_is_stale_missing_or_left_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.main(["generate"], tmp_path) == 0
    assert made.main(["check"], tmp_path) == 0
    (tmp_path / "platform.json").write_text("{}")
    (tmp_path / "serving.json").unlink()
    (tmp_path / "old.json").write_text("{}")
    assert made.main(["check"], tmp_path) == 1
    told = capsys.readouterr().err
    assert all(name in told for name in ("platform.json", "serving.json", "old.json"))
    assert "monitoring.json" not in told


def test_unknown_arguments_are_refused() -> None:
    assert made.main([]) == 2


def test_every_data_source_is_provisioned() -> None:
    file = ROOT / "infra/grafana/provisioning/datasources/tessera.yaml"
    provisioned = {
        (source["type"], source["uid"])
        for source in yaml.safe_load(file.read_text())["datasources"]
    }
    for board in BOARDS.values():
        asked: list[dict[str, str]] = []
        for panel in panels(board):
            asked += [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        asked += [
            variable["datasource"]
            for variable in board["templating"]["list"]
            if "datasource" in variable
        ]
        assert {(source["type"], source["uid"]) for source in asked} <= provisioned


@pytest.mark.parametrize("query", queries(PROMETHEUS), ids=str)
def test_every_series_and_label_is_declared(query: Any) -> None:
    known = declared()
    found = selectors(query.text)
    assert found
    for selector in found:
        assert selector.name in known
        assert selector.labels <= known[selector.name] | SCRAPED


def test_every_metric_is_on_a_page() -> None:
    shown = {selector.name for query in queries(PROMETHEUS) for selector in selectors(query.text)}
    missing = [metric.name for metric in names.all_metrics() if shown.isdisjoint(series_of(metric))]
    assert missing == []


@pytest.mark.parametrize("name", BOARDS)
def test_page_is_laid_out_without_gaps_in_meaning(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == f"tessera-{name}"
    assert board["description"]
    everything = [*board["panels"], *panels(board)]
    numbers = {panel["id"]: panel["title"] for panel in everything}
    assert len(numbers) == len({(panel["id"], panel["title"]) for panel in everything})
    taken: set[tuple[int, int]] = set()
    for panel in panels(board):
        assert panel["description"].endswith("."), panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", BOARDS)
def test_variables_that_are_used_are_declared(name: str) -> None:
    board = BOARDS[name]
    known = dict.fromkeys((variable["name"] for variable in board["templating"]["list"]), "x")
    for panel in panels(board):
        for target in panel["targets"]:
            text = target.get("expr") or target["rawSql"]
            with_variables(text.replace("$__", "__"), known)


def test_links_lead_to_pages_that_exist() -> None:
    uids = {board["uid"] for board in BOARDS.values()}
    for board in BOARDS.values():
        for panel in panels(board):
            for override in panel["fieldConfig"]["overrides"]:
                for change in override["properties"]:
                    if change["id"] == "links":
                        for link in change["value"]:
                            assert link["url"].split("/d/")[1].split("?")[0] in uids


def test_promql_refuses_labels_and_kinds_that_a_metric_does_not_have() -> None:
    with pytest.raises(ValueError, match="has no label"):
        promql.rate(promql.total(names.SINK_ROWS), (names.RPC_METHOD,))
    with pytest.raises(ValueError, match="is a gauge"):
        promql.total(names.OUTBOX_PENDING)
    with pytest.raises(ValueError, match="is a counter"):
        promql.quantile(0.5, names.SINK_ROWS)


def test_a_panel_asks_one_data_source() -> None:
    with pytest.raises(ValueError, match="one data source"):
        Panel("mixed", "Two.", (Prom("up"), Sql("SELECT 1")))


def test_selectors_are_read_from_promql() -> None:
    expression = (
        '(sum by (a, le) (rate(x_total{b=~"y{}(c)", d!="by"}[5m])) or vector(1) * 0) / 1e6 > bool z'
    )
    grouped = frozenset({"a", "le"})
    assert selectors(expression) == [
        Selector("x_total", frozenset({"b", "d"}) | grouped),
        Selector("z", frozenset()),
    ]


@pytest.mark.parametrize("expression", ["rate(x_total)", "sum(x_total", "x_total{a=b}", "x by (a)"])
def test_what_prometheus_would_not_take_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        selectors(expression)
