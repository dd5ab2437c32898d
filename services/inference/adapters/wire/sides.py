"""What a connection asks of its door, and the door of its connections."""

from __future__ import annotations

import asyncio
from typing import Protocol

from services.inference.adapters.wire.call import CallConnection, ServedCall
from services.inference.adapters.wire.limits import WireLimits
from services.inference.adapters.wire.method import Method

__all__ = ["Connection", "Door"]


class Connection(CallConnection, Protocol):
    """A caller's connection, as the door sees it."""

    def check(self, now: float) -> None:
        """Look for what should have happened by now, on the loop's clock."""

    def drain(self) -> None:
        """Tell the caller to begin no more calls; what it has begun already is still taken."""

    def refuse_more(self) -> None:
        """Second half of `drain`, once the caller has heard of the first."""

    def abort(self) -> None:
        """Break the connection; its calls are cancelled."""


class Door(Protocol):
    """The door, as a connection sees it."""

    limits: WireLimits
    held: int
    """Bytes of requests and unsent responses in the process."""

    def enter(self, connection: Connection) -> bool:
        """Note a new connection; False when there are too many."""

    def leave(self, connection: Connection) -> None:
        """Note that a connection is gone."""

    def find(self, path: str) -> Method | None:
        """The method of a path; None when it is not offered."""

    def start_call(self, connection: CallConnection, call: ServedCall) -> asyncio.Task[None]:
        """Answer a call."""

    def cancel_call(self, call: ServedCall) -> None:
        """Cancel the task of a call."""
