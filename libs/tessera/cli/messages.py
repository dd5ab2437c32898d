"""Messages of the contracts as rows of a listing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message


def rows(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Each message as a row: its fields by their names in the contract, enums by name."""
    return [
        MessageToDict(
            message,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for message in messages
    ]


def enum_word(value: str) -> str:
    """The last word of an enum's name in lower case: RUN_STATUS_FINISHED is finished."""
    for prefix in _PREFIXES:
        value = value.removeprefix(prefix)
    return value.lower().replace("_", " ")


def when(value: str) -> str:
    """A timestamp as a person reads it, in local time, to the second."""
    moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(value: str) -> str:
    """How long ago a timestamp was, in the largest unit."""
    moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    seconds = max((datetime.now(UTC) - moment).total_seconds(), 0)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def pairs(value: dict[str, Any]) -> str:
    """A map on one line: a=1, b=2."""
    return ", ".join(f"{key}={item}" for key, item in sorted(value.items()))


_PREFIXES = (
    "ALERT_STATE_",
    "ENDPOINT_STATE_",
    "JOB_STATE_",
    "LINEAGE_NODE_TYPE_",
    "MODEL_VERSION_STATUS_",
    "PRINCIPAL_KIND_",
    "PRIVILEGE_",
    "RUN_STATUS_",
    "SECURABLE_TYPE_",
    "TABLE_TYPE_",
    "UPDATE_STATE_",
    "WINDOW_STATE_",
)
