"""Conditions on columns, written as tuples: `("carrier", "in", ["AA", "UA"])`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import TypeAlias

from google.protobuf import struct_pb2

from tessera.catalog.v1 import table_data_service_pb2 as data

Scalar: TypeAlias = str | int | float | bool | date | datetime | None
Condition: TypeAlias = tuple[str, str, Scalar | Sequence[Scalar]]
"""A column, an operator (`= != < <= > >= in is-null is-not-null`) and a value."""

_OPERATORS = {
    "=": data.COMPARISON_OPERATOR_EQUAL,
    "==": data.COMPARISON_OPERATOR_EQUAL,
    "!=": data.COMPARISON_OPERATOR_NOT_EQUAL,
    "<": data.COMPARISON_OPERATOR_LESS,
    "<=": data.COMPARISON_OPERATOR_LESS_OR_EQUAL,
    ">": data.COMPARISON_OPERATOR_GREATER,
    ">=": data.COMPARISON_OPERATOR_GREATER_OR_EQUAL,
    "in": data.COMPARISON_OPERATOR_IN,
    "is-null": data.COMPARISON_OPERATOR_IS_NULL,
    "is-not-null": data.COMPARISON_OPERATOR_IS_NOT_NULL,
}


def predicates(conditions: Iterable[Condition]) -> list[data.Predicate]:
    """The conditions as messages.

    Raises:
        ValueError: An operator is unknown; the text lists those that there are.
    """
    return [_predicate(*condition) for condition in conditions]


def _predicate(column: str, operator: str, value: Scalar | Sequence[Scalar]) -> data.Predicate:
    if operator not in _OPERATORS:
        raise ValueError(
            f"unknown operator {operator!r} for column {column!r}; "
            f"use one of {', '.join(_OPERATORS)}"
        )
    return data.Predicate(column=column, operator=_OPERATORS[operator], value=_value(value))


def _value(value: Scalar | Sequence[Scalar]) -> struct_pb2.Value:
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, int | float):
        return struct_pb2.Value(number_value=value)
    if isinstance(value, datetime):
        return struct_pb2.Value(string_value=value.astimezone(UTC).isoformat())
    if isinstance(value, date):
        return struct_pb2.Value(string_value=value.isoformat())
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    return struct_pb2.Value(
        list_value=struct_pb2.ListValue(values=[_value(item) for item in value])
    )
