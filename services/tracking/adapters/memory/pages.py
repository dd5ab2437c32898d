"""Filters, orders and pages over things in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any

from services.tracking.domain.search.evaluate import Values, matches
from services.tracking.domain.search.paging import Position, position_after
from services.tracking.domain.search.syntax import OrderKey
from services.tracking.ports.evaluation import EvaluationQuery
from services.tracking.ports.store import ExperimentQuery, RunQuery
from services.tracking.ports.traces import TraceQuery

__all__ = ["Item", "page_of"]


@dataclass(frozen=True, slots=True)
class Item:
    """A thing that a search may find."""

    values: Values
    time: int
    id: str
    thing: Any


def page_of(
    items: Sequence[Item], query: ExperimentQuery | RunQuery | TraceQuery | EvaluationQuery
) -> list[Item]:
    """Return the items that a query finds, in order."""
    found = [
        (position_after(item.values, query.order, time=item.time, identifier=item.id), item)
        for item in items
        if matches(item.values, query.filter)
    ]
    compare = _comparison(query.order)
    by_position = cmp_to_key(compare)
    found.sort(key=lambda pair: by_position(pair[0]))
    after = query.after
    if after is not None:
        found = [(position, item) for position, item in found if compare(position, after) > 0]
    return [item for _, item in found[: query.limit]]


def _comparison(order: Sequence[OrderKey]) -> Callable[[Position, Position], int]:
    def compare(one: Position, other: Position) -> int:
        for key, (rank_one, value), (rank_other, other_value) in zip(
            order, one.places, other.places, strict=True
        ):
            if rank_one != rank_other:
                return rank_one - rank_other
            if rank_one == 0 and value != other_value:
                less = value < other_value  # type: ignore[operator]
                return 1 if less is key.descending else -1
        newer = (other.time, other.id), (one.time, one.id)
        return (newer[0] > newer[1]) - (newer[0] < newer[1])

    return compare
