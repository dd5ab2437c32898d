"""Which runs a query finds, looking at few of them where that suffices.

To look at each run of an experiment costs a search in the table of metrics for every metric that a
query names. Rows of one metric lie together, so reading them all in a row costs a tenth of that:
where few runs meet a condition of a metric, or where a page is wanted of an order by a metric,
candidates are taken from there, and the whole query is asked of these alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.search import Condition, RunSearch, number_compares
from services.tracking.adapters.sql.tables import LATEST_METRICS, RUNS
from services.tracking.domain.search.paging import Position
from services.tracking.domain.search.syntax import Comparison, FieldKind, OrderKey
from services.tracking.ports.store import RunQuery

__all__ = ["Narrowing", "RunNumbers"]

_METRIC = LATEST_METRICS.c
# Numbers only: whole rows would travel through the sort of all that match.
_NUMBER = sa.select(RUNS.c.run_no)
# By how much more candidates are taken than what is known of their yield says.
_MARGIN = 1.5


@dataclass(frozen=True, slots=True)
class Narrowing:
    """When searches look at candidates; whatever these say, they find the same."""

    least_runs: int = 5_000
    """Experiments of fewer runs are looked at whole."""
    rows_per_run: int = 4
    """How many rows of a metric may be read per run of the experiments: it is everybody's."""
    most: int = 2_000
    """Most candidates."""
    per_found: int = 4
    """Least candidates of an order per run that is wanted."""


class RunNumbers:
    """Finds runs in the transaction of a session.

    Args:
        session: The transaction.
        narrowing: When to look at candidates.
    """

    def __init__(self, session: AsyncSession, narrowing: Narrowing) -> None:
        self._session = session
        self._narrowing = narrowing
        self._dialect = session.get_bind().dialect.name
        self._search = RunSearch(self._dialect)

    async def find(self, query: RunQuery) -> Sequence[int]:
        """Return the numbers of at most `query.limit` runs, in order."""
        metrics = _of_metrics(query.filter)
        first = query.order[0] if query.order else None
        if first is not None and first.field.kind is not FieldKind.METRIC:
            first = None
        named = {*metrics, *([first.field.key] if first else [])}
        readable = await self._readable(named, query) if named else set()
        share = 1.0
        for key in sorted(metrics.keys() & readable):
            some = await self._some(key, metrics[key])
            if len(some) <= self._narrowing.most:
                return await self._among(some, query)
            if first is None or key != first.field.key:
                share = min(share, len(some) / (max(some) - min(some) + 1))
        if first is not None and first.field.key in readable:
            conditions = metrics.get(first.field.key, ())
            found = await self._from_the_front(first, conditions, query, share)
            if found is not None:
                return found
        return await self._numbers(self._search.statement(_NUMBER, query))

    async def _readable(self, keys: Collection[str], query: RunQuery) -> set[str]:
        """Return the metrics whose rows are few enough to read, beside the runs in question."""
        per_run = self._narrowing.rows_per_run
        runs = sa.select(sa.func.coalesce(sa.func.max(RUNS.c.run_no), 0)).scalar_subquery()
        scope = sa.select(RUNS.c.run_no).where(*self._search.scope(query))
        # No metric has more rows than there ever were runs; so much need not be counted.
        enough = scope.limit(runs // per_run + 1).subquery()
        own = sa.select(sa.func.count()).select_from(enough).scalar_subquery()
        own_runs, all_runs = (await self._session.execute(sa.select(own, runs))).one()
        if own_runs < self._narrowing.least_runs:
            return set()
        if own_runs * per_run >= all_runs:
            return set(keys)
        beyond = sa.select(sa.true()).limit(1).offset(own_runs * per_run)
        return {
            key
            for key in keys
            if await self._session.scalar(beyond.where(_METRIC.key == key)) is None
        }

    async def _some(self, key: str, conditions: Sequence[Comparison]) -> Sequence[int]:
        """Return the runs whose metric meets conditions, or one more of them than are `most`."""
        statement = sa.select(_METRIC.run_no).where(_METRIC.key == key, *_meeting(conditions))
        return await self._numbers(statement.limit(self._narrowing.most + 1))

    async def _from_the_front(
        self, first: OrderKey, conditions: Sequence[Comparison], query: RunQuery, share: float
    ) -> Sequence[int] | None:
        """Return what a query finds, from the runs that its order by a metric begins with.

        None when it would take many of them, or runs that do not have the metric.

        Args:
            first: The order's first key.
            conditions: Those of the same metric.
            query: The whole query.
            share: How many of those runs the query may find, as far as is known.
        """
        value = _METRIC.value.desc() if first.descending else _METRIC.value.asc()
        statement = (
            sa.select(_METRIC.run_no, _METRIC.is_nan, _METRIC.value)
            .where(_METRIC.key == first.field.key, *_meeting(conditions))
            .where(*_not_before(first, query.after))
            .order_by(_METRIC.is_nan, value)
        )
        count = math.ceil(query.limit * max(self._narrowing.per_found, _MARGIN / share))
        for _ in range(2):
            if count > self._narrowing.most:
                return None
            rows = (await self._session.execute(statement.limit(count))).all()
            whole = len(rows) < count
            if not whole:
                # Others may stand where the last one stands.
                last = rows[-1][1:]
                rows = [row for row in rows if row[1:] != last]
            found = await self._among([row.run_no for row in rows], query)
            if len(found) == query.limit:
                return found
            if whole or not found:
                return None
            count = math.ceil(_MARGIN * count * query.limit / len(found))
        return None

    async def _among(self, numbers: Sequence[int], query: RunQuery) -> Sequence[int]:
        """Return which of some runs a query finds."""
        if not numbers:
            return []
        statement = self._search.statement(_NUMBER, query, among=self._one_of(numbers))
        return await self._numbers(statement)

    async def _numbers(self, statement: sa.Select[Any]) -> Sequence[int]:
        return [row[0] for row in await self._session.execute(statement)]

    def _one_of(self, numbers: Sequence[int]) -> Condition:
        # One parameter, however many: a statement that is prepared once.
        if self._dialect == "sqlite":
            listed = sa.func.json_each(json.dumps(list(numbers))).table_valued("value")
            return RUNS.c.run_no.in_(sa.select(listed.c.value))
        array: Any = sa.literal(list(numbers), postgresql.ARRAY(sa.BigInteger))
        return RUNS.c.run_no == sa.any_(array)


def _of_metrics(conditions: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    metrics: dict[str, list[Comparison]] = {}
    for one in conditions:
        if one.field.kind is FieldKind.METRIC:
            metrics.setdefault(one.field.key, []).append(one)
    return metrics


def _meeting(conditions: Sequence[Comparison]) -> list[Condition]:
    return [number_compares(one) for one in conditions]


def _not_before(key: OrderKey, after: Position | None) -> list[Condition]:
    """What is true of a metric's rows that do not stand before a position."""
    if after is None:
        return []
    rank, value = after.places[0]
    if rank:
        return [_METRIC.is_nan >= rank]
    beyond = _METRIC.value <= value if key.descending else _METRIC.value >= value
    return [sa.or_(_METRIC.is_nan == 1, beyond)]
