"""Which part of a filter of traces is whose to answer."""

from __future__ import annotations

from dataclasses import dataclass

from services.tracking.domain.search.syntax import FieldKind, Filter, Operator

__all__ = ["TraceFilter", "split_filter", "split_span_filter"]


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """The conditions of a search for traces, by who answers them."""

    stored: Filter
    """The store of traces."""
    spans: Filter
    """The store of spans."""
    patterns: Filter
    """Nobody but RE2: regular expressions over what the store of traces has."""


def split_filter(conditions: Filter) -> TraceFilter:
    """Return a filter by who answers its conditions."""
    spans = tuple(one for one in conditions if one.field.kind is FieldKind.SPAN)
    others = tuple(one for one in conditions if one.field.kind is not FieldKind.SPAN)
    return TraceFilter(
        stored=tuple(one for one in others if one.operator is not Operator.RLIKE),
        spans=spans,
        patterns=tuple(one for one in others if one.operator is Operator.RLIKE),
    )


def split_span_filter(conditions: Filter) -> list[Filter]:
    """Return the groups of conditions that one span must meet together."""
    texts = [(one,) for one in conditions if one.field.key == "content"]
    others = tuple(one for one in conditions if one.field.key != "content")
    return [*texts, others] if others else [*texts]
