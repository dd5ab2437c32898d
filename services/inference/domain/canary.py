"""A canary plan and its progress: which share the new entity gets next, or that it is taken back.

Pure: what was seen and the time go in, the next state comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from services.inference.errors import InvalidConfig
from tessera_kit.errors import FieldViolation

__all__ = [
    "FAULTS",
    "Canary",
    "CanaryGuards",
    "CanaryPlan",
    "CanaryState",
    "CanaryStep",
    "Sight",
    "check_plan",
    "shares_at",
]


FAULTS: Final = frozenset({2, 4, 8, 12, 13, 14, 15})
"""gRPC codes that are not the caller's fault: UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED,
UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS."""


class CanaryState(StrEnum):
    """Where a canary is."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    ROLLED_BACK = "ROLLED_BACK"
    CANCELED = "CANCELED"


@dataclass(frozen=True, slots=True)
class CanaryStep:
    """A share, and how long it is kept."""

    percent: int
    """Share of the canary."""
    duration: timedelta = timedelta()
    """At least this long."""
    requests: int = 0
    """Until the canary has answered so many."""


@dataclass(frozen=True, slots=True)
class CanaryGuards:
    """When a canary is taken back; what is None guards nothing."""

    max_error_rate: float | None = None
    """Share of the canary's requests that may fail, 0 to 1."""
    max_p99_ms: float | None = None
    """Its slowest requests but one in a hundred, in milliseconds of model time."""
    max_p99_ratio: float | None = None
    """The same, as a multiple of what the others take."""
    min_requests: int = 20
    """How many requests of a step are needed to judge it, and to leave it."""
    on_alert: bool = False
    """Whether an alert that fires on the endpoint's inference table takes it back."""
    monitors: frozenset[str] = frozenset()
    """Only alerts of these monitors; of any when empty."""

    @property
    def measured(self) -> bool:
        """Whether requests are judged."""
        limits = (self.max_error_rate, self.max_p99_ms, self.max_p99_ratio)
        return any(limit is not None for limit in limits)


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """How an entity comes to all of an endpoint's traffic."""

    entity: str
    steps: tuple[CanaryStep, ...]
    guards: CanaryGuards


@dataclass(frozen=True, slots=True)
class Sight:
    """What a step has shown so far."""

    requests: int = 0
    """Requests of the canary."""
    errors: int = 0
    """Those that failed by no fault of their callers."""
    p99_ms: float = 0.0
    """Model time that all but one in a hundred stayed within; 0 when there is none."""
    others_p99_ms: float = 0.0
    """The same of the other entities in the same time; 0 when there is none."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A plan on its way."""

    plan: CanaryPlan
    baseline: Mapping[str, int]
    """Shares before it began."""
    started_at: datetime
    step_started_at: datetime
    step: int = 0
    """Index into the plan's steps."""
    state: CanaryState = CanaryState.RUNNING
    reason: str = ""
    """Why it ended."""
    ended_at: datetime | None = None
    sight: Sight = Sight()
    """What the present step, or the last one, has shown."""

    @property
    def shares(self) -> Mapping[str, int]:
        """The shares that hold now."""
        if self.state is CanaryState.RUNNING:
            return shares_at(self.baseline, self.plan.entity, self.plan.steps[self.step].percent)
        if self.state is CanaryState.SUCCEEDED:
            return shares_at(self.baseline, self.plan.entity, 100)
        return self.baseline

    def advance(self, seen: Sight, now: datetime) -> Canary:
        """The canary after a look at its present step."""
        if self.state is not CanaryState.RUNNING:
            return self
        looked = replace(self, sight=seen)
        broken = _broken(self.plan.guards, seen)
        if broken:
            return looked.end(CanaryState.ROLLED_BACK, broken, now)
        if not self._step_is_over(seen, now):
            return looked
        if self.step + 1 == len(self.plan.steps):
            return looked.end(CanaryState.SUCCEEDED, "every step was passed", now)
        return replace(self, step=self.step + 1, step_started_at=now, sight=Sight())

    def end(self, state: CanaryState, reason: str, now: datetime) -> Canary:
        """The canary after its end."""
        return replace(self, state=state, reason=reason, ended_at=now)

    def minds(self, monitor: str, fired_at: datetime) -> bool:
        """Whether an alert takes it back."""
        guards = self.plan.guards
        return (
            self.state is CanaryState.RUNNING
            and guards.on_alert
            and fired_at >= self.started_at
            and (not guards.monitors or monitor in guards.monitors)
        )

    def _step_is_over(self, seen: Sight, now: datetime) -> bool:
        step, guards = self.plan.steps[self.step], self.plan.guards
        needed = max(step.requests, guards.min_requests if guards.measured else 0)
        return now - self.step_started_at >= step.duration and seen.requests >= needed


def _broken(guards: CanaryGuards, seen: Sight) -> str:
    """The guard that does not hold, in words; empty when all do."""
    if not guards.measured or seen.requests < max(guards.min_requests, 1):
        return ""
    rate = seen.errors / seen.requests
    if guards.max_error_rate is not None and rate > guards.max_error_rate:
        return (
            f"{seen.errors} of {seen.requests} requests failed; "
            f"at most {guards.max_error_rate:.2%} may"
        )
    if guards.max_p99_ms is not None and seen.p99_ms > guards.max_p99_ms:
        return f"p99 is {seen.p99_ms:.3g} ms; at most {guards.max_p99_ms:.3g} ms may be"
    ratio = guards.max_p99_ratio
    if ratio is not None and seen.others_p99_ms > 0:
        most = ratio * seen.others_p99_ms
        if seen.p99_ms > most:
            return (
                f"p99 is {seen.p99_ms:.3g} ms; at most {ratio:g} times the others' "
                f"{seen.others_p99_ms:.3g} ms may be"
            )
    return ""


def shares_at(baseline: Mapping[str, int], entity: str, percent: int) -> dict[str, int]:
    """Shares with `percent` for one entity and the rest for the others as before to each other.

    They sum to 100. Whole percents go to the largest remainders; an entity that had nothing gets
    nothing. When the others had nothing, the entity keeps all.
    """
    others = {name: share for name, share in baseline.items() if name != entity and share}
    total = sum(others.values())
    if not total:
        return {name: 100 if name == entity else 0 for name in baseline}
    rest = 100 - percent
    exact = {name: rest * share / total for name, share in others.items()}
    found = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(others, key=lambda name: (found[name] - exact[name], name))
    for name in by_remainder[: rest - sum(found.values())]:
        found[name] += 1
    return {name: percent if name == entity else found.get(name, 0) for name in baseline}


def check_plan(plan: CanaryPlan, shares: Mapping[str, int]) -> None:
    """Raise InvalidConfig when a plan does not fit the entities' present shares."""
    wrong: list[FieldViolation] = []
    if plan.entity not in shares:
        wrong.append(
            FieldViolation("plan.served_entity", f"no served entity is named {plan.entity!r}")
        )
    elif shares[plan.entity] == 100:
        wrong.append(FieldViolation("plan.served_entity", f"{plan.entity!r} has all traffic"))
    wrong += _step_violations(plan.steps)
    if wrong:
        raise InvalidConfig(f"{wrong[0].field}: {wrong[0].description}", violations=wrong)


def _step_violations(steps: Sequence[CanaryStep]) -> list[FieldViolation]:
    wrong = []
    before = 0
    for index, step in enumerate(steps):
        path = f"plan.steps[{index}]"
        if not before < step.percent <= 100:
            wrong.append(
                FieldViolation(f"{path}.percent", f"must be above {before} and at most 100")
            )
        before = step.percent
        last = index + 1 == len(steps)
        if not last and not step.duration and not step.requests:
            wrong.append(FieldViolation(path, "needs a duration, a number of requests, or both"))
    if not steps or steps[-1].percent != 100:
        wrong.append(FieldViolation("plan.steps", "the last one must be of 100 percent"))
    return wrong
