"""Filters, order and pages of issues as SQL: what is asked of them lies in their JSON."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from services.tracking.adapters.sql.search import Condition, Search
from services.tracking.adapters.sql.tables import ASSESSMENTS, REVIEWS
from services.tracking.domain.reviews import SEVERITIES, IssuePlace
from services.tracking.domain.search.syntax import Comparison, FieldKind, Filter

__all__ = ["IssueSearch"]

_R, _SAID = REVIEWS.c, ASSESSMENTS.c


class IssueSearch(Search):
    """Searches issues."""

    table = REVIEWS
    parent = REVIEWS.c.id
    time = REVIEWS.c.created_at
    id = REVIEWS.c.id
    attributes: ClassVar[dict[str, sa.ColumnElement[Any]]] = {}
    pairs: ClassVar[dict[FieldKind, sa.Table]] = {}

    def listing(
        self,
        experiment_ids: Collection[str],
        conditions: Filter,
        *,
        counted: bool,
        after: IssuePlace | None,
    ) -> sa.Select[Any]:
        """Return the select of bodies and numbers of traces, by places, the greatest first."""
        severities = {name: rank for rank, name in enumerate(SEVERITIES)}
        rank = sa.case(severities, value=self._field("severity"), else_=-1)
        traces: sa.ColumnElement[int] = sa.literal(0)
        source: sa.FromClause = REVIEWS
        if counted:
            found = (
                sa.select(_SAID.name, sa.func.count(_SAID.trace_id.distinct()).label("traces"))
                .where(_SAID.kind == "issue")
                .group_by(_SAID.name)
                .subquery()
            )
            source = REVIEWS.outerjoin(found, found.c.name == _R.id)
            traces = sa.func.coalesce(found.c.traces, 0)
        query = (
            sa.select(_R.body, traces)
            .select_from(source)
            .where(_R.kind == "issue", _R.experiment_id.in_(sorted(experiment_ids)))
            .where(*(self._condition(one) for one in conditions))
        )
        keys = [rank, *([traces] if counted else []), _R.created_at, _R.id]
        if after is not None:
            place = after if counted else (after.rank, *after[2:])
            query = query.where(
                sa.tuple_(*keys) < sa.tuple_(*place, types=[key.type for key in keys])
            )
        return query.order_by(*(key.desc() for key in keys))

    def _condition(self, comparison: Comparison) -> Condition:
        return self._text_compares(self._field(comparison.field.key), comparison)

    def _field(self, name: str) -> sa.ColumnElement[Any]:
        if self._dialect == "sqlite":
            return sa.func.json_extract(_R.body, f"$.{name}")
        body = sa.cast(_R.body, postgresql.JSON)
        return body.op("->>", return_type=sa.Text())(sa.literal(name, sa.Text()))
