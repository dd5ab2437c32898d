"""Pages by key: a page starts behind the last item of the one before, whatever came in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from services.tracking.domain.lifecycle import fits_64_bits
from services.tracking.domain.search.evaluate import Values, position_of
from services.tracking.domain.search.syntax import OrderKey, ValueKind

__all__ = ["Place", "Position", "position_after", "read_position", "write_position"]

Place: TypeAlias = tuple[int, float | int | str | None]
"""An item's place by one key of an order: 0 and its value, 1 for NaN, 2 for none."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where an item stands: its places by the order's keys, then its time and id, newest first."""

    places: tuple[Place, ...]
    time: int
    """Microseconds: a run's start, an experiment's creation."""
    id: str


def position_after(
    values: Values, order: Sequence[OrderKey], *, time: int, identifier: str
) -> Position:
    """Return the position of an item, behind which the next page starts."""
    return Position(tuple(position_of(values, key) for key in order), time, identifier)


def write_position(position: Position) -> dict[str, str | int]:
    """Return a position as texts and integers, for a page token."""
    written: dict[str, str | int] = {"t": position.time, "i": position.id}
    for index, (rank, value) in enumerate(position.places):
        written[f"r{index}"] = rank
        if rank == 0 and value is not None:
            # Hexadecimal keeps a double exactly.
            written[f"v{index}"] = value.hex() if isinstance(value, float) else value
    return written


def read_position(written: Mapping[str, str | int], order: Sequence[OrderKey]) -> Position:
    """Return the position that `write_position` wrote for the same order.

    Raises:
        ValueError: It was not written for this order.
    """
    try:
        places = tuple(_read_place(written, index, key) for index, key in enumerate(order))
        time = int(written["t"])
        if not fits_64_bits(time):
            raise ValueError("out of range")
        return Position(places, time, str(written["i"]))
    except KeyError as error:
        raise ValueError(f"no {error}") from None


def _read_place(written: Mapping[str, str | int], index: int, key: OrderKey) -> Place:
    rank = written[f"r{index}"]
    if rank in (1, 2):
        return int(rank), None
    value = written[f"v{index}"]
    match key.field.values:
        case ValueKind.NUMBER:
            return 0, float.fromhex(str(value))
        case ValueKind.TIME:
            micros = int(value)
            if not fits_64_bits(micros):
                raise ValueError("out of range")
            return 0, micros
        case ValueKind.TEXT | ValueKind.ANY:
            return 0, str(value)
