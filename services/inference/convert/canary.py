"""Between the contract's canaries and the domain's; pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from services.inference.domain.canary import (
    Canary,
    CanaryGuards,
    CanaryPlan,
    CanaryState,
    CanaryStep,
)
from tessera.inference.v1 import endpoint_pb2 as pb

__all__ = ["canary_message", "canary_plan"]

_FEWEST: Final = 20
_STATES: Final = {
    CanaryState.RUNNING: pb.CANARY_STATE_RUNNING,
    CanaryState.SUCCEEDED: pb.CANARY_STATE_SUCCEEDED,
    CanaryState.ROLLED_BACK: pb.CANARY_STATE_ROLLED_BACK,
    CanaryState.CANCELED: pb.CANARY_STATE_CANCELED,
}


def canary_plan(told: pb.CanaryPlan) -> CanaryPlan:
    """The plan that a caller asks for."""
    guards = told.guards
    return CanaryPlan(
        entity=told.served_entity,
        steps=tuple(
            CanaryStep(step.percent, step.duration.ToTimedelta(), step.request_count)
            for step in told.steps
        ),
        guards=CanaryGuards(
            max_error_rate=guards.max_error_rate if guards.HasField("max_error_rate") else None,
            max_p99_ms=guards.max_p99_ms if guards.HasField("max_p99_ms") else None,
            max_p99_ratio=guards.max_p99_ratio if guards.HasField("max_p99_ratio") else None,
            min_requests=guards.min_request_count or _FEWEST,
            on_alert=guards.on_alert,
            monitors=frozenset(guards.monitors),
        ),
    )


def canary_message(canary: Canary) -> pb.Canary:
    """A canary as callers see it."""
    message = pb.Canary(
        plan=_plan_message(canary.plan),
        state=_STATES[canary.state],
        step=canary.step,
        reason=canary.reason,
        baseline=dict(canary.baseline),
        started_at=_timestamp(canary.started_at),
        step_started_at=_timestamp(canary.step_started_at),
        request_count=canary.sight.requests,
        error_count=canary.sight.errors,
        p99_ms=canary.sight.p99_ms,
    )
    if canary.ended_at is not None:
        message.ended_at.CopyFrom(_timestamp(canary.ended_at))
    return message


def _plan_message(plan: CanaryPlan) -> pb.CanaryPlan:
    guards = plan.guards
    message = pb.CanaryPlan(
        served_entity=plan.entity,
        guards=pb.CanaryGuards(
            max_error_rate=guards.max_error_rate,
            max_p99_ms=guards.max_p99_ms,
            max_p99_ratio=guards.max_p99_ratio,
            min_request_count=guards.min_requests,
            on_alert=guards.on_alert,
            monitors=sorted(guards.monitors),
        ),
    )
    for step in plan.steps:
        told = message.steps.add(percent=step.percent, request_count=step.requests)
        told.duration.FromTimedelta(step.duration)
    return message


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone(UTC))
    return stamp
