"""Bodies that are too large for a row: where they lie, and from which day on they may go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Final

from services.inference.domain.endpoint import InferenceTable

__all__ = ["PayloadTable", "Side", "StoredBody", "body_folder", "body_key", "days_over"]

_FOLDER: Final = "inference-payloads"


class Side(StrEnum):
    """Which of the two bodies of a request."""

    REQUEST = "request"
    RESPONSE = "response"


@dataclass(frozen=True, slots=True)
class PayloadTable:
    """The table of an endpoint that there is, or was."""

    endpoint_id: str
    table: InferenceTable
    retention_days: int
    """Days that its rows are kept; 0 for ever."""
    endpoint: str
    """The endpoint's name."""


@dataclass(frozen=True, slots=True)
class StoredBody:
    """What a row holds of a body."""

    day: date
    """The day on which its request arrived, in UTC."""
    text: str
    """The body as JSON; empty where it lies elsewhere, or nowhere."""
    key: str
    """Where it lies in the object store; empty where it does not."""
    lacking: tuple[str, ...] = ()
    """Why a body of the row is missing, as codes."""


def body_folder(endpoint_id: str) -> str:
    """The prefix of an endpoint's bodies, below which each day has a folder."""
    return f"{_FOLDER}/{endpoint_id}/"


def body_key(endpoint_id: str, day: date, request_id: str, side: Side) -> str:
    """Where a body lies in the object store."""
    return f"{body_folder(endpoint_id)}{day.isoformat()}/{request_id}.{side.value}"


def days_over(folders: Iterable[str], retention_days: int, today: date) -> dict[date, str]:
    """Those of the days' folders whose rows the table no longer keeps, by day.

    Args:
        folders: Prefixes below `body_folder`; what is no day is passed over.
        retention_days: Of the table: rows of a day go when so many days have begun after it.
        today: In UTC.
    """
    last = today - timedelta(days=retention_days)
    days = {_day(folder): folder for folder in folders}
    return {day: folder for day, folder in days.items() if day is not None and day <= last}


def _day(folder: str) -> date | None:
    try:
        return date.fromisoformat(folder.rstrip("/").rpartition("/")[2])
    except ValueError:
        return None
