"""Grafana's provisioned dashboards as Grafana reads them: panels, queries, variables, macros."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import promql_parser

from infra.grafana.boards import promql
from tessera_kit.telemetry import names
from tessera_kit.telemetry.names import Instrument, Metric

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "infra/grafana/provisioning/dashboards"
PROMETHEUS = "tessera-prometheus"
CLICKHOUSE = "tessera-clickhouse"
SCRAPED = {"service", "job", "instance"}
"""Labels that Prometheus gives to whatever it scrapes."""

Value = str | Sequence[str]


@dataclass(frozen=True)
class PanelQuery:
    """One query of one panel."""

    dashboard: str
    panel: str
    source: str
    text: str
    format: int | str

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel}"


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard by the name of its file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel that shows something, those of closed rows too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def queries(source: str) -> list[PanelQuery]:
    """Every query of a data source, by its uid."""
    return [
        PanelQuery(name, panel["title"], source, _text(target), target["format"])
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel["targets"]
        if target["datasource"]["uid"] == source
    ]


def _text(target: Mapping[str, Any]) -> str:
    return str(target["expr"] if "expr" in target else target["rawSql"])


def with_variables(text: str, variables: Mapping[str, Value]) -> str:
    """The text with `$name`, `${name}` and `${name:format}` as Grafana puts them in."""

    def put(found: re.Match[str]) -> str:
        name, form = found["plain"] or found["name"], found["form"]
        value = variables[name]
        values = [value] if isinstance(value, str) else list(value)
        match form:
            case None | "raw":
                return "','".join(values)
            case "sqlstring":
                return ",".join("'" + one.replace("'", "''") + "'" for one in values)
            case "pipe":
                return "|".join(values)
        raise AssertionError(f"the format {form} is not known here")

    return re.sub(r"\$(?:(?P<plain>[a-z]\w*)|\{(?P<name>[a-z]\w*)(?::(?P<form>\w+))?\})", put, text)


def with_macros(text: str, begin: datetime, end: datetime, interval: int = 30) -> str:
    """SQL with the macros of Grafana's ClickHouse plugin as the plugin expands them."""
    first, last = f"toDateTime({int(begin.timestamp())})", f"toDateTime({int(end.timestamp())})"
    text = re.sub(
        r"\$__timeFilter\(([^()]+)\)",
        lambda found: f"{found[1]} >= {first} AND {found[1]} <= {last}",
        text,
    )
    text = re.sub(
        r"\$__timeInterval\(([^()]+)\)",
        lambda found: f"toStartOfInterval(toDateTime({found[1]}), INTERVAL {interval} second)",
        text,
    )
    assert "$__" not in text, text
    return text


def with_durations(expression: str, rate: str, span: str) -> str:
    """PromQL with the durations that Grafana puts in."""
    text = expression.replace("$__rate_interval", rate).replace("$__range", span)
    assert "$__" not in text, text
    return text


@dataclass(frozen=True)
class Selector:
    """One choice of time series in PromQL."""

    name: str
    labels: frozenset[str]


def selectors(expression: str) -> list[Selector]:
    """The series that PromQL asks for, with the labels that it asks of them or groups them by.

    Raises:
        ValueError: Prometheus would not take it: its grammar or its types are wrong.
    """
    return list(
        _selectors(promql_parser.parse(with_durations(expression, "1m", "1h")), frozenset())
    )


def _selectors(node: promql_parser.Expr, labels: frozenset[str]) -> Iterator[Selector]:
    match node:
        case promql_parser.VectorSelector():
            asked = {matcher.name for matcher in node.matchers.matchers}
            yield Selector(node.name, labels | asked)
        case promql_parser.MatrixSelector():
            yield from _selectors(node.vector_selector, labels)
        case promql_parser.AggregateExpr():
            grouped = node.modifier.labels if node.modifier else ()
            yield from _selectors(node.expr, labels | frozenset(grouped))
        case promql_parser.BinaryExpr():
            matched = node.modifier.matching if node.modifier else None
            for side in (node.lhs, node.rhs):
                yield from _selectors(side, labels | frozenset(matched.labels if matched else ()))
        case promql_parser.Call():
            for argument in node.args:
                yield from _selectors(argument, labels)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _selectors(node.expr, labels)


def declared() -> dict[str, set[str]]:
    """Labels by the name of every time series that the services, or others, may have."""
    found = {series.name: set(series.labels) for series in promql.OTHERS}
    for metric in names.all_metrics():
        found |= {name: set(metric.labels) for name in series_of(metric)}
        if metric.instrument is Instrument.HISTOGRAM:
            found[f"{metric.prometheus_name}_bucket"] = {*metric.labels, "le"}
    return found


def series_of(metric: Metric) -> list[str]:
    """The names of a metric's time series."""
    name = metric.prometheus_name
    match metric.instrument:
        case Instrument.COUNTER:
            return [f"{name}_total"]
        case Instrument.GAUGE:
            return [name]
        case Instrument.HISTOGRAM:
            return [f"{name}_count", f"{name}_sum", f"{name}_bucket"]
