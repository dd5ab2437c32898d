"""What tracking needs to keep traces and their spans."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.search.paging import Position
from services.tracking.domain.search.syntax import Filter, OrderKey
from services.tracking.domain.traces.metrics import DataPoint, Measure, MetricsQuery
from services.tracking.domain.traces.span import Span
from services.tracking.domain.traces.trace import Trace

__all__ = ["SpanStore", "TraceKey", "TraceQuery", "TraceStore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceQuery:
    """Which traces to find: by `order`, then the newest first."""

    experiment_ids: Collection[str]
    filter: Filter = ()
    """Without conditions of spans, and without RLIKE: no database knows both."""
    trace_ids: Collection[str] | None = None
    """The only ones that may be found; None for all."""
    order: tuple[OrderKey, ...] = ()
    limit: int
    after: Position | None = None
    """Where the page before ended."""


class TraceKey(NamedTuple):
    """Says which trace of which experiment."""

    experiment_id: str
    trace_id: str


class TraceStore(Protocol):
    """Traces with their tags, metadata, links and assessments; their spans are in a `SpanStore`."""

    async def homes(self, trace_ids: Collection[str]) -> dict[str, str]:
        """Return the experiments of the traces that there are, by id."""

    async def get(self, trace_ids: Collection[str]) -> dict[str, Trace]:
        """Return the traces that there are, by id."""

    async def lock(self, trace_ids: Collection[str]) -> dict[str, Trace]:
        """As `get`; until the work ends nobody else locks these, the missing ones included.

        Locks are taken in one order for all callers, so that no two of them wait for each other.
        """

    async def find(self, query: TraceQuery) -> list[Trace]:
        """Return at most `query.limit` traces, in order."""

    async def count(self, query: TraceQuery) -> int:
        """Return how many traces match; the query's order, limit and place do not matter."""

    async def measures(self, query: TraceQuery, asked: MetricsQuery) -> list[Measure]:
        """Return what the traces that match, or what is said of them, add to figures.

        Args:
            query: Which traces; its order, limit and place do not matter.
            asked: Which figures; checked, and of TRACES or ASSESSMENTS. Its conditions of traces
                are passed over.
        """

    async def oldest(self, experiment_id: str, *, until: Micros, limit: int) -> list[str]:
        """Return the ids of an experiment's traces that began by a time, the oldest first."""

    async def put(self, traces: Sequence[Trace]) -> None:
        """Store the new state of locked traces; each id occurs once."""

    async def delete(self, trace_ids: Collection[str]) -> None:
        """Forget locked traces and all that is said of them."""


class SpanStore(Protocol):
    """Spans, append-only. One that comes again takes the place of the earlier one."""

    async def add(self, spans: Mapping[str, Sequence[Span]]) -> None:
        """Store spans by their experiment; durable when it returns, and seen by every later read.

        Raises:
            StoreBusy: Some may be stored, some not; adding them again is safe.
        """

    async def of(self, traces: Sequence[TraceKey]) -> dict[str, list[Span]]:
        """Return the spans of traces by trace id, the earliest first; none where there are none."""

    async def matching(self, traces: Sequence[TraceKey], conditions: Filter) -> set[str]:
        """Return the ids of those traces that have what conditions of spans ask for.

        Conditions of the whole text of spans may each be met by another span; all others must be
        met by one span together.
        """

    async def candidates(
        self, experiment_ids: Collection[str], conditions: Filter, *, limit: int
    ) -> set[str] | None:
        """As `matching`, of all traces of experiments; None when more than `limit` match."""

    async def aggregate(
        self,
        experiment_ids: Collection[str],
        query: MetricsQuery,
        traces: Sequence[TraceKey] | None,
    ) -> list[DataPoint]:
        """Return figures of the spans of experiments, by time and dimensions.

        Args:
            experiment_ids: Whose spans.
            query: Which figures; checked, and of SPANS. Its conditions of traces are passed over.
            traces: The only traces whose spans count; None for all.
        """

    async def delete(self, traces: Sequence[TraceKey]) -> None:
        """Forget the spans of traces."""

    async def delete_all(self, experiment_id: str) -> None:
        """Forget all spans of an experiment."""
