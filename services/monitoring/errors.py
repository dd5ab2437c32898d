"""What can go wrong in monitoring, as callers see it.

TesseraError
├── InvalidArgument
│   └── InvalidMonitor        a monitor contradicts itself or the tables that it names
├── NotFound
│   └── MonitorNotFound       no monitor of that name, or one that the caller may not see
├── AlreadyExists
│   └── MonitorExists         the name is taken
├── FailedPrecondition
│   ├── TableNotReadable      a watched table has no rows in ClickHouse to read
│   └── MetricTableUnfit      a table with the name of a metric table has another shape
└── Aborted
    ├── StaleMonitor          the monitor's etag is not the one that was read
    └── WindowRaced           another worker computed the window first
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera_kit.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
)

__all__ = [
    "InvalidMonitor",
    "MetricTableUnfit",
    "MonitorExists",
    "MonitorNotFound",
    "StaleMonitor",
    "TableNotReadable",
    "WindowRaced",
]


class InvalidMonitor(InvalidArgument):
    """A monitor contradicts itself or the tables that it names.

    Args:
        violations: What is wrong, by field; the first one makes the message.
    """

    reason = "INVALID_MONITOR"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        first = violations[0]
        super().__init__(f"{first.field} {first.description}", violations=violations)


class MonitorNotFound(NotFound):
    """No monitor has the name, or the caller may not see it."""

    reason = "MONITOR_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no monitor {name!r}", metadata={"monitor": name})


class MonitorExists(AlreadyExists):
    """The name is taken."""

    reason = "MONITOR_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a monitor {name!r} already", metadata={"monitor": name})


class TableNotReadable(FailedPrecondition):
    """A table has no rows in ClickHouse that could be read."""

    reason = "TABLE_NOT_READABLE"


class MetricTableUnfit(FailedPrecondition):
    """A table of a metric table's name exists and has another shape."""

    reason = "METRIC_TABLE_UNFIT"


class StaleMonitor(Aborted):
    """The monitor was changed since it was read."""

    reason = "STALE_MONITOR"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"monitor {name!r} was changed since it was read; read it again",
            metadata={"monitor": name},
        )


class WindowRaced(Aborted):
    """Another worker computed one of the windows at the same time; its result stands."""

    reason = "WINDOW_RACED"
