"""Queries of rows: conditions, order and limit, checked against a table's columns."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.catalog.domain.column_types import FLOATS, INTEGERS, ColumnType, parse_type
from services.catalog.domain.details import Column
from services.catalog.errors import InvalidPredicate, of_field

__all__ = ["Operator", "OrderTerm", "Predicate", "RowQuery", "Scalar", "check_query"]


class Operator(enum.IntEnum):
    """The numbers are those of `tessera.catalog.v1.ComparisonOperator`."""

    EQUAL = 1
    NOT_EQUAL = 2
    LESS = 3
    LESS_OR_EQUAL = 4
    GREATER = 5
    GREATER_OR_EQUAL = 6
    IN = 7
    IS_NULL = 8
    IS_NOT_NULL = 9


Scalar = str | float | int | bool
NO_VALUE = frozenset({Operator.IS_NULL, Operator.IS_NOT_NULL})
_MAX_LIST = 10_000
_ORDERED = frozenset({"Date", "Date32", "DateTime", "DateTime64"}) | INTEGERS | FLOATS
_TEXTS = frozenset({"String", "FixedString", "UUID", "IPv4", "IPv6", "Enum8", "Enum16"})
_INTEGER = re.compile(r"-?\d{1,78}\Z")
_DECIMAL = re.compile(r"-?\d{1,76}(\.\d{1,76})?\Z")
_SAFE_INTEGER = 1 << 53


@dataclass(frozen=True, slots=True)
class Predicate:
    """A condition on one column; `values` has one item, none for null tests, any number for IN."""

    column: str
    operator: Operator
    values: tuple[Scalar, ...] = ()


@dataclass(frozen=True, slots=True)
class OrderTerm:
    """One column to order by."""

    column: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class RowQuery:
    """Which rows and columns; `columns` empty for all, `limit` 0 for all."""

    columns: tuple[str, ...] = ()
    predicates: tuple[Predicate, ...] = ()
    order_by: tuple[OrderTerm, ...] = ()
    limit: int = 0


def check_query(query: RowQuery, columns: Sequence[Column]) -> RowQuery:
    """Return the query with every value as canonical text of its column's type.

    Raises:
        InvalidPredicate: A column is not there, or a value does not fit its type; the violation
            names the field.
    """
    types = {column.name: parse_type(column.data_type) for column in columns}
    for index, name in enumerate(query.columns):
        _typed(types, name, f"columns[{index}]")
        if name in query.columns[:index]:
            raise of_field(InvalidPredicate, f"columns[{index}]", "occurs twice")
    for index, term in enumerate(query.order_by):
        kind = _typed(types, term.column, f"order_by[{index}]")
        if kind.base.name in ("JSON", "Map"):
            raise of_field(InvalidPredicate, f"order_by[{index}]", f"is a {kind.base.name}")
    predicates = tuple(
        _checked(predicate, types, f"predicates[{index}]")
        for index, predicate in enumerate(query.predicates)
    )
    return RowQuery(query.columns, predicates, query.order_by, query.limit)


def _typed(types: dict[str, ColumnType], name: str, field: str) -> ColumnType:
    kind = types.get(name)
    if kind is None:
        raise of_field(InvalidPredicate, field, f"names no column of the table: {name[:80]!r}")
    return kind


def _checked(predicate: Predicate, types: dict[str, ColumnType], field: str) -> Predicate:
    kind = _typed(types, predicate.column, f"{field}.column").base
    if predicate.operator in NO_VALUE:
        return Predicate(predicate.column, predicate.operator)
    count = len(predicate.values)
    if predicate.operator is Operator.IN:
        if not 1 <= count <= _MAX_LIST:
            text = f"must be a list of 1 to {_MAX_LIST} values"
            raise of_field(InvalidPredicate, f"{field}.value", text)
    elif count != 1:
        raise of_field(InvalidPredicate, f"{field}.value", "must be one text, number or bool")
    if not _comparable(kind):
        text = f"is a {kind}, which is only tested for null"
        raise of_field(InvalidPredicate, f"{field}.column", text)
    try:
        values = tuple(_canonical(value, kind) for value in predicate.values)
    except ValueError as error:
        text = f"does not fit {kind}: {error}"
        raise of_field(InvalidPredicate, f"{field}.value", text) from None
    return Predicate(predicate.column, predicate.operator, values)


def _comparable(kind: ColumnType) -> bool:
    name = kind.name
    return name in _ORDERED or name in _TEXTS or name == "Bool" or name.startswith("Decimal")


def _canonical(value: Scalar, kind: ColumnType) -> str:
    """The value as the text that ClickHouse reads for the type."""
    name = kind.name
    if name == "Bool":
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return "true" if value else "false"
    if isinstance(value, bool):
        raise ValueError("must not be a bool")
    if name in INTEGERS:
        return _integer(value, name)
    if name in FLOATS:
        return _float(value)
    if name.startswith("Decimal"):
        return _decimal(value)
    if not isinstance(value, str):
        raise ValueError("must be a text")
    if name in ("DateTime", "DateTime64"):
        return _instant(value)
    if name in ("Date", "Date32"):
        return datetime.strptime(value, "%Y-%m-%d").date().isoformat()  # noqa: DTZ007
    return value


def _integer(value: str | float, name: str) -> str:
    if isinstance(value, str):
        if not _INTEGER.match(value):
            raise ValueError("must be a whole number")
        number = int(value)
    else:
        if not math.isfinite(value) or value != int(value):
            raise ValueError("must be a whole number")
        if abs(value) > _SAFE_INTEGER:
            raise ValueError("numbers beyond 2^53 must be written as text")
        number = int(value)
    bits = int(name.lstrip("UInt"))
    low, high = (
        (0, (1 << bits) - 1) if name[0] == "U" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    )
    if not low <= number <= high:
        raise ValueError(f"must be {low} to {high}")
    return str(number)


def _float(value: str | float) -> str:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return repr(number)


def _decimal(value: str | float) -> str:
    text = value if isinstance(value, str) else format(value, "f")
    if not _DECIMAL.match(text):
        raise ValueError("must be a decimal number")
    return text


def _instant(value: str) -> str:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
