"""Filters, orders and pages as SQL; says of every run what `domain.search.evaluate` says."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import sqlalchemy as sa

from services.tracking.adapters.sql.tables import (
    EXPERIMENT_TAGS,
    EXPERIMENTS,
    LATEST_METRICS,
    PURGING,
    RUN_INPUTS,
    RUN_PARAMS,
    RUN_TAGS,
    RUNS,
)
from services.tracking.domain.search.paging import Position
from services.tracking.domain.search.syntax import (
    Comparison,
    Field,
    FieldKind,
    Filter,
    Operator,
    OrderKey,
    ValueKind,
)
from services.tracking.ports.store import ExperimentQuery, RunQuery

__all__ = [
    "Condition",
    "ExperimentSearch",
    "RunSearch",
    "Search",
    "compares",
    "number_compares",
]

Condition = sa.ColumnElement[bool]
"""What a WHERE holds."""


@dataclass(frozen=True, slots=True)
class _Key:
    """One key of an order as columns."""

    rank: sa.ColumnElement[int]
    """0 for a value, 1 for NaN, 2 for none."""
    value: sa.ColumnElement[Any]
    descending: bool
    always: bool = False
    """Whether there is a value always: then the order need not say its rank, and an index may."""


class Search:
    """What searches of different things have in common.

    Args:
        dialect: The database's kind: patterns differ.
    """

    table: ClassVar[sa.Table]
    parent: ClassVar[sa.Column[Any]]
    """Column that the rows of one thing share."""
    time: ClassVar[sa.Column[Any]]
    id: ClassVar[sa.Column[Any]]
    attributes: ClassVar[dict[str, sa.ColumnElement[Any]]]
    pairs: ClassVar[dict[FieldKind, sa.Table]]
    """Tables of keys and values."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect

    def _page(
        self,
        statement: sa.Select[Any],
        *,
        conditions: Filter,
        order: Sequence[OrderKey],
        after: Position | None,
        limit: int,
    ) -> sa.Select[Any]:
        statement = statement.where(*(self._condition(one) for one in conditions))
        keys: list[_Key] = []
        for one in order:
            statement, key = self._key(statement, one)
            keys.append(key)
        if after is not None:
            statement = statement.where(self._behind(keys, after))
        columns: list[Any] = []
        for key in keys:
            columns += [] if key.always else [key.rank]
            columns.append(key.value.desc() if key.descending else key.value.asc())
        return statement.order_by(*columns, self.time.desc(), self.id.desc()).limit(limit)

    # Conditions

    def _condition(self, comparison: Comparison) -> Condition:
        field = comparison.field
        if field.kind is FieldKind.ATTRIBUTE:
            column = self.attributes[field.key]
            # A missing attribute compares to NULL, which is not true, as it should be.
            if field.values is ValueKind.TIME:
                return _time_compares(column, comparison.operator, comparison.value)
            return self._text_compares(column, comparison)
        if field.kind is FieldKind.METRIC:
            return self._exists(LATEST_METRICS, field, number_compares(comparison))
        if field.kind is FieldKind.DATASET:
            compares = self._text_compares(RUN_INPUTS.c[field.key], comparison)
            return sa.exists().where(RUN_INPUTS.c.run_no == self.parent, compares)
        table = self.pairs[field.kind]
        if comparison.operator is Operator.IS_NULL:
            return ~self._exists(table, field)
        if comparison.operator is Operator.IS_NOT_NULL:
            return self._exists(table, field)
        return self._exists(table, field, self._text_compares(table.c.value, comparison))

    def _exists(self, table: sa.Table, field: Field, *conditions: Condition) -> Condition:
        own = table.c[self.parent.name] == self.parent
        return sa.exists().where(own, table.c.key == field.key, *conditions)

    def _text_compares(self, column: sa.ColumnElement[Any], comparison: Comparison) -> Condition:
        value: Any = comparison.value
        if comparison.operator is Operator.LIKE:
            return self._like(column, value)
        if comparison.operator is Operator.ILIKE:
            return self._ilike(column, value)
        return _COMPARE[comparison.operator](column, value)

    def _like(self, column: sa.ColumnElement[Any], pattern: str) -> Condition:
        # SQLite's LIKE ignores case, its GLOB does not. The backslash is no escape here.
        if self._dialect == "sqlite":
            return column.op("GLOB", is_comparison=True)(_glob(pattern))
        return column.like(pattern, escape="")

    def _ilike(self, column: sa.ColumnElement[Any], pattern: str) -> Condition:
        if self._dialect == "sqlite":
            return column.op("LIKE", is_comparison=True)(pattern)
        return column.ilike(pattern, escape="")

    # Orders

    def _key(self, statement: sa.Select[Any], key: OrderKey) -> tuple[sa.Select[Any], _Key]:
        field = key.field
        if field.kind is FieldKind.ATTRIBUTE:
            column: sa.ColumnElement[Any] = self.attributes[field.key]
            if not getattr(column, "nullable", True):
                return statement, _Key(sa.literal(0), column, key.descending, always=True)
            return statement, _Key(_missing(column), column, key.descending)
        table = LATEST_METRICS if field.kind is FieldKind.METRIC else self.pairs[field.kind]
        one = table.alias()
        own = sa.and_(one.c[self.parent.name] == self.parent, one.c.key == field.key)
        statement = statement.outerjoin(one, own)
        rank = _missing(one.c.value)
        if field.kind is FieldKind.METRIC:
            rank = sa.case((one.c.value.is_(None), 2), else_=one.c.is_nan)
        return statement, _Key(rank, one.c.value, key.descending)

    def _behind(self, keys: Sequence[_Key], after: Position) -> Condition:
        """Whether a row comes after a position: later by one key, equal by all before it."""
        equal: list[Condition] = []
        later: list[Condition] = []
        for key, (rank, value) in zip(keys, after.places, strict=True):
            later.append(sa.and_(*equal, key.rank > rank))
            equal.append(key.rank == rank)
            if rank == 0:
                beyond = key.value < value if key.descending else key.value > value
                later.append(sa.and_(*equal, beyond))
                equal.append(key.value == value)
        later.append(sa.and_(*equal, self.time < after.time))
        equal.append(self.time == after.time)
        later.append(sa.and_(*equal, self.id < after.id))
        return sa.and_(self._not_before(keys, after), sa.or_(*later))

    def _not_before(self, keys: Sequence[_Key], after: Position) -> Condition:
        """Say by the first column of the order alone where rows stand, so that an index may."""
        if not keys:
            return self.time <= after.time
        rank, value = after.places[0]
        if rank or not keys[0].always:
            return sa.true()
        return keys[0].value <= value if keys[0].descending else keys[0].value >= value


class RunSearch(Search):
    """Searches runs."""

    table = RUNS
    parent = RUNS.c.run_no
    time = RUNS.c.started_at
    id = RUNS.c.run_id
    attributes: ClassVar[dict[str, sa.ColumnElement[Any]]] = {
        "run_id": RUNS.c.run_id,
        "run_name": RUNS.c.name,
        "status": RUNS.c.status,
        "user_id": RUNS.c.created_by,
        "artifact_uri": RUNS.c.artifact_location,
        "start_time": RUNS.c.started_at,
        "end_time": RUNS.c.ended_at,
    }
    pairs: ClassVar[dict[FieldKind, sa.Table]] = {
        FieldKind.PARAM: RUN_PARAMS,
        FieldKind.TAG: RUN_TAGS,
    }

    def statement(
        self, select: sa.Select[Any], query: RunQuery, *, among: Condition | None = None
    ) -> sa.Select[Any]:
        """Return `select` of the runs that a query finds.

        Args:
            select: What to tell of them.
            query: Which runs.
            among: Chooses, by their numbers, the only ones that are looked at.
        """
        scope = self.scope(query)
        if among is not None:
            # Or SQLite goes through all runs of the experiments and looks for each among those.
            experiment = RUNS.c.experiment_id.concat("").in_(sorted(query.experiment_ids))
            scope = (among, experiment, *scope[1:])
        return self._page(
            select.where(*scope),
            conditions=query.filter,
            order=query.order,
            after=query.after,
            limit=query.limit,
        )

    def scope(self, query: RunQuery) -> tuple[Condition, ...]:
        """Return what is true of the runs that a query asks about, whatever its filter."""
        experiments = RUNS.c.experiment_id.in_(sorted(query.experiment_ids))
        return experiments, *_in_stage(RUNS.c.stage, query)


class ExperimentSearch(Search):
    """Searches experiments."""

    table = EXPERIMENTS
    parent = EXPERIMENTS.c.experiment_id
    time = EXPERIMENTS.c.created_at
    id = EXPERIMENTS.c.experiment_id
    attributes: ClassVar[dict[str, sa.ColumnElement[Any]]] = {
        "experiment_id": EXPERIMENTS.c.experiment_id,
        "name": EXPERIMENTS.c.name,
        "creation_time": EXPERIMENTS.c.created_at,
        "last_update_time": EXPERIMENTS.c.updated_at,
    }
    pairs: ClassVar[dict[FieldKind, sa.Table]] = {FieldKind.TAG: EXPERIMENT_TAGS}

    def statement(self, select: sa.Select[Any], query: ExperimentQuery) -> sa.Select[Any]:
        """Return `select` of the experiments that a query finds."""
        return self._page(
            select.where(*_in_stage(EXPERIMENTS.c.stage, query)),
            conditions=query.filter,
            order=query.order,
            after=query.after,
            limit=query.limit,
        )


def _in_stage(column: sa.Column[str], query: RunQuery | ExperimentQuery) -> tuple[Condition, ...]:
    # No stage that is asked for: some of what is in the table is being removed for good.
    return (column != PURGING,) if query.stage is None else (column == str(query.stage),)


def _missing(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.case((column.is_(None), 2), else_=0)


_COMPARE: dict[Operator, Callable[[sa.ColumnElement[Any], Any], Condition]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_EQUAL: operator.ge,
    Operator.IN: lambda column, values: column.in_(values),
    Operator.NOT_IN: lambda column, values: column.not_in(values),
}


def compares(column: sa.ColumnElement[Any], comparison: Comparison) -> Condition:
    """Return the comparison of a column by an operator that every database has."""
    return _COMPARE[comparison.operator](column, comparison.value)


def number_compares(comparison: Comparison) -> Condition:
    """Return the comparison of a metric's row.

    NaN, kept as a flag beside 0, differs from all and compares to none.
    """
    value, is_nan = LATEST_METRICS.c.value, LATEST_METRICS.c.is_nan
    compared = compares(value, comparison)
    if comparison.operator is Operator.NOT_EQUAL:
        return sa.or_(is_nan == 1, compared)
    return sa.and_(is_nan == 0, compared)


def _time_compares(column: sa.ColumnElement[Any], asked: Operator, millis: Any) -> Condition:
    """Compare microseconds with a whole millisecond, as if their fraction of it were cut off."""
    first, behind = millis * 1000, (millis + 1) * 1000
    match asked:
        case Operator.EQUAL:
            return sa.and_(column >= first, column < behind)
        case Operator.NOT_EQUAL:
            return sa.or_(column < first, column >= behind)
        case Operator.LESS_EQUAL:
            return _COMPARE[Operator.LESS](column, behind)
        case Operator.GREATER:
            return _COMPARE[Operator.GREATER_EQUAL](column, behind)
        case _:
            return _COMPARE[asked](column, first)


def _glob(like: str) -> str:
    parts = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(parts.get(character, character) for character in like)
