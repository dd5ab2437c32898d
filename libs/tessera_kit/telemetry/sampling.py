"""Which traces are recorded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

__all__ = ["DECIDED", "BoundedShare", "ParentOrRatio"]

_KEY = "tessera-recorded"
DECIDED: Context = contexts.set_value(_KEY, True, Context())
"""A context without a span, for the root of a trace that was already chosen to be recorded."""


class BoundedShare:
    """Picks a share of what comes, and no more than so many in a second.

    What recording costs has a bound then, however much comes. A second's worth may come at once,
    and one in any case.

    Args:
        ratio: The share, 0 to 1.
        most_per_second: The bound; 0 for none.
        clock: Tells seconds.
    """

    __slots__ = ("_at", "_at_once", "_clock", "_most", "_room", "ratio")

    def __init__(
        self,
        ratio: float,
        most_per_second: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ratio = ratio
        self._most = most_per_second
        self._at_once = self._room = max(1.0, most_per_second)
        self._clock = clock
        self._at = clock()

    def picks(self) -> bool:
        """Whether the one that comes now is picked."""
        if random.random() >= self.ratio:  # noqa: S311 - no secret
            return False
        if not self._most:
            return True
        now = self._clock()
        self._room = min(self._at_once, self._room + (now - self._at) * self._most)
        self._at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True


class ParentOrRatio(Sampler):
    """Keeps a parent's decision; of the other traces records those begun in `DECIDED`, and a share.

    Args:
        ratio: The share, 0 to 1.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = TraceIdRatioBased(ratio)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide about one span."""
        parent = trace.get_current_span(parent_context).get_span_context()
        if parent.is_valid:
            kept = parent.trace_flags.sampled
            decision = Decision.RECORD_AND_SAMPLE if kept else Decision.DROP
            return SamplingResult(decision, attributes, parent.trace_state)
        if contexts.get_value(_KEY, parent_context):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return self._ratio.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        """Describe the sampler."""
        return f"ParentOrRatio{{{self._ratio.rate}}}"
