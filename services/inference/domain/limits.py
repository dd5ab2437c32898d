"""Rate limits of an endpoint: whom each counts, and how much of a window is taken at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from services.inference.errors import InvalidConfig
from tessera_kit.errors import FieldViolation

__all__ = [
    "Budget",
    "RateLimit",
    "RateScope",
    "budgets_of",
    "check_limits",
    "share_to_take",
    "window_start",
]

_PROCESSES = 4
"""As many processes hold no more than one in a hundred calls unused between them."""


class RateScope(StrEnum):
    """Whose calls a limit counts together."""

    ENDPOINT = "ENDPOINT"
    """Everybody's."""
    USER = "USER"
    """One principal's."""
    GROUP = "GROUP"
    """Those of a group's members together."""
    TOKEN = "TOKEN"  # noqa: S105 - a kind of limit
    """Those with one access token."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many calls in so long."""

    scope: RateScope
    subject: str
    """The principal's or group's name; empty for each principal or token by itself."""
    period_seconds: int
    """60 or 3600."""
    calls: int
    """0 denies all."""


class Budget(NamedTuple):
    """What one call takes from."""

    scope: RateScope
    subject: str
    """A principal's or group's name, or what stands for a token."""
    period_seconds: int
    calls: int

    @property
    def key(self) -> str:
        """Tells budgets of one endpoint apart; two limits of one subject have one each."""
        return f"{self.scope.value}/{self.period_seconds}/{self.calls}/{self.subject}"


def budgets_of(
    limits: Sequence[RateLimit], principal: str, groups: frozenset[str], token: str
) -> list[Budget]:
    """The budgets that a call of a principal takes from; it needs all of them.

    Args:
        limits: The endpoint's.
        principal: Who calls.
        groups: The groups that it is in.
        token: What stands for its access token.
    """
    found = []
    for limit in limits:
        match limit.scope:
            case RateScope.ENDPOINT:
                subject = ""
            case RateScope.USER if limit.subject in ("", principal):
                subject = principal
            case RateScope.GROUP if limit.subject in groups:
                subject = limit.subject
            case RateScope.TOKEN:
                subject = token
            case _:
                continue
        found.append(Budget(limit.scope, subject, limit.period_seconds, limit.calls))
    return found


def window_start(now: float, period_seconds: int) -> int:
    """The Unix second in which the window of a time began; windows are aligned to the clock."""
    return int(now // period_seconds) * period_seconds


def share_to_take(calls: int, left: int) -> int:
    """How many calls a process takes from a window at once, so that few questions are asked.

    It is at most 1/400 of the window: what 4 processes hold unused when it is empty stays below
    1 %. Towards the window's end the shares get smaller. At least 1.

    Args:
        calls: Of the whole window.
        left: Not yet taken by anybody, as far as is known.
    """
    return max(1, min(calls // (100 * _PROCESSES), left // (4 * _PROCESSES)))


def check_limits(limits: Sequence[RateLimit]) -> None:
    """Raise InvalidConfig when limits do not say whom they count, or say it twice."""
    wrong = []
    seen: set[tuple[RateScope, str, int]] = set()
    for index, limit in enumerate(limits):
        path = f"rate_limits[{index}]"
        if limit.scope is RateScope.GROUP and not limit.subject:
            wrong.append(FieldViolation(f"{path}.subject", "must name the group"))
        if limit.scope in (RateScope.ENDPOINT, RateScope.TOKEN) and limit.subject:
            wrong.append(FieldViolation(f"{path}.subject", "is for users and groups"))
        place = (limit.scope, limit.subject, limit.period_seconds)
        if place in seen:
            wrong.append(FieldViolation(path, "limits what another one limits already"))
        seen.add(place)
    if wrong:
        raise InvalidConfig(f"{wrong[0].field}: {wrong[0].description}", violations=wrong)
