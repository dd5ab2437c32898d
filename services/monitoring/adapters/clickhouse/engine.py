"""What the SQL is run by: the part of `tessera_kit.store.clickhouse.ClickHouse` that is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Engine", "Query", "Result", "layers", "quote", "text"]

Parameters = Mapping[str, Any]


class Result(Protocol):
    """Rows of a query."""

    @property
    def rows(self) -> Sequence[Sequence[Any]]:
        """The rows, each a sequence of values in the order of the columns."""

    @property
    def column_names(self) -> Sequence[str]:
        """The names of the columns."""


class Engine(Protocol):
    """Runs SQL with parameters written as `{name:Type}`."""

    async def query(
        self,
        sql: str,
        parameters: Parameters | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Result:
        """Run a SELECT."""

    async def command(
        self,
        sql: str,
        parameters: Parameters | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run anything else."""

    async def insert(
        self,
        table: str,
        rows: Sequence[Sequence[Any]],
        column_names: Sequence[str],
        database: str | None = None,
        deduplication_token: str | None = None,
    ) -> Any:
        """Insert rows."""


@dataclass(frozen=True, slots=True)
class Query:
    """SQL text with the values of its parameters."""

    sql: str
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def bound(self) -> dict[str, Any]:
        """The parameters that the text names; builders may hold more."""
        return {name: value for name, value in self.parameters.items() if f"{{{name}:" in self.sql}

    def wrap(self, before: str, after: str = "", **parameters: Any) -> Query:
        """This query in parentheses between two texts, with further parameters."""
        return Query(f"{before} ({self.sql}) {after}", {**self.parameters, **parameters})


def quote(identifier: str) -> str:
    """An identifier between backticks, fit for any text."""
    escaped = identifier.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def text(value: str) -> str:
    """A text as an SQL literal; for names that become part of an expression, such as a column's."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def layers(source: str, *layers: Mapping[str, str]) -> str:
    """Nested SELECTs, each with further columns made of those below.

    The columns of a layer must not use each other: ClickHouse would analyse an alias anew wherever
    it stands, and that costs more than what is computed.
    """
    for layer in layers:
        columns = ", ".join(f"{value} AS {name}" for name, value in layer.items())
        source = f"SELECT *, {columns} FROM ({source})"
    return source
