"""Holds calls to rate limits, exactly: shares of each window are taken from a common store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from services.inference.domain.limits import (
    Budget,
    RateLimit,
    RateScope,
    budgets_of,
    share_to_take,
    window_start,
)
from services.inference.errors import RateLimited
from services.inference.ports import RateBudgets
from tessera_kit.clock import Clock
from tessera_kit.errors import Unavailable
from tessera_kit.rpc.identity import Principal

__all__ = ["RateLimiter"]

_log = logging.getLogger(__name__)
_SWEEP_SECONDS: Final = 600.0
_MOST_WINDOWS: Final = 100_000


class _Window:
    """What this process holds of one budget's window."""

    __slots__ = ("empty", "left", "lock", "start", "taken")

    def __init__(self, start: int) -> None:
        self.start = start
        self.left = 0
        """Taken from the store and not used yet."""
        self.taken = 0
        """All that was taken from the store."""
        self.empty = False
        """Whether the store has nothing left."""
        self.lock = asyncio.Lock()


class RateLimiter:
    """Admits calls as long as every budget that counts them has something left.

    Windows are minutes and hours of the clock. No more than a limit's calls are admitted in one
    window, by however many processes; what they may hold unused in the end is below 1 % for four.
    While the store is away each process counts for itself.

    Args:
        budgets: What the processes share.
        clock: Where time comes from.
    """

    def __init__(self, budgets: RateBudgets, clock: Clock) -> None:
        self._budgets = budgets
        self._clock = clock
        self._windows: dict[tuple[str, str], _Window] = {}

    async def admit(
        self, endpoint_id: str, limits: Sequence[RateLimit], principal: Principal, token: str
    ) -> None:
        """Return when the call may go on; it is counted then.

        Args:
            endpoint_id: The endpoint's.
            limits: Its limits.
            principal: Who calls.
            token: With which access token; only a digest of it is kept.

        Raises:
            RateLimited: A budget is used up; the error says until when.
        """
        digest = ""
        if any(limit.scope is RateScope.TOKEN for limit in limits):
            digest = blake2b(token.encode(), digest_size=12).hexdigest()
        now = self._clock.now().timestamp()
        held: list[_Window] = []
        for budget in budgets_of(limits, principal.name, principal.groups, digest):
            window = self._window(endpoint_id, budget, now)
            if window.left == 0 and not window.empty:
                await self._fill(endpoint_id, budget, window)
            if window.left == 0:
                # What the call has taken from the others is still theirs.
                for other in held:
                    other.left += 1
                raise _refusal(budget, window, now)
            window.left -= 1
            held.append(window)

    async def run(self) -> None:
        """Forget windows that are over, here and in the store, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await self.sweep()
            except Unavailable as error:
                _log.warning("windows of rate limits that are over are kept for now: %s", error)

    async def sweep(self) -> None:
        """Forget windows that are over.

        Raises:
            Unavailable: The store does not answer.
        """
        hour = window_start(self._clock.now().timestamp(), 3600)
        self._forget(hour)
        await self._budgets.expire(hour - 3600)

    def _window(self, endpoint_id: str, budget: Budget, now: float) -> _Window:
        start = window_start(now, budget.period_seconds)
        place = (endpoint_id, budget.key)
        window = self._windows.get(place)
        if window is None or window.start != start:
            if len(self._windows) >= _MOST_WINDOWS:
                self._forget(window_start(now, 60))
            window = self._windows[place] = _Window(start)
        return window

    def _forget(self, before: int) -> None:
        self._windows = {
            place: window for place, window in self._windows.items() if window.start >= before
        }

    async def _fill(self, endpoint_id: str, budget: Budget, window: _Window) -> None:
        """Take a share of the window; one call at a time asks the store."""
        async with window.lock:
            if window.left or window.empty:
                return
            want = share_to_take(budget.calls, budget.calls - window.taken)
            try:
                given = await self._budgets.take(
                    endpoint_id, budget.key, window.start, want, budget.calls
                )
            except Unavailable as error:
                _log.warning("rate limits are counted by this process alone: %s", error)
                given = min(want, budget.calls - window.taken)
            window.taken += given
            window.left += given
            window.empty = given == 0


def _refusal(budget: Budget, window: _Window, now: float) -> RateLimited:
    of = "the endpoint" if budget.scope is RateScope.ENDPOINT else budget.scope.value.lower()
    if budget.scope in (RateScope.USER, RateScope.GROUP):
        of = f"{of} {budget.subject!r}"
    period = "minute" if budget.period_seconds == 60 else "hour"
    if not budget.calls:
        return RateLimited(f"calls of {of} are denied: its limit is 0")
    until = window.start + budget.period_seconds - now
    return RateLimited(
        f"the {budget.calls} calls of {of} in this {period} are used up",
        retry_after=max(until, 0.001),
    )
