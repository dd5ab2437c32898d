"""What experiments and runs have in common: their stage, and times in microseconds."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

__all__ = ["LifecycleStage", "Micros", "fits_64_bits", "micros_of"]

Micros: TypeAlias = int
"""A time as microseconds since 1970-01-01 UTC; fits 64 bits for every year that a Timestamp has."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LifecycleStage(enum.StrEnum):
    """Whether a thing is in use, or deleted and restorable."""

    ACTIVE = "active"
    DELETED = "deleted"


def micros_of(moment: datetime) -> Micros:
    """Microseconds of an aware time."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def fits_64_bits(number: int) -> bool:
    """Whether a number can be stored as a signed 64-bit integer."""
    return -(2**63) <= number < 2**63
