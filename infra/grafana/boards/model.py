"""Dashboards as values: a dashboard has rows, a row has panels, a panel has queries."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from textwrap import dedent
from typing import Final

__all__ = [
    "CLICKHOUSE",
    "PROMETHEUS",
    "ClickHouseVariable",
    "Column",
    "Dashboard",
    "DataSource",
    "Kind",
    "Link",
    "Panel",
    "Prom",
    "PromVariable",
    "Row",
    "Shape",
    "Sql",
    "Step",
    "TextVariable",
    "Variable",
    "stat",
    "steps",
]


@dataclass(frozen=True, slots=True)
class DataSource:
    """A data source that `provisioning/datasources` declares."""

    type: str
    uid: str


PROMETHEUS: Final = DataSource("prometheus", "tessera-prometheus")
CLICKHOUSE: Final = DataSource("grafana-clickhouse-datasource", "tessera-clickhouse")


class Kind(enum.Enum):
    """How a panel draws."""

    TIME_SERIES = "timeseries"
    STAT = "stat"
    TABLE = "table"
    LOGS = "logs"
    TRACE = "traces"


class Shape(enum.Enum):
    """What rows of SQL are read as: Grafana's name of the query type, and the plugin's number."""

    TIME_SERIES = ("timeseries", 0)
    """A column of time in order, texts as labels, numbers as values."""
    TABLE = ("table", 1)
    LOGS = ("logs", 2)
    """`timestamp`, `body`, `level`, and further columns as labels."""
    TRACE = ("traces", 3)
    """`traceID`, `spanID`, `parentSpanID`, `serviceName`, `operationName`, `startTime`, …"""


@dataclass(frozen=True, slots=True)
class Prom:
    """A PromQL query."""

    expression: str
    legend: str = "__auto"
    instant: bool = False
    """Only the value at the end of the time range."""


@dataclass(frozen=True, slots=True)
class Sql:
    """A query of ClickHouse, in the plugin's macros and the dashboard's variables."""

    text: str
    shape: Shape = Shape.TABLE

    @property
    def lines(self) -> str:
        """The text without the indentation of the module that it is written in."""
        return dedent(self.text).strip()


@dataclass(frozen=True, slots=True)
class Step:
    """A threshold: from `value` on (from the beginning when None) it is drawn in `color`."""

    value: float | None
    color: str


def steps(warn: float, bad: float | None = None) -> tuple[Step, ...]:
    """Green, yellow from `warn` on, and red from `bad` on; a `bad` below `warn` turns it around."""
    if bad is None:
        return Step(None, "green"), Step(warn, "red")
    if bad < warn:
        return Step(None, "red"), Step(bad, "yellow"), Step(warn, "green")
    return Step(None, "green"), Step(warn, "yellow"), Step(bad, "red")


@dataclass(frozen=True, slots=True)
class Link:
    """Where a click on a value leads."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Column:
    """How one column of a table is shown."""

    name: str
    unit: str | None = None
    width: int | None = None
    link: Link | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel. Its description says what it shows and what to make of it."""

    title: str
    description: str
    queries: tuple[Prom | Sql, ...]
    kind: Kind = Kind.TIME_SERIES
    unit: str = "short"
    """Grafana's id of a unit, as `s`, `reqps`, `percentunit`, `bytes`."""
    thresholds: tuple[Step, ...] = ()
    """Lines in a time series, colours elsewhere."""
    minimum: float | None = 0
    """Least value of the axis; None lets Grafana choose."""
    maximum: float | None = None
    stacked: bool = False
    points: bool = False
    """Whether each value is marked: for values that are far apart."""
    columns: tuple[Column, ...] = ()
    width: int = 8
    """In 24ths of the page."""
    height: int = 8
    empty: str = "no data"
    """What is shown where there is nothing."""

    def __post_init__(self) -> None:
        if len({source_of(query) for query in self.queries}) != 1:
            raise ValueError(f"panel {self.title!r} needs queries of one data source")

    @property
    def source(self) -> DataSource:
        """Whom it asks."""
        return source_of(self.queries[0])


def stat(
    title: str,
    description: str,
    query: Prom | Sql,
    *,
    unit: str = "short",
    thresholds: tuple[Step, ...] = (),
    empty: str = "no data",
) -> Panel:
    """A small panel of one number; six stand side by side."""
    return Panel(
        title,
        description,
        (query,),
        kind=Kind.STAT,
        unit=unit,
        thresholds=thresholds,
        width=4,
        height=4,
        empty=empty,
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A part of the page with a heading; closed ones ask nothing until they are opened."""

    title: str
    panels: tuple[Panel, ...]
    closed: bool = False


@dataclass(frozen=True, slots=True)
class PromVariable:
    """A choice among the values of a label."""

    name: str
    label: str
    query: str
    """As `label_values(metric, label)`."""


@dataclass(frozen=True, slots=True)
class ClickHouseVariable:
    """A choice among what a query returns: one column, or what to put in and what to show."""

    name: str
    label: str
    sql: str
    many: bool = False
    """Whether several, or all, may be chosen."""

    @property
    def lines(self) -> str:
        """The query without the indentation of the module that it is written in."""
        return dedent(self.sql).strip()


@dataclass(frozen=True, slots=True)
class TextVariable:
    """A text that a person types, or a link brings."""

    name: str
    label: str


Variable = PromVariable | ClickHouseVariable | TextVariable


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    span: str = "1h"
    """How far back it looks at first."""
    refresh: str = "10s"
    tags: tuple[str, ...] = field(default=("tessera",))


def source_of(query: Prom | Sql) -> DataSource:
    """Whom a query asks."""
    return PROMETHEUS if isinstance(query, Prom) else CLICKHOUSE
