"""The event: one fact that a service tells, as the program sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.message import Message

from tessera_kit.ids import new_id
from tessera_kit.telemetry.propagation import current_traceparent

__all__ = ["Event", "new_event"]


@dataclass(frozen=True, slots=True)
class Event:
    """A fact in the past tense: CloudEvents attributes and a protobuf message."""

    id: str
    """Unique per event; consumers handle each id once. 1 to 128 characters."""
    type: str
    """Full protobuf name of the message in `data`, as `tessera.events.v1.GrantChanged`."""
    source: str
    """Who tells it, as `tessera/catalog`."""
    time: datetime
    """When it happened; aware, UTC."""
    key: str
    """Events of one key stay in order; the topic's declaration says what it is."""
    data: Message
    """The fact itself."""
    traceparent: str | None = None
    """W3C trace context of what caused it."""


def new_event(data: Message, *, source: str, key: str, event_id: str | None = None) -> Event:
    """Make an event of now, caused by the current trace.

    Args:
        data: The fact; its full name becomes the event's type.
        source: Who tells it, as `tessera/catalog`.
        key: What stays in order; see the topic's declaration.
        event_id: Give one where telling twice must count once, as a hash of what was told; else a
            new UUIDv7.
    """
    return Event(
        id=event_id or new_id(),
        type=data.DESCRIPTOR.full_name,
        source=source,
        time=datetime.now(UTC),
        key=key,
        data=data,
        traceparent=current_traceparent(),
    )
