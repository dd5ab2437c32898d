"""CloudEvents 1.0 in Kafka's binary mode: two pure functions between events and records.

The record's value is the message alone, as protobuf or JSON by the `content-type` header; the
attributes are `ce_*` headers (https://github.com/cloudevents/spec, kafka-protocol-binding.md,
section 3.2) beside `traceparent`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from tessera_kit.bus.event import Event
from tessera_kit.bus.topics import REGISTRY, TopicRegistry, original_topic
from tessera_kit.errors import InvalidArgument
from tessera_kit.rpc.validation import validate
from tessera_kit.telemetry.propagation import parse_traceparent

__all__ = [
    "JSON",
    "PROTOBUF",
    "ConsumedRecord",
    "DataReader",
    "Headers",
    "MalformedEvent",
    "Record",
    "check_data",
    "from_record",
    "to_record",
]

PROTOBUF = "application/protobuf"
JSON = "application/json"

_LATEST_MS = 253_402_300_799_999  # The last millisecond of the year 9999.
_MAX_ATTRIBUTE = {"ce_id": 128, "ce_source": 1024, "ce_type": 255, "ce_time": 64}

_ALIKE = frozenset({"ce_specversion", "ce_type", "ce_source", "content-type"})
_CONTENT_TYPE = ("content-type", PROTOBUF.encode())
_MOST_HEADS = 256

_KNOWN = frozenset(
    {
        *("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time"),
        *("content-type", "traceparent"),
    }
)

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record before it is sent."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None = None
    """Unix milliseconds; the time of sending when None."""

    def size(self) -> int:
        """Bytes of key, value and headers together."""
        return (
            len(self.key or b"")
            + len(self.value or b"")
            + sum(len(name) + len(value) for name, value in self.headers)
        )


class ConsumedRecord(NamedTuple):
    """One Kafka record as it was read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers


class MalformedEvent(InvalidArgument):
    """A record is no valid event of its topic; the message names the header or field at fault."""

    reason: ClassVar[str] = "MALFORMED_EVENT"


def to_record(event: Event, registry: TopicRegistry = REGISTRY) -> Record:
    """The record of an event, on the topic that its message type is declared for.

    Raises:
        LookupError: No topic carries the type.
        ValueError: An attribute is empty, too long or not printable, so no consumer would take it.
    """
    for name, value in (("ce_id", event.id), ("ce_source", event.source)):
        if not value or len(value) > _MAX_ATTRIBUTE[name] or not value.isprintable():
            raise ValueError(f"{name} must be 1 to {_MAX_ATTRIBUTE[name]} printable characters")
    headers: list[tuple[str, bytes]] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event.id.encode()),
        ("ce_type", event.type.encode()),
        ("ce_source", event.source.encode()),
        ("ce_time", _format_time(event.time).encode()),
        ("content-type", PROTOBUF.encode()),
    ]
    if event.traceparent is not None:
        headers.append(("traceparent", event.traceparent.encode()))
    return Record(
        topic=registry.topic_for(type(event.data)).name,
        key=event.key.encode(),
        value=event.data.SerializeToString(),
        headers=tuple(headers),
    )


def from_record(record: Record | ConsumedRecord, registry: TopicRegistry = REGISTRY) -> Event:
    """The event that a record holds.

    `ce_time` may be absent where the log has a timestamp. Headers that are not of CloudEvents are
    ignored.

    Raises:
        MalformedEvent: A required header is missing, doubled or not valid, the type is not of this
            topic, the value does not parse as it, or it breaks its contract's rules (`violations`).
    """
    event = _event_of(record, registry)
    check_data(event.data)
    return event


def check_data(message: Message) -> None:
    """Return when a record's message satisfies its contract's rules.

    Raises:
        MalformedEvent: It does not; `violations` name the fields.
    """
    try:
        validate(message)
    except InvalidArgument as error:
        raise MalformedEvent(error.message, violations=error.violations) from None


class DataReader:
    """Reads the messages of many records whose envelopes are alike, and nothing else of them.

    Envelopes are held to what `from_record` asks of them. Of one that differs from an earlier one
    in nothing but its id and its trace, these alone are looked at. The rules of the message's own
    contract are left to `check_data`.

    Args:
        registry: Topics and their message types.
    """

    def __init__(self, registry: TopicRegistry = REGISTRY) -> None:
        self._registry = registry
        self._known: dict[tuple[str, Headers], type[Message]] = {}

    def read(self, record: ConsumedRecord) -> Message:
        """The message of a record.

        Raises:
            MalformedEvent: As `from_record`, but for the rules of the message.
        """
        ids, traces, alike = [], [], []
        for header in record.headers:
            if header[0] == "ce_id":
                ids.append(header[1])
            elif header[0] == "traceparent":
                traces.append(header[1])
            else:
                alike.append(header)
        head = (record.topic, tuple(alike))
        message_class, value = self._known.get(head), record.value
        if message_class is not None and value is not None and len(ids) == 1 and len(traces) <= 1:
            try:
                if _is_id(ids[0].decode()) and all(map(bytes.isascii, traces)):
                    _key(record.key)
                    _parse_time(None, record.timestamp_ms)
                    return message_class.FromString(value)
            except (DecodeError, UnicodeDecodeError, AttributeError, MalformedEvent):
                pass  # Said below, and what exactly is wrong.
        message = _event_of(record, self._registry).data
        if _CONTENT_TYPE in alike and all(name in _ALIKE for name, _ in alike):
            if len(self._known) >= _MOST_HEADS:
                self._known.clear()
            self._known[head] = type(message)
        return message


def _is_id(text: str) -> bool:
    return 0 < len(text) <= _MAX_ATTRIBUTE["ce_id"] and text.isprintable()


def _event_of(record: Record | ConsumedRecord, registry: TopicRegistry) -> Event:
    """The event that a record holds; whether its message keeps its rules is not checked."""
    headers = _text_headers(record.headers)
    version = _required(headers, "ce_specversion")
    if version != "1.0":
        raise MalformedEvent(f"ce_specversion must be 1.0, not {version[:20]!r}")
    event_type = _required(headers, "ce_type")
    return Event(
        id=_required(headers, "ce_id"),
        type=event_type,
        source=_required(headers, "ce_source"),
        time=_parse_time(headers.get("ce_time"), record.timestamp_ms),
        key=_key(record.key),
        data=_parse_data(
            _message_class(record.topic, event_type, registry),
            _required(headers, "content-type"),
            record.value,
        ),
        traceparent=_traceparent(headers),
    )


def _text_headers(headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """The headers that concern the envelope, by lower-case name."""
    texts: dict[str, str] = {}
    for name, value in headers:
        if name not in _KNOWN:
            name = name.lower()
            if not name.startswith("ce_") and name not in _KNOWN:
                continue
        if name in texts:
            raise MalformedEvent(f"header {name} is given twice")
        try:
            texts[name] = value.decode()
        except (UnicodeDecodeError, AttributeError):
            raise MalformedEvent(f"header {name} is not UTF-8 text") from None
    return texts


def _required(headers: dict[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise MalformedEvent(f"header {name} is missing")
    limit = _MAX_ATTRIBUTE.get(name, 255)
    if len(value) > limit:
        raise MalformedEvent(f"header {name} is longer than {limit} characters")
    if not value.isprintable():
        raise MalformedEvent(f"header {name} holds control characters")
    return value


def _format_time(time: datetime) -> str:
    if time.tzinfo is None:
        raise ValueError("an event's time must be aware")
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _parse_time(text: str | None, timestamp_ms: int | None) -> datetime:
    if text is None:
        if timestamp_ms is None or not 0 <= timestamp_ms <= _LATEST_MS:
            raise MalformedEvent("header ce_time is missing")
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None or "T" not in text.upper():
            raise ValueError(text)
        return time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise MalformedEvent("header ce_time is not an RFC 3339 time with an offset") from None


def _key(key: bytes | None) -> str:
    try:
        return key.decode("utf-8") if key is not None else ""
    except UnicodeDecodeError:
        raise MalformedEvent("the record's key is not UTF-8 text") from None


def _traceparent(headers: dict[str, str]) -> str | None:
    # A wrong trace context is no reason to refuse a fact: it is dropped (W3C Trace Context, section
    # 4.3).
    text = headers.get("traceparent") or headers.get("ce_traceparent")
    return text if text is not None and parse_traceparent(text) is not None else None


def _message_class(topic: str, event_type: str, registry: TopicRegistry) -> type[Message]:
    message_class = registry.message_class(original_topic(topic), event_type)
    if message_class is None:
        raise MalformedEvent(f"ce_type {event_type!r} is not one that topic {topic} carries")
    return message_class


def _parse_data(message_class: type[Message], content_type: str, value: bytes | None) -> Message:
    media_type = content_type
    if media_type not in {PROTOBUF, JSON}:
        media_type = content_type.split(";", 1)[0].strip().lower()
    if value is None:
        raise MalformedEvent("the record has no value")
    message = message_class()
    name = message_class.DESCRIPTOR.full_name
    try:
        if media_type in {PROTOBUF, "application/x-protobuf"}:
            message.ParseFromString(value)
        elif media_type == JSON:
            json_format.Parse(value.decode("utf-8"), message, max_recursion_depth=50)
        else:
            raise MalformedEvent(
                f"content-type must be {PROTOBUF} or {JSON}, not {media_type[:80]!r}"
            )
    except (DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedEvent(f"the value is not a {name} in {media_type}") from None
    except json_format.ParseError as error:
        raise MalformedEvent(f"the value is not a {name}: {str(error)[:300]}") from None
    return message
