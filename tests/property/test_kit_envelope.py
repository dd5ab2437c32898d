"""The envelope: every valid event survives the trip, and nothing else gets through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from aiokafka.partitioner import murmur2 as reference_murmur2
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from hypothesis import given
from hypothesis import strategies as st

from tessera.events.v1 import monitoring_events_pb2
from tessera_kit.bus.envelope import (
    JSON,
    ConsumedRecord,
    DataReader,
    MalformedEvent,
    Record,
    check_data,
    from_record,
    to_record,
)
from tessera_kit.bus.event import Event
from tessera_kit.bus.partition import KafkaPartitioner, murmur2
from tessera_kit.bus.topics import REGISTRY, Topic, TopicRegistry

OURS = TopicRegistry(
    [
        Topic("test.values.v1", 2, 1, (StringValue, Int64Value), "any text"),
        Topic("test.objects.v1", 2, 1, (Struct,), "any text"),
    ]
)

printable = st.text(
    st.characters(blacklist_categories=("Cs",)).filter(str.isprintable), min_size=1, max_size=128
)
encodable = st.text(st.characters(blacklist_categories=("Cs",)), max_size=64)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001  # hypothesis adds the zone
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=offsets,
)
messages = st.one_of(
    encodable.map(lambda text: StringValue(value=text)),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: Int64Value(value=number)),
)


def traceparent(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


traceparents = st.none() | st.builds(
    traceparent,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 1),
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    data = draw(messages)
    return Event(
        id=draw(printable),
        type=data.DESCRIPTOR.full_name,
        source=draw(printable),
        time=draw(times),
        key=draw(encodable),
        data=data,
        traceparent=draw(traceparents),
    )


@given(events())
def test_an_event_survives_the_trip(event: Event) -> None:
    arrived = from_record(to_record(event, OURS), OURS)
    assert arrived == event
    assert arrived.time.tzinfo is UTC


@given(events())
def test_an_event_in_json_is_the_same_event(event: Event) -> None:
    record = to_record(event, OURS)
    headers = [
        (name, JSON.encode() if name == "content-type" else value) for name, value in record.headers
    ]
    value = json_format.MessageToJson(event.data).encode()
    assert from_record(Record(record.topic, record.key, value, tuple(headers)), OURS) == event


@given(events(), st.data())
def test_any_one_required_header_missing_or_doubled_is_refused(
    event: Event, data: st.DataObject
) -> None:
    record = to_record(event, OURS)
    required = [name for name, _ in record.headers if name not in {"traceparent", "ce_time"}]
    name = data.draw(st.sampled_from(required))
    without = tuple(header for header in record.headers if header[0] != name)
    twice = (*record.headers, next(header for header in record.headers if header[0] == name))
    for headers in (without, twice):
        try:
            from_record(Record(record.topic, record.key, record.value, headers), OURS)
        except MalformedEvent as error:
            assert name in error.message
        else:
            raise AssertionError(f"{name} was not missed")


def read_anew(record: ConsumedRecord) -> Message:
    return from_record(record, OURS).data


def outcome(read: Callable[[ConsumedRecord], Message], record: Record) -> Message | str:
    """The message, or why there is none."""
    place = ConsumedRecord(record.topic, 0, 0, 1, record.key, record.value, record.headers)
    try:
        message = read(place)
        check_data(message)
    except MalformedEvent as error:
        return str(error)
    return message


header_names = st.sampled_from(
    [
        *("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "ce_subject"),
        *("content-type", "traceparent", "CE_ID", "other", ""),
    ]
)
header_values = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [
            *(b"1.0", b"application/json", b"application/protobuf", b"2013-01-01T00:00:00Z"),
            *(b"google.protobuf.StringValue", b"google.protobuf.Struct"),
            *(b"2013-01-01", b"99999-01-01T00:00:00Z", b"2013-01-01T00:00:00"),
        ]
    ),
)
values = st.one_of(
    st.none(),
    st.binary(max_size=200),
    st.sampled_from(
        [b'"text"', b'{"a": NaN}', b"[" * 5000, b'{"a":' * 5000, b'"\\ud800"', b"1e999"]
    ),
)


@st.composite
def outside_records(draw: st.DrawFn) -> Record:
    """Records that are no more than a few changes away from a valid one."""
    record = to_record(draw(events()), OURS)
    headers = list(record.headers)
    for _ in range(draw(st.integers(0, 3))):
        match draw(st.integers(0, 2)):
            case 0 if headers:
                headers.pop(draw(st.integers(0, len(headers) - 1)))
            case 1 if headers:
                index = draw(st.integers(0, len(headers) - 1))
                headers[index] = (headers[index][0], draw(header_values))
            case _:
                headers.append((draw(header_names), draw(header_values)))
    return Record(
        draw(
            st.just(record.topic)
            | st.sampled_from(["test.objects.v1", record.topic + ".dead-letter", "nowhere"])
        ),
        draw(st.just(record.key) | st.none() | st.binary(max_size=40)),
        draw(st.just(record.value) | values),
        tuple(headers),
        draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
    )


@given(outside_records())
def test_nothing_from_outside_does_worse_than_being_refused(record: Record) -> None:
    try:
        event = from_record(record, OURS)
    except MalformedEvent as error:
        assert error.message
    else:
        # What gets through is an event that can be told on.
        assert from_record(to_record(event, OURS), OURS) == event


@given(st.binary(max_size=300))
def test_bytes_that_pass_for_a_label_keep_its_contract(value: bytes) -> None:
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"1"),
        ("ce_source", b"test"),
        ("ce_type", b"tessera.events.v1.LabelObserved"),
        ("ce_time", b"2013-01-01T00:00:00Z"),
        ("content-type", b"application/protobuf"),
    )
    try:
        event = from_record(Record("tessera.monitoring.label.v1", b"k", value, headers), REGISTRY)
    except MalformedEvent:
        return
    assert isinstance(event.data, monitoring_events_pb2.LabelObserved)
    assert event.data.endpoint
    assert event.data.HasField("observed_at")


@given(st.binary(max_size=100))
def test_the_hash_is_that_of_every_kafka_client(data: bytes) -> None:
    assert murmur2(data) == reference_murmur2(data)


@given(st.binary(max_size=40), st.integers(1, 64))
def test_equal_keys_go_to_one_partition(key: bytes, count: int) -> None:
    partitions = list(range(count))
    chosen = KafkaPartitioner()(key, partitions, partitions)
    assert chosen in partitions
    assert chosen == KafkaPartitioner()(key, partitions, partitions[:1])


@given(events(), outside_records())
def test_a_reader_takes_and_refuses_what_is_taken_and_refused_one_by_one(
    event: Event, other: Record
) -> None:
    reader = DataReader(OURS)
    record = to_record(event, OURS)
    timeless = replace(record, headers=tuple(one for one in record.headers if one[0] != "ce_time"))
    strange = replace(timeless, headers=(*timeless.headers, ("CE_ID", b"2")))
    empty, broken = replace(timeless, value=None), replace(timeless, value=b"\xff")
    for one in (timeless, other, strange, timeless, empty, broken, other, strange, timeless):
        assert outcome(reader.read, one) == outcome(read_anew, one)
    nameless = replace(timeless, headers=(("ce_id", b"a\n"), *timeless.headers[2:]))
    assert outcome(reader.read, nameless) == outcome(read_anew, nameless)
