"""Queries of rows."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.struct_pb2 import Value

from services.catalog.domain.rows import Operator, OrderTerm, Predicate, RowQuery, Scalar
from services.catalog.errors import InvalidPredicate, of_field
from tessera.catalog.v1 import table_data_service_pb2 as pb

__all__ = ["count_query", "read_query"]


def read_query(request: pb.ReadTableRequest) -> RowQuery:
    """Which rows and columns a read asks for.

    Raises:
        InvalidPredicate: A condition has no value that can be compared.
    """
    return RowQuery(
        columns=tuple(request.columns),
        predicates=_predicates(request.predicates),
        order_by=tuple(
            OrderTerm(term.removeprefix("-"), term.startswith("-")) for term in request.order_by
        ),
        limit=request.limit,
    )


def count_query(request: pb.CountRowsRequest) -> RowQuery:
    """Which rows a count asks for. Raises as `read_query`."""
    return RowQuery(predicates=_predicates(request.predicates))


def _predicates(predicates: Sequence[pb.Predicate]) -> tuple[Predicate, ...]:
    return tuple(
        _predicate(predicate, f"predicates[{index}]") for index, predicate in enumerate(predicates)
    )


def _predicate(predicate: pb.Predicate, field: str) -> Predicate:
    operator = Operator(predicate.operator)
    value = predicate.value
    if operator in (Operator.IS_NULL, Operator.IS_NOT_NULL):
        return Predicate(predicate.column, operator)
    if operator is Operator.IN:
        if value.WhichOneof("kind") != "list_value":
            raise of_field(InvalidPredicate, f"{field}.value", "must be a list for IN")
        items = value.list_value.values
        return Predicate(
            predicate.column, operator, tuple(_scalar(item, f"{field}.value") for item in items)
        )
    return Predicate(predicate.column, operator, (_scalar(value, f"{field}.value"),))


def _scalar(value: Value, field: str) -> Scalar:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return value.number_value
        case "bool_value":
            return value.bool_value
    raise of_field(InvalidPredicate, field, "must be a text, number or bool")
