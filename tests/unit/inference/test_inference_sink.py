"""The sink: each request id once, whatever comes again; what cannot be a row is a dead letter."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf import json_format
from tritonclient.grpc import service_pb2

from services.inference.adapters.memory import InMemoryEndpoints, InMemoryPayloads
from services.inference.domain.endpoint import InferenceTable
from services.inference.errors import StoreUnavailable
from services.inference.sink import writer, written
from services.inference.sink.rows import InvalidPayload, Row, row_of
from services.inference.sink.writer import PayloadSink
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.bus.continuity import Continuity
from tessera_kit.bus.envelope import ConsumedRecord
from tessera_kit.bus.memory import InMemoryBus
from tessera_kit.bus.producer import BusUnavailable
from tessera_kit.ids import new_id
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics
from tests.helpers import Spans

TOPIC = "tessera.inference.payload.v1"
ROWS = "tessera.inference.rows.v1"
TABLE = InferenceTable("main.flights.flights_payload", "main_flights", "flights_payload")
Make = Callable[..., Any]


class OneTable:
    """`ports.Tables` with the table of `flights`."""

    table = TABLE

    async def table_of(self, endpoint: str, endpoint_id: str = "") -> InferenceTable | None:
        return self.table if endpoint == "flights" else None


@pytest.fixture
def bus() -> InMemoryBus:
    return InMemoryBus()


@pytest.fixture
def store() -> InMemoryPayloads:
    return InMemoryPayloads()


@pytest.fixture
def sink(store: InMemoryPayloads, bus: InMemoryBus) -> PayloadSink:
    return PayloadSink(OneTable(), store, bus, Metrics(), Continuity(60.0))


def consumed(
    payload: pb.PayloadRecord, offset: int = 0, *, as_json: bool = False
) -> ConsumedRecord:
    value = payload.SerializeToString()
    if as_json:
        value = json_format.MessageToJson(payload).encode()
    kind = b"application/json" if as_json else b"application/protobuf"
    identifier = payload.tessera_request_id.encode()
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", identifier or b"none"),
        ("ce_type", b"tessera.events.v1.PayloadRecord"),
        ("ce_source", b"test"),
        ("content-type", kind),
    )
    return ConsumedRecord(TOPIC, 1, offset, 1_700_000_000_000, identifier, value, headers)


@pytest.fixture
def make_payload(make_request: Make) -> Callable[..., pb.PayloadRecord]:
    def make(**changes: Any) -> pb.PayloadRecord:
        payload = pb.PayloadRecord(
            tessera_request_id=new_id(),
            endpoint="flights",
            served_entity="delay-1",
            model_name="main.flights.delay",
            model_version=1,
            duration_us=2500,
            request=make_request().SerializeToString(),
        )
        payload.request_time.FromDatetime(datetime(2026, 11, 23, 7, 0, 0, 123456, tzinfo=UTC))
        for name, value in changes.items():
            setattr(payload, name, value)
        return payload

    return make


def offsets(rows: Sequence[Row]) -> list[int]:
    return [row.record.offset for row in rows]


async def test_a_record_becomes_a_row(
    sink: PayloadSink, store: InMemoryPayloads, bus: InMemoryBus, make_payload: Make
) -> None:
    payload = make_payload(client_request_id="mine", trace_id="ab" * 16)
    await sink.handle([consumed(payload, 42)])
    (row,) = store.rows(TABLE)
    assert row.values["tessera_request_id"] == payload.tessera_request_id
    assert row.values["client_request_id"] == "mine"
    assert row.values["request_time"] % 1_000_000 == 123_456
    assert row.response_us - row.request_us == 2500
    assert json.loads(row.values["inputs"])["carrier"] == ["UA"]
    assert (row.values["kafka_partition"], row.values["kafka_offset"]) == (1, 42)
    assert bus.events(ROWS) == []
    await sink.tell()
    (event,) = bus.events(ROWS)
    assert event.data.row_count == 1
    assert event.data.table_full_name == TABLE.full_name
    assert event.data.first_request_id == payload.tessera_request_id


async def test_batches_are_told_of_together_and_again_after_a_failure(
    sink: PayloadSink, bus: InMemoryBus, make_payload: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise BusUnavailable("away")

    payloads = [make_payload() for _ in range(3)]
    records = [consumed(payload, offset) for offset, payload in enumerate(payloads)]
    await sink.handle(records[:2])
    await sink.handle(records[2:])
    with monkeypatch.context() as broken, pytest.raises(BusUnavailable):
        broken.setattr(bus, "publish_many", away)
        await sink.tell()
    await sink.tell()
    await sink.tell()
    (event,) = bus.events(ROWS)
    ids = sorted(payload.tessera_request_id for payload in payloads)
    assert event.data.row_count == 3
    assert (event.data.first_request_id, event.data.last_request_id) == (ids[0], ids[-1])


class Counting(InMemoryPayloads):
    """Counts how often it is asked for ids."""

    asked = 0

    async def existing(self, table: InferenceTable, request_ids: Sequence[str]) -> frozenset[str]:
        self.asked += 1
        return await super().existing(table, request_ids)


async def test_a_table_is_not_asked_for_ids_that_nobody_else_can_have_written(
    bus: InMemoryBus, make_payload: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(["02", "8"])
    monkeypatch.setattr(written, "_least_id", lambda _: next(moments, "8"))
    store = Counting()
    sink = PayloadSink(OneTable(), store, bus, Metrics(), Continuity(60.0))
    old, new, strange = (make_payload(tessera_request_id=one) for one in ("01", "03", "zz"))
    await sink.handle([consumed(new, 0)])
    assert store.asked == 0
    for payload in (old, strange, new):
        before = store.asked
        await sink.handle([consumed(payload, 1)])
        assert store.asked > before
    assert sorted(row.request_id for row in store.rows(TABLE)) == ["01", "03", "zz"]


async def test_a_record_that_comes_again_is_one_row(
    sink: PayloadSink, store: InMemoryPayloads, make_payload: Make
) -> None:
    payloads = [make_payload() for _ in range(10)]
    records = [consumed(payload, offset) for offset, payload in enumerate(payloads)]
    repeated = [record._replace(offset=record.offset + 100) for record in records]
    await sink.handle([*records[:4], *repeated[:4]])
    await sink.handle(records[2:])
    await sink.handle([*records, *repeated])
    found = [row.request_id for row in store.rows(TABLE)]
    assert sorted(found) == sorted(payload.tessera_request_id for payload in payloads)


async def test_an_insert_that_failed_after_it_happened_is_not_repeated(
    sink: PayloadSink, store: InMemoryPayloads, make_payload: Make
) -> None:
    records = [consumed(make_payload(), offset) for offset in range(3)]
    store.fail_after_insert = True
    with pytest.raises(StoreUnavailable):
        await sink.handle(records)
    await sink.handle(records)
    assert offsets(store.rows(TABLE)) == [0, 1, 2]


async def test_an_insert_that_is_still_running_is_told_by_its_token(
    sink: PayloadSink, store: InMemoryPayloads, make_payload: Make
) -> None:
    records = [consumed(make_payload(), offset) for offset in range(3)]
    await sink.handle(records)
    store.hide = True
    await sink.handle(records)
    assert offsets(store.rows(TABLE)) == [0, 1, 2]


@pytest.mark.parametrize("restarted", [False, True], ids=["this-process", "the-one-before"])
async def test_rows_that_a_killed_database_lost_are_written_again(
    store: InMemoryPayloads,
    bus: InMemoryBus,
    make_payload: Make,
    restarted: bool,
) -> None:
    sink = PayloadSink(OneTable(), store, bus, Metrics(), Continuity(60.0))
    records = [consumed(make_payload(), offset) for offset in range(3)]
    store.lose_insert = True
    with pytest.raises(StoreUnavailable):
        await sink.handle(records)
    if restarted:
        sink = PayloadSink(OneTable(), store, bus, Metrics(), Continuity(60.0))
    await sink.handle(records)
    assert offsets(store.rows(TABLE)) == [0, 1, 2]


async def test_different_rows_at_the_same_places_are_both_written(
    sink: PayloadSink, store: InMemoryPayloads, make_payload: Make
) -> None:
    """A topic that was made anew counts from 0 again."""
    await sink.handle([consumed(make_payload(), 0)])
    await sink.handle([consumed(make_payload(), 0)])
    assert offsets(store.rows(TABLE)) == [0, 0]


async def test_an_endpoint_that_was_made_anew_has_its_new_table(
    store: InMemoryPayloads, bus: InMemoryBus, make_payload: Make
) -> None:
    tables = OneTable()
    sink = PayloadSink(tables, store, bus, Metrics(), Continuity(60.0))
    await sink.handle([consumed(make_payload(), 0)])
    tables.table = replace(TABLE, table="flights_2_payload")
    await sink.handle([consumed(make_payload(), 1)])
    assert offsets(store.rows(TABLE)) == [0]
    assert offsets(store.rows(tables.table)) == [1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpoint": "other"}, "endpoint: there is no endpoint 'other'"),
        ({"endpoint": ""}, "endpoint"),
        ({"tessera_request_id": ""}, "tessera_request_id"),
        ({"status_code": 17}, "status_code"),
        ({"request": b"\xff\xff"}, "request is no inference.ModelInferRequest"),
        ({"response": b"\xff\xff"}, "response is no inference.ModelInferResponse"),
        ({"duration_us": 10**14}, "duration_us"),
        ({"encoding": pb.PAYLOAD_ENCODING_JSON}, "request is not JSON"),
    ],
)
async def test_what_cannot_be_a_row_is_set_aside_with_the_reason(
    sink: PayloadSink,
    store: InMemoryPayloads,
    bus: InMemoryBus,
    make_payload: Make,
    changes: dict[str, Any],
    words: str,
) -> None:
    good = make_payload()
    await sink.handle([consumed(make_payload(**changes), 0), consumed(good, 1)])
    assert [row.request_id for row in store.rows(TABLE)] == [good.tessera_request_id]
    (letter,) = bus.dead_letters(TOPIC)
    assert words in dict(letter.headers)["dead_letter_message"].decode()


@pytest.mark.parametrize("seconds", [-1, 10**10])
async def test_times_that_no_table_takes_are_set_aside(
    sink: PayloadSink, bus: InMemoryBus, make_payload: Make, seconds: int
) -> None:
    payload = make_payload()
    payload.request_time.seconds = seconds
    await sink.handle([consumed(payload)])
    (letter,) = bus.dead_letters(TOPIC)
    assert b"request_time" in dict(letter.headers)["dead_letter_message"]


async def test_strangers_may_tell_theirs_in_json(
    sink: PayloadSink, store: InMemoryPayloads, make_payload: Make
) -> None:
    payload = make_payload(
        encoding=pb.PAYLOAD_ENCODING_JSON,
        request=b'{"inputs": {"x": [1.5, 2.5]}}',
        response=b'{"outputs": {"p": [0.1, 0.9]}}',
    )
    await sink.handle([consumed(payload, as_json=True)])
    (row,) = store.rows(TABLE)
    assert json.loads(row.values["inputs"]) == {"x": [1.5, 2.5]}
    assert json.loads(row.values["outputs"]) == {"p": [0.1, 0.9]}


def test_a_refused_request_is_kept_though_it_cannot_be_read(make_payload: Make) -> None:
    row = row_of(consumed(make_payload(request=b"\xff\xff", status_code=3)))
    assert row.values["logging_error_codes"] == ["REQUEST_NOT_DECODED"]
    assert json.loads(row.values["request"]) == {"base64": "//8="}
    assert row.values["inputs"] == "{}"


def test_a_head_of_more_dimensions_than_arrays_have_costs_no_other_row(make_payload: Make) -> None:
    request = service_pb2.ModelInferRequest(model_name="flights")
    request.inputs.add(name="x", datatype="FP32", shape=[1] * 33 + [2])
    request.raw_input_contents.append(bytes(8))
    body = request.SerializeToString()
    row = row_of(consumed(make_payload(request=body, status_code=3)))
    assert row.values["logging_error_codes"] == ["REQUEST_NOT_DECODED"]
    with pytest.raises(InvalidPayload, match="request 'x' has 34 dimensions"):
        row_of(consumed(make_payload(request=body)))


async def test_a_recorded_request_has_its_insert_in_its_trace(
    sink: PayloadSink, make_payload: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = Spans()
    monkeypatch.setattr(writer, "_tracer", spans.tracer)
    recorded, other = (consumed(make_payload(), offset) for offset in range(2))
    cause, flags = f"00-{'ab' * 16}-{'cd' * 8}-", ("01", "00")
    records = [
        record._replace(headers=(*record.headers, ("traceparent", (cause + flag).encode())))
        for record, flag in zip((recorded, other), flags, strict=True)
    ]
    await sink.handle(records)
    (span,) = spans.finished(1) or ()
    assert span.name == names.SPAN_TABLE_INSERT
    assert span.parent is not None and span.attributes is not None
    assert f"{span.parent.trace_id:032x}" == "ab" * 16
    assert f"{span.parent.span_id:016x}" == "cd" * 8
    assert span.attributes[names.REQUEST_ID] == recorded.key.decode()
    # What comes again is not inserted again.
    await sink.handle(records)
    assert spans.finished(2) is None


async def test_late_records_of_a_deleted_endpoint_never_land_in_its_successors_table(
    store: InMemoryPayloads, bus: InMemoryBus, make_payload: Make, make_endpoint: Make
) -> None:
    endpoints = InMemoryEndpoints()
    first = make_endpoint()
    await endpoints.add(first, "", [])
    await endpoints.delete(first, [])
    table = InferenceTable("main.flights.new_payload", "main_flights", "new_payload")
    second = replace(make_endpoint(), endpoint_id="id-second", table=table)
    await endpoints.add(second, "", [])
    late = make_payload(endpoint_id=first.endpoint_id)
    fresh = make_payload(endpoint_id=second.endpoint_id)
    strangers = make_payload()
    sink = PayloadSink(endpoints, store, bus, Metrics(), Continuity(60.0))
    records = (late, fresh, strangers)
    await sink.handle([consumed(one, offset) for offset, one in enumerate(records)])
    assert [row.request_id for row in store.rows(first.table)] == [late.tessera_request_id]
    assert {row.request_id for row in store.rows(table)} == {
        fresh.tessera_request_id,
        strangers.tessera_request_id,
    }


async def test_tensors_are_typed_columns_and_large_bodies_are_pointed_at(
    sink: PayloadSink, store: InMemoryPayloads, make_payload: Make
) -> None:
    await sink.handle([consumed(make_payload(), 1)])
    values = store.rows(TABLE)[0].values
    assert values["input_x"].tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert values["input_carrier"] == ["UA"]
    assert values["route"] == "PRIMARY"
    moved = make_payload(request=b"", request_object="inference-payloads/x/y.request")
    await sink.handle([consumed(moved, 2)])
    values = store.rows(TABLE)[1].values
    assert (values["request"], values["request_object"]) == ("", moved.request_object)
