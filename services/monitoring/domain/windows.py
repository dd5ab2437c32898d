"""Windows of event time, and what a stream of rows makes known about them.

Times are whole microseconds since 1970 in UTC; windows are aligned to that moment.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Self

__all__ = [
    "RequestRange",
    "StreamState",
    "Touch",
    "WindowRecord",
    "WindowState",
    "microseconds",
    "moment",
    "window_start",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime | timedelta) -> int:
    """Whole microseconds of a span, or of an aware time since 1970."""
    span = time - _EPOCH if isinstance(time, datetime) else time
    return span // _MICROSECOND


def moment(time_us: int) -> datetime:
    """The aware time, in UTC, of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=time_us)


def window_start(time_us: int, granularity_us: int) -> int:
    """Where the window begins that a time is in."""
    return time_us - time_us % granularity_us


class WindowState(enum.Enum):
    """Whether rows are still expected."""

    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class RequestRange:
    """The requests that rows of a window came with: a span of request time, both ends included.

    A window of event time may lie anywhere in an inference table, which is ordered by request;
    this says where to look.
    """

    first_us: int
    last_us: int

    def merge(self, other: RequestRange | None) -> RequestRange:
        """The least range that holds both."""
        if other is None:
            return self
        return RequestRange(min(self.first_us, other.first_us), max(self.last_us, other.last_us))


@dataclass(frozen=True, slots=True)
class Touch:
    """Rows that were found in one window."""

    start_us: int
    """The window."""
    row_count: int
    """How many rows."""
    requests: RequestRange
    """The requests that they came with."""
    latest_us: int
    """The latest event time among them."""


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """What is kept of a window: its state, and how its metrics were last computed."""

    start_us: int
    end_us: int
    state: WindowState = WindowState.OPEN
    row_count: int = 0
    label_count: int = 0
    revision: int = 0
    """How often its metrics were computed."""
    computed_at: datetime | None = None
    requests: RequestRange | None = None
    """Where its rows are; None for a table that is not read by request."""
    label_marks: int = 0
    """How often labels came for its rows."""
    label_marks_computed: int = 0
    """The `label_marks` that the last computation began with."""

    @property
    def is_dirty(self) -> bool:
        """Whether labels came since its metrics were computed."""
        return self.label_marks > self.label_marks_computed


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the stream of rows made known of one monitor's windows.

    Every part only grows under `observe`, whatever the order and however often the same rows are
    observed: redelivery changes nothing, and a scan of the table gives the same state.
    """

    watermark_us: int | None = None
    """The latest event time seen."""
    latest_request_us: int | None = None
    """The latest request time seen."""
    pending: Mapping[int, RequestRange] = field(default_factory=lambda: MappingProxyType({}))
    """Windows with rows that were not computed yet, by start."""

    def observe(self, touches: Iterable[Touch]) -> Self:
        """The state after rows were found."""
        pending = dict(self.pending)
        watermark, request = self.watermark_us, self.latest_request_us
        for touch in touches:
            pending[touch.start_us] = touch.requests.merge(pending.get(touch.start_us))
            watermark = _later(watermark, touch.latest_us)
            request = _later(request, touch.requests.last_us)
        return type(self)(watermark, request, MappingProxyType(pending))

    def ready(self, granularity_us: int, lateness_us: int) -> list[int]:
        """Starts of the windows that no row is expected for any more, the earliest first."""
        if self.watermark_us is None:
            return []
        horizon = self.watermark_us - lateness_us - granularity_us
        return sorted(start for start in self.pending if start <= horizon)

    def without(self, starts: Iterable[int]) -> Self:
        """The state without windows that are dealt with."""
        gone = set(starts)
        pending = {start: seen for start, seen in self.pending.items() if start not in gone}
        return type(self)(self.watermark_us, self.latest_request_us, MappingProxyType(pending))

    def to_json(self) -> dict[str, object]:
        """The state as plain lists and numbers."""
        return {
            "watermark_us": self.watermark_us,
            "latest_request_us": self.latest_request_us,
            "pending": [
                [start, seen.first_us, seen.last_us] for start, seen in self.pending.items()
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """The state that `to_json` gave.

        Raises:
            ValueError: The data is no such state.
        """
        watermark, request = data.get("watermark_us"), data.get("latest_request_us")
        pending = data.get("pending")
        if not isinstance(pending, list):
            raise ValueError("not a stream state")
        if not all(time is None or isinstance(time, int) for time in (watermark, request)):
            raise ValueError("not a stream state")
        ranges = {start: RequestRange(first, last) for start, first, last in pending}
        return cls(
            watermark if isinstance(watermark, int) else None,
            request if isinstance(request, int) else None,
            MappingProxyType(ranges),
        )


def _later(known: int | None, time_us: int) -> int:
    return time_us if known is None else max(known, time_us)
