"""Filters, orders and pages of traces as SQL."""

from __future__ import annotations

from typing import Any, ClassVar

import sqlalchemy as sa

from services.tracking.adapters.sql.search import Condition, Search, compares
from services.tracking.adapters.sql.tables import (
    ASSESSMENTS,
    EXPERIMENTS,
    PURGING,
    TRACE_LINKS,
    TRACE_METADATA,
    TRACE_TAGS,
    TRACES,
)
from services.tracking.domain.search.syntax import Comparison, FieldKind, Operator
from services.tracking.ports.traces import TraceQuery

__all__ = ["KEPT", "TraceSearch"]

KEPT = TRACES.c.experiment_id.not_in(
    sa.select(EXPERIMENTS.c.experiment_id).where(EXPERIMENTS.c.stage == PURGING)
)
"""What is true of traces but those whose experiment is being removed for good."""
_ASSESSMENTS = (FieldKind.FEEDBACK, FieldKind.EXPECTATION, FieldKind.ISSUE)


class TraceSearch(Search):
    """Searches traces by what is known of them beside their spans."""

    table = TRACES
    parent = TRACES.c.trace_id
    time = TRACES.c.requested_at
    id = TRACES.c.trace_id
    attributes: ClassVar[dict[str, sa.ColumnElement[Any]]] = {
        "trace_id": TRACES.c.trace_id,
        "experiment_id": TRACES.c.experiment_id,
        "status": TRACES.c.state,
        "client_request_id": TRACES.c.client_request_id,
        "timestamp": TRACES.c.requested_at,
        "execution_time": TRACES.c.duration,
        "end_time": TRACES.c.requested_at + TRACES.c.duration,
    }
    pairs: ClassVar[dict[FieldKind, sa.Table]] = {
        FieldKind.TAG: TRACE_TAGS,
        FieldKind.METADATA: TRACE_METADATA,
    }

    def statement(self, select: sa.Select[Any], query: TraceQuery) -> sa.Select[Any]:
        """Return `select` of the traces that a query finds."""
        return self._page(
            self._among(select, query),
            conditions=query.filter,
            order=query.order,
            after=query.after,
            limit=query.limit,
        )

    def matching(self, select: sa.Select[Any], query: TraceQuery) -> sa.Select[Any]:
        """Return `select` of all traces that meet a query's conditions, in no order."""
        return self._among(select, query).where(*(self._condition(one) for one in query.filter))

    def _among(self, select: sa.Select[Any], query: TraceQuery) -> sa.Select[Any]:
        select = select.where(TRACES.c.experiment_id.in_(sorted(query.experiment_ids)), KEPT)
        if query.trace_ids is not None:
            select = select.where(TRACES.c.trace_id.in_(sorted(query.trace_ids)))
        return select

    def _condition(self, comparison: Comparison) -> Condition:
        field = comparison.field
        if field.kind is FieldKind.LINK:
            own = TRACE_LINKS.c.trace_id == TRACES.c.trace_id
            compared = self._text_compares(TRACE_LINKS.c.value, comparison)
            return sa.exists().where(own, TRACE_LINKS.c.kind == field.key, compared)
        if field.kind in _ASSESSMENTS:
            return self._assessed(comparison)
        return super()._condition(comparison)

    def _assessed(self, comparison: Comparison) -> Condition:
        field, said = comparison.field, ASSESSMENTS.c
        own = [said.trace_id == TRACES.c.trace_id, said.kind == field.kind.value]
        if field.kind is FieldKind.ISSUE:
            return sa.exists().where(*own, self._text_compares(said.name, comparison))
        own.append(said.name == field.key)
        if comparison.operator is Operator.IS_NULL:
            return ~sa.exists().where(*own)
        if comparison.operator is Operator.IS_NOT_NULL:
            return sa.exists().where(*own)
        if isinstance(comparison.value, float):
            return sa.exists().where(*own, compares(said.number, comparison))
        return sa.exists().where(*own, self._text_compares(said.text, comparison))
