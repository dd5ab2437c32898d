"""Triggers: made by callers, fired by events, submitted once per event."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime

from services.training.domain.trigger import FiringOutcome, Trigger, TriggerEvent, cools_down
from services.training.errors import RequestReused, TriggerNotFound
from services.training.handlers.jobs import JobHandlers, Rights
from services.training.ports import Firings, Triggers
from tessera.catalog.v1 import securable_pb2 as securable
from tessera_kit.clock import Clock
from tessera_kit.errors import DeadlineExceeded, TesseraError, Unauthenticated
from tessera_kit.rpc.identity import Principal

__all__ = ["TriggerHandlers", "note_event"]

_log = logging.getLogger(__name__)
_SCAN = 200


async def note_event(
    firings: Firings, event: TriggerEvent, subject: str, event_id: str, at: datetime
) -> int:
    """Owe the firing of every trigger that an event concerns; returns how many.

    Runs in the transaction that claims the event, so it is fast and asks nobody else.
    """
    matching = await firings.matching(event, subject, at)
    for trigger in matching:
        await firings.owe(trigger, event_id, at)
    return len(matching)


class TriggerHandlers:
    """The calls on triggers, and their firing.

    Args:
        triggers: Where they are kept.
        jobs: Submits their jobs.
        rights: Who may what.
        clock: Time.
    """

    def __init__(self, triggers: Triggers, jobs: JobHandlers, rights: Rights, clock: Clock) -> None:
        self._triggers = triggers
        self._jobs = jobs
        self._rights = rights
        self._clock = clock

    async def create(self, principal: Principal, trigger: Trigger, request_id: str) -> Trigger:
        """Store a trigger of the caller, who needs now what its jobs will need.

        Raises:
            InvalidJob: Its job cannot be run here.
            PermissionDenied: A right is missing.
            TriggerExists: The name is taken.
            RequestReused: The request id came with another trigger before.
        """
        await self._jobs.check(principal, trigger.job)
        if trigger.event is TriggerEvent.ALERT_FIRED:
            await self._rights.may_follow(
                principal,
                securable.SECURABLE_TYPE_MONITOR,
                securable.PRIVILEGE_SELECT,
                trigger.subject,
            )
        else:
            await self._rights.may_follow(
                principal,
                securable.SECURABLE_TYPE_MODEL,
                securable.PRIVILEGE_BROWSE,
                trigger.subject,
            )
        stored = await self._triggers.add(trigger, request_id)
        if (stored.name, stored.event, stored.subject, stored.job, stored.cool_down) != (
            trigger.name,
            trigger.event,
            trigger.subject,
            trigger.job,
            trigger.cool_down,
        ):
            raise RequestReused("the request id came with another trigger before")
        return stored

    async def get(self, principal: Principal, name: str) -> Trigger:
        """Read a trigger.

        Raises:
            TriggerNotFound: There is none, or it is somebody else's.
        """
        trigger = await self._triggers.get(name)
        if not _owns(principal, trigger):
            raise TriggerNotFound(f"there is no trigger {name!r}")
        return trigger

    async def page(
        self, principal: Principal, after: str, size: int
    ) -> tuple[Sequence[Trigger], str]:
        """The caller's triggers by name, all for administrators; and where the next page starts."""
        visible: list[Trigger] = []
        while True:
            found = await self._triggers.page(after, _SCAN)
            for trigger in found:
                if len(visible) == size:
                    return visible, visible[-1].name
                if _owns(principal, trigger):
                    visible.append(trigger)
            if len(found) < _SCAN:
                return visible, ""
            after = found[-1].name

    async def delete(self, principal: Principal, name: str) -> None:
        """Remove a trigger.

        Raises:
            TriggerNotFound: There is none, or it is somebody else's.
        """
        await self.get(principal, name)
        await self._triggers.delete(name)

    async def fire(self, name: str, event_id: str) -> None:
        """Submit a trigger's job for one event, with the creator's rights; again changes nothing.

        Raises:
            TesseraError: It could not be decided now; try again.
        """
        if await self._triggers.outcome(name, event_id) is not None:
            return
        try:
            trigger = await self._triggers.get(name)
        except TriggerNotFound:
            return
        now = self._clock.now()
        if cools_down(trigger, now):
            reason = f"the trigger cools down for {trigger.cool_down}"
            await self._triggers.settle(name, event_id, FiringOutcome.SKIPPED, now, "", reason)
            return
        creator = Principal(trigger.created_by)
        try:
            job = await self._jobs.submit(
                creator, trigger.job, _request_id(trigger, event_id), name
            )
        except TesseraError as error:
            if error.retryable or isinstance(error, DeadlineExceeded | Unauthenticated):
                raise
            _log.warning("trigger %s was refused: %s", name, error.message)
            outcome, reason = FiringOutcome.REFUSED, error.message
            await self._triggers.settle(name, event_id, outcome, now, "", reason)
            return
        await self._triggers.settle(name, event_id, FiringOutcome.SUBMITTED, now, job.job_id, "")


def _owns(principal: Principal, trigger: Trigger) -> bool:
    return principal.is_admin or trigger.created_by == principal.name


def _request_id(trigger: Trigger, event_id: str) -> str:
    """The same for one event and trigger, so that a second submission finds the first one's job.

    A trigger that was deleted and made again under its name is another one.
    """
    made = trigger.created_at.isoformat()
    return hashlib.sha256(f"{trigger.name}\0{made}\0{event_id}".encode()).hexdigest()
