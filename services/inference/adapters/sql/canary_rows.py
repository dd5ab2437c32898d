"""A canary as JSON in SQL, and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.inference.domain.canary import (
    Canary,
    CanaryGuards,
    CanaryPlan,
    CanaryState,
    CanaryStep,
    Sight,
)

__all__ = ["canary_json", "canary_value"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def canary_json(canary: Canary) -> str:
    """The text that keeps a canary; times are Unix microseconds."""
    guards = canary.plan.guards
    seen = canary.sight
    return json.dumps(
        {
            "entity": canary.plan.entity,
            "steps": [
                [step.percent, step.duration // _MICROSECOND, step.requests]
                for step in canary.plan.steps
            ],
            "guards": {
                "max_error_rate": guards.max_error_rate,
                "max_p99_ms": guards.max_p99_ms,
                "max_p99_ratio": guards.max_p99_ratio,
                "min_requests": guards.min_requests,
                "on_alert": guards.on_alert,
                "monitors": sorted(guards.monitors),
            },
            "baseline": dict(canary.baseline),
            "started_at": _micros(canary.started_at),
            "step_started_at": _micros(canary.step_started_at),
            "step": canary.step,
            "state": canary.state.value,
            "reason": canary.reason,
            "ended_at": None if canary.ended_at is None else _micros(canary.ended_at),
            "sight": [seen.requests, seen.errors, seen.p99_ms, seen.others_p99_ms],
        }
    )


def canary_value(text: str) -> Canary:
    """The canary of a text."""
    told: dict[str, Any] = json.loads(text)
    guards = told["guards"]
    monitors = frozenset(guards.pop("monitors"))
    steps = tuple(
        CanaryStep(percent, micros * _MICROSECOND, requests)
        for percent, micros, requests in told["steps"]
    )
    ended = told["ended_at"]
    return Canary(
        plan=CanaryPlan(told["entity"], steps, CanaryGuards(**guards, monitors=monitors)),
        baseline=told["baseline"],
        started_at=_moment(told["started_at"]),
        step_started_at=_moment(told["step_started_at"]),
        step=told["step"],
        state=CanaryState(told["state"]),
        reason=told["reason"],
        ended_at=None if ended is None else _moment(ended),
        sight=Sight(*told["sight"]),
    )


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND
