"""A bounded cache of a remote authority's answers: fresh, refreshed ahead, or stale in need."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tessera_kit.clock import Clock, SystemClock
from tessera_kit.errors import Unavailable
from tessera_kit.tasks import detached_task

__all__ = ["Answer", "Answers", "Freshness"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer(Generic[V]):
    """An answer and whether it was the good one."""

    value: V
    """What was answered."""
    positive: bool = True
    """False for a refusal, which is kept for a shorter time."""
    lifetime: float = math.inf
    """Seconds after which it is not true any more, however fresh it is."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long answers are good for, in seconds."""

    positive: float = 30.0
    """A good answer; asked again in the background once it is half as old as this."""
    negative: float = 1.0
    """A refusal."""
    stale: float = 60.0
    """How much longer a good answer may serve while the authority does not answer."""
    most: int = 10_000
    """Answers kept; the oldest go first."""


@dataclass(slots=True)
class _Entry(Generic[V]):
    answer: Answer[V]
    born: float


class Answers(Generic[K, V]):
    """Asks once per question at a time, and keeps what was answered.

    Args:
        ask: Puts a question to the authority; raises Unavailable when it does not answer.
        freshness: How long answers are good for.
        clock: Where time comes from.
        observe: Told for each question what answered it: `cache`, `remote` or `stale`.
    """

    def __init__(
        self,
        ask: Callable[[K], Awaitable[Answer[V]]],
        *,
        freshness: Freshness | None = None,
        clock: Clock | None = None,
        observe: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._ask = ask
        self._freshness = freshness or Freshness()
        self._clock = clock or SystemClock()
        self._observe = observe
        self._entries: dict[K, _Entry[V]] = {}
        self._asking: dict[K, asyncio.Task[Answer[V]]] = {}
        self._generation = 0

    async def get(self, key: K) -> V:
        """Return the answer to a question.

        Raises:
            Unavailable: It is not known and the authority does not answer.
        """
        entry = self._entries.get(key)
        if entry is not None:
            age = self._clock.monotonic() - entry.born
            if not entry.answer.positive:
                if age < self._freshness.negative:
                    self._observe("cache")
                    return entry.answer.value
            elif age < min(self._freshness.positive, entry.answer.lifetime):
                if age > self._freshness.positive / 2:
                    self._refresh(key)
                self._observe("cache")
                return entry.answer.value
        return await self._ask_now(key, entry)

    def drop(self, chosen: Callable[[K], bool] | None = None) -> None:
        """Forget the answers to the chosen questions, to all when None."""
        self._generation += 1
        self._asking = {}
        if chosen is None:
            self._entries.clear()
        else:
            for key in [key for key in self._entries if chosen(key)]:
                del self._entries[key]

    async def _ask_now(self, key: K, entry: _Entry[V] | None) -> V:
        generation = self._generation
        try:
            # Shielded: one caller that gives up must not take the answer from the others.
            answer = await asyncio.shield(self._task(key))
        except Unavailable:
            if entry is None or not entry.answer.positive or generation != self._generation:
                raise
            age = self._clock.monotonic() - entry.born
            longest = self._freshness.positive + self._freshness.stale
            if age >= min(longest, entry.answer.lifetime):
                raise
            self._observe("stale")
            return entry.answer.value
        self._observe("remote")
        return answer.value

    def _refresh(self, key: K) -> None:
        if key not in self._asking:
            self._task(key).add_done_callback(_swallow)

    def _task(self, key: K) -> asyncio.Task[Answer[V]]:
        task = self._asking.get(key)
        if task is None:
            # The answer is for all who ask: the call that happened to ask first must not bind it.
            task = detached_task(self._fetch(key))
            self._asking[key] = task
        return task

    async def _fetch(self, key: K) -> Answer[V]:
        generation = self._generation
        asked = self._clock.monotonic()
        try:
            answer = await self._ask(key)
        finally:
            if generation == self._generation:
                self._asking.pop(key, None)
        # An answer from before a change of grants must not outlive the change.
        if generation == self._generation:
            self._entries.pop(key, None)
            self._entries[key] = _Entry(answer, asked)
            while len(self._entries) > self._freshness.most:
                del self._entries[next(iter(self._entries))]
        return answer


def _swallow(task: asyncio.Task[Answer[V]]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.debug("refresh failed: %s", task.exception())
