"""Which traces are recorded."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

__all__ = ["DECIDED", "ParentOrRatio"]

_KEY = "tessera-recorded"
DECIDED: Context = contexts.set_value(_KEY, True, Context())
"""A context without a span, for the root of a trace that was already chosen to be recorded."""


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
