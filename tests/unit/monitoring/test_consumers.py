"""What the bus brings: decoded, checked by field, tried again or set aside with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from services.monitoring.consumers import LABELS_TOPIC, ROWS_TOPIC, RowHandling, label_of
from services.monitoring.domain.windows import RequestRange, microseconds
from services.monitoring.handlers.stream import RowsWritten
from services.monitoring.ports import Label, RowBatch
from tessera.events.v1 import inference_events_pb2, monitoring_events_pb2
from tessera_kit.bus.envelope import ConsumedRecord, Record, to_record
from tessera_kit.bus.event import Event, new_event
from tessera_kit.bus.retry import RetryPolicy
from tessera_kit.errors import InvalidArgument, Unavailable
from tests.monitoring_world import NOW


class Letters:
    """Keeps what is set aside."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def publish(self, event: Event) -> None:
        raise AssertionError("only records are set aside")

    async def publish_many(self, events: Iterable[Event]) -> None:
        raise AssertionError("only records are set aside")

    async def publish_records(self, records: Sequence[Record]) -> None:
        self.records.extend(records)

    def reasons(self) -> list[str]:
        return [
            value.decode()
            for record in self.records
            for name, value in record.headers
            if name == "dead_letter_message"
        ]


def consumed(data: Message, key: str = "k") -> ConsumedRecord:
    record = to_record(new_event(data, source="test", key=key))
    return ConsumedRecord(record.topic, 0, 7, 0, record.key, record.value, record.headers)


def rows(**changes: object) -> inference_events_pb2.InferenceRowsWritten:
    message = inference_events_pb2.InferenceRowsWritten(
        endpoint="delay",
        table_full_name="a.b.c",
        row_count=2,
        first_request_id="01",
        last_request_id="02",
    )
    message.first_request_time.FromDatetime(NOW)
    message.last_request_time.FromDatetime(NOW)
    message.MergeFrom(inference_events_pb2.InferenceRowsWritten(**changes))  # type: ignore[arg-type]
    return message


def a_label(**changes: object) -> monitoring_events_pb2.LabelObserved:
    message = monitoring_events_pb2.LabelObserved(endpoint="delay", value=1.0)
    message.observed_at.FromDatetime(NOW)
    message.MergeFrom(monitoring_events_pb2.LabelObserved(**changes))  # type: ignore[arg-type]
    return message


async def test_rows_are_handed_over_as_a_batch() -> None:
    seen: list[RowsWritten] = []

    async def observe(batch: Sequence[RowsWritten]) -> None:
        seen.extend(batch)

    letters = Letters()
    await RowHandling(observe, letters).handle([consumed(rows())])
    time = microseconds(NOW)
    assert seen == [RowsWritten("a.b.c", RowBatch(RequestRange(time, time), ("01", "02")))]
    assert letters.records == []


@pytest.mark.parametrize(
    "changes", [{"first_request_id": "03"}, {"first_request_time": {"seconds": 1 << 33}}]
)
async def test_rows_that_end_before_they_begin_are_set_aside(changes: dict[str, object]) -> None:
    seen: list[RowsWritten] = []

    async def observe(batch: Sequence[RowsWritten]) -> None:
        seen.extend(batch)

    letters = Letters()
    await RowHandling(observe, letters).handle([consumed(rows(**changes)), consumed(rows())])
    assert [record.topic for record in letters.records] == [f"{ROWS_TOPIC}.dead-letter"]
    assert "first not be after last" in letters.reasons()[0]
    assert len(seen) == 1


async def test_an_outage_is_waited_out() -> None:
    attempts = 0

    async def observe(batch: Sequence[RowsWritten]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 4:
            raise Unavailable("ClickHouse does not answer")

    letters = Letters()
    retry = RetryPolicy(initial_seconds=0.001, maximum_seconds=0.002, budget_seconds=None)
    await RowHandling(observe, letters, retry).handle([consumed(rows())])
    assert (attempts, letters.records) == (4, [])


async def test_what_cannot_pass_is_set_aside_at_once() -> None:
    async def observe(batch: Sequence[RowsWritten]) -> None:
        raise InvalidArgument("no such thing")

    letters = Letters()
    await RowHandling(observe, letters).handle([consumed(rows())])
    assert letters.reasons() == ["no such thing"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tessera_request_id": "r"}, Label("delay", "r", "", 1.0, NOW)),
        ({"client_request_id": "c"}, Label("delay", "", "c", 1.0, NOW)),
    ],
)
def test_a_label_is_read_as_protobuf_and_as_json(
    changes: dict[str, object], expected: Label
) -> None:
    message = a_label(**changes)
    record = consumed(message)
    assert label_of(record) == expected
    headers = tuple(
        (name, b"application/json" if name == "content-type" else value)
        for name, value in record.headers
    )
    text = json_format.MessageToJson(message).encode()
    assert label_of(record._replace(value=text, headers=headers)) == expected


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (a_label(), "tessera_request_id"),
        (a_label(tessera_request_id="r", client_request_id="c"), "tessera_request_id"),
        (a_label(tessera_request_id="r" * 65), "tessera_request_id"),
        (a_label(tessera_request_id="r", value=float("nan")), "value"),
        (monitoring_events_pb2.LabelObserved(tessera_request_id="r"), "endpoint"),
        (
            monitoring_events_pb2.LabelObserved(endpoint="e", tessera_request_id="r"),
            "observed_at",
        ),
    ],
)
def test_a_malformed_label_names_its_field(message: Message, field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        label_of(consumed(message))


def test_bytes_that_are_no_label_are_refused() -> None:
    record = consumed(a_label(tessera_request_id="r"))
    assert record.topic == LABELS_TOPIC
    for broken in (b"\xff\xff", None):
        with pytest.raises(InvalidArgument):
            label_of(record._replace(value=broken))
