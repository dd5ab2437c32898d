"""Use cases of what people, judges and code say of traces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from services.tracking.domain.lifecycle import micros_of
from services.tracking.domain.traces.assessment import (
    Assessment,
    AssessmentChange,
    change_assessment,
    with_assessment,
    without_assessment,
)
from services.tracking.domain.traces.trace import Trace
from services.tracking.errors import AssessmentNotFound, TraceNotFound
from services.tracking.handlers.traces import Traces
from services.tracking.ports.store import Store
from tessera_kit.clock import Clock
from tessera_kit.ids import new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["Assessments", "new_assessment_id"]

_PREFIX: Final = "a-"


class Assessments:
    """Creates, reads, changes and deletes assessments.

    Args:
        store: Where they are kept, with their traces.
        traces: Reads traces, with the checks of who may.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, traces: Traces, clock: Clock) -> None:
        self._store = store
        self._traces = traces
        self._clock = clock

    async def create(self, principal: Principal, assessment: Assessment) -> Assessment:
        """Store an assessment under a new id.

        Raises:
            TraceNotFound: There is no such trace.
            AssessmentNotFound: What it overrides is not there.
            PermissionDenied: The caller may not write the trace's experiment.
            InvalidValue: It breaks the rules.
        """
        await self._traces.get_to_write(principal, assessment.trace_id)
        new = replace(assessment, assessment_id=assessment.assessment_id or new_assessment_id())
        await self._change(
            new.trace_id,
            lambda trace: replace(trace, assessments=with_assessment(trace.assessments, new)),
        )
        return new

    async def get(self, principal: Principal, trace_id: str, assessment_id: str) -> Assessment:
        """Return an assessment.

        Raises:
            TraceNotFound, AssessmentNotFound: There is none.
            PermissionDenied: The caller may not read the trace's experiment.
        """
        return _of(await self._traces.get(principal, trace_id), assessment_id)

    async def update(
        self,
        principal: Principal,
        trace_id: str,
        assessment_id: str,
        change: AssessmentChange,
    ) -> Assessment:
        """Change an assessment.

        Raises:
            TraceNotFound, AssessmentNotFound: There is none.
            PermissionDenied: The caller may not write the trace's experiment.
            InvalidUpdate, InvalidValue: The change makes no sense.
        """
        await self._traces.get_to_write(principal, trace_id)
        now = micros_of(self._clock.now())

        def changed(trace: Trace) -> Trace:
            new = change_assessment(_of(trace, assessment_id), change, now=now)
            return replace(
                trace,
                assessments=[
                    new if one.assessment_id == assessment_id else one for one in trace.assessments
                ],
            )

        return _of(await self._change(trace_id, changed), assessment_id)

    async def delete(self, principal: Principal, trace_id: str, assessment_id: str) -> None:
        """Delete an assessment, if it is there; what it overrode is valid again.

        Raises:
            TraceNotFound: There is no such trace.
            PermissionDenied: The caller may not write the trace's experiment.
        """
        await self._traces.get_to_write(principal, trace_id)
        await self._change(
            trace_id,
            lambda trace: replace(
                trace, assessments=without_assessment(trace.assessments, assessment_id)
            ),
        )

    async def _change(self, trace_id: str, change: Callable[[Trace], Trace]) -> Trace:
        async with self._store.write() as work:
            current = (await work.traces.lock([trace_id])).get(trace_id)
            if current is None:
                raise TraceNotFound(trace_id)
            await work.traces.put([changed := change(current)])
            await work.commit()
        return changed


def new_assessment_id() -> str:
    """Return an id as MLflow forms those of assessments."""
    return _PREFIX + new_id().replace("-", "")


def _of(trace: Trace, assessment_id: str) -> Assessment:
    for one in trace.assessments:
        if one.assessment_id == assessment_id:
            return one
    raise AssessmentNotFound(trace.trace_id, assessment_id)
