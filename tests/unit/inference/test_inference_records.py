"""A payload record, put together from what is serialised when, says what one message would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.trace import SpanContext

from services.inference.domain.fields import bytes_head, numbers
from services.inference.domain.settings import EndpointSettings
from services.inference.gateway import records
from services.inference.gateway.nap import Naps
from services.inference.gateway.records import Exchange
from services.inference.gateway.routing import Route
from tessera.events.v1 import inference_events_pb2 as pb
from tests.unit.inference.gateway import Make

BEGAN: Final = 7_000_000
REQUEST: Final = b"a request of 26 bytes, all."
REPLY: Final = b"x" * 300


@dataclass
class Case:
    """What befalls an exchange between its head and its end, and what its record then says."""

    befalls: Callable[[Exchange, Route], None]
    says: dict[str, Any]
    reply: bytes = b""
    status: int = 0
    message: str = ""
    sampled: float = 1.0


def asked(exchange: Exchange, route: Route) -> None:
    exchange.route, exchange.served = route, route.entities[0]
    exchange.model_began, exchange.model_ended = BEGAN + 40_000, BEGAN + 440_999


def fallen_back(exchange: Exchange, route: Route) -> None:
    asked(exchange, route)
    records.make_head(exchange)
    exchange.failed, exchange.leg, exchange.served = (
        ("delay-1",),
        records.FALLBACK,
        route.others(route.entities[0])[0],
    )


def moved(exchange: Exchange, route: Route) -> None:
    """Another process has led the endpoint to a new configuration."""
    asked(exchange, route)
    records.make_head(exchange)
    endpoint = route.endpoint
    assert endpoint.config is not None
    later = replace(endpoint, config=replace(endpoint.config, version=9))
    asked(exchange, Route(replace(later, settings=EndpointSettings()), Naps()))


def refused(exchange: Exchange, route: Route) -> None:
    exchange.route = route


def unanswered(exchange: Exchange, route: Route) -> None:
    """Its head was made, and it waited for a place until its time was over."""
    exchange.route, exchange.served = route, route.entities[0]
    records.make_head(exchange)
    exchange.queue_us = 128


def unauthorised(exchange: Exchange, route: Route) -> None:
    exchange.authorised = False


def streamed(exchange: Exchange, route: Route) -> None:
    asked(exchange, route)
    exchange.chunk_times_us = [1, 200, 70_000]


def cut(exchange: Exchange, route: Route) -> None:
    streamed(exchange, route)
    exchange.reply_cut = True


def overlong(exchange: Exchange, route: Route) -> None:
    asked(exchange, route)
    exchange.request *= 100


PRIMARY: Final[dict[str, Any]] = {
    "served_entity": "delay-1",
    "model_name": "main.flights.delay",
    "model_version": 1,
    "config_version": 3,
    "endpoint_id": "id-flights",
    "sampling_fraction": 1.0,
    "route": pb.PAYLOAD_ROUTE_PRIMARY,
    "execution_duration_us": 400,
    "request": REQUEST,
}
REFUSED: Final[dict[str, Any]] = {
    "config_version": 3,
    "endpoint_id": "id-flights",
    "sampling_fraction": 1.0,
    "route": pb.PAYLOAD_ROUTE_REFUSED,
    "request": REQUEST,
}
CASES: Final = {
    "answered": Case(asked, {**PRIMARY, "response": REPLY}, REPLY),
    "failed": Case(
        asked,
        {**PRIMARY, "status_code": 13, "status_message": "m" * 8192},
        status=13,
        message="m" * 9000,
    ),
    "answered by another": Case(
        fallen_back,
        {
            **PRIMARY,
            "served_entity": "delay-2",
            "model_version": 2,
            "route": pb.PAYLOAD_ROUTE_FALLBACK,
            "failed_served_entities": ["delay-1"],
            "response": REPLY,
        },
        REPLY,
    ),
    "answered by a later configuration": Case(
        moved, {**PRIMARY, "config_version": 9, "response": REPLY}, REPLY, sampled=0.5
    ),
    "refused": Case(
        refused,
        {**REFUSED, "status_code": 3, "status_message": "no"},
        status=3,
        message="no",
    ),
    "never asked": Case(
        unanswered,
        {
            **REFUSED,
            "served_entity": "delay-1",
            "model_name": "main.flights.delay",
            "model_version": 1,
            "queue_duration_us": 128,
            "status_code": 4,
            "status_message": "late",
        },
        status=4,
        message="late",
    ),
    "unauthorised": Case(
        unauthorised,
        {
            "sampling_fraction": 1.0,
            "route": pb.PAYLOAD_ROUTE_REFUSED,
            "logging_error_codes": ["REQUEST_NOT_AUTHORISED"],
            "status_code": 16,
            "status_message": "who?",
        },
        status=16,
        message="who?",
    ),
    "sampled": Case(
        asked, {**PRIMARY, "sampling_fraction": 0.25, "response": REPLY}, REPLY, sampled=0.25
    ),
    "streamed": Case(
        streamed, {**PRIMARY, "chunk_times_us": [1, 200, 70_000], "response": REPLY}, REPLY
    ),
    "streamed and cut": Case(
        cut,
        {
            **PRIMARY,
            "chunk_times_us": [1, 200, 70_000],
            "logging_error_codes": ["MAX_RESPONSE_SIZE_EXCEEDED"],
        },
        REPLY,
    ),
    "too large a response": Case(
        asked, {**PRIMARY, "logging_error_codes": ["MAX_RESPONSE_SIZE_EXCEEDED"]}, REPLY * 4
    ),
    "too large a request": Case(
        overlong,
        {
            **PRIMARY,
            "request": b"",
            "logging_error_codes": ["MAX_REQUEST_SIZE_EXCEEDED"],
            "response": REPLY,
        },
        REPLY,
    ),
    "both too large": Case(
        overlong,
        {
            **PRIMARY,
            "request": b"",
            "logging_error_codes": ["MAX_REQUEST_SIZE_EXCEEDED", "MAX_RESPONSE_SIZE_EXCEEDED"],
        },
        REPLY * 4,
    ),
}


@pytest.fixture
def make_route(make_endpoint: Make) -> Callable[..., Route]:
    def make(sampled: float = 1.0) -> Route:
        endpoint = make_endpoint(shares=(60, 40), version=3)
        traffic = replace(endpoint.config.traffic, fallback_attempts=1)
        return Route(
            replace(
                endpoint,
                config=replace(endpoint.config, traffic=traffic),
                settings=EndpointSettings(sampling_fraction=sampled),
            ),
            Naps(),
        )

    return make


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Exchange:
    """One of an admitted caller, which takes 500 µs."""
    monkeypatch.setattr(records, "LARGEST_BODY", 1000)
    exchange = Exchange("the-id", REQUEST)
    exchange.time_ns = 1_795_802_400_123_456_789
    exchange.began = BEGAN
    monkeypatch.setattr(records, "perf_counter_ns", lambda: BEGAN + 500_000)
    exchange.endpoint, exchange.client_request_id = "flights", "c" * 600
    exchange.requester, exchange.authorised = "alice", True
    exchange.span = SpanContext(0xAB, 0xCD, is_remote=False)
    return exchange


ABOUT: Final[dict[str, Any]] = {
    "tessera_request_id": "the-id",
    "client_request_id": "c" * 512,
    "endpoint": "flights",
    "requester": "alice",
    "encoding": pb.PAYLOAD_ENCODING_OIP_V2_PROTOBUF,
    "request_time": Timestamp(seconds=1_795_802_400, nanos=123_456_000),
    "trace_id": "000000000000000000000000000000ab",
    "span_id": bytes(7) + b"\xcd",
    "duration_us": 500,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_record_says_what_one_message_would(
    exchange: Exchange, make_route: Callable[..., Route], case: Case
) -> None:
    case.befalls(exchange, make_route(case.sampled))
    parts = records.record_of(exchange, case.reply, case.status, case.message)
    assert pb.PayloadRecord.FromString(b"".join(parts)) == pb.PayloadRecord(**ABOUT, **case.says)


def test_a_mirror_has_a_record_of_its_own(
    exchange: Exchange, make_route: Callable[..., Route]
) -> None:
    route = make_route()
    asked(exchange, route)
    records.make_head(exchange)
    mirror = exchange.mirror(0, route.entities[1])
    mirror.time_ns, mirror.began = exchange.time_ns, exchange.began
    mirror.model_began, mirror.model_ended = exchange.model_began, exchange.model_ended
    parts = records.record_of(mirror, REPLY, 0, "")
    says = {
        "tessera_request_id": "the-id.s0",
        "served_entity": "delay-2",
        "model_version": 2,
        "route": pb.PAYLOAD_ROUTE_SHADOW,
        "response": REPLY,
    }
    wanted = pb.PayloadRecord(**{**ABOUT, **PRIMARY, **says})
    assert pb.PayloadRecord.FromString(b"".join(parts)) == wanted


def test_what_is_noted_of_a_stream_is_merged_into_its_record(
    exchange: Exchange, make_route: Callable[..., Route]
) -> None:
    exchange.route = make_route()
    notes = [records.begun_record_of(exchange)]
    streamed(exchange, exchange.route)
    exchange.queue_us = 128
    notes.append(records.asking_note_of(exchange))
    notes.append(records.answering_note_of(exchange))
    says = {
        "status_code": 14,
        "status_message": "the gateway ended before the answer did",
        "logging_error_codes": ["STREAM_CUT_SHORT"],
        "queue_duration_us": 128,
        "chunk_times_us": [1, 200, 70_000],
        "execution_duration_us": 460,
    }
    wanted = pb.PayloadRecord(**{**ABOUT, **PRIMARY, **says})
    assert pb.PayloadRecord.FromString(b"".join(notes)) == wanted


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, (1 << 14) - 1, 1 << 14, (1 << 63) - 1])
def test_numbers_are_written_as_protobuf_does(number: int) -> None:
    field = pb.PayloadRecord.DURATION_US_FIELD_NUMBER << 3
    message = pb.PayloadRecord(duration_us=number)
    assert pb.PayloadRecord.FromString(numbers(field, number)) == message
    assert numbers(field, number) == (message.SerializeToString() or b"\x48\x00")


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="byte must be"):
        numbers(8, -1)


@pytest.mark.parametrize("length", [1, 127, 128, 20_000])
def test_a_body_lies_behind_its_head(length: int) -> None:
    body = bytes(length)
    head = bytes_head(pb.PayloadRecord.RESPONSE_FIELD_NUMBER, length)
    assert head + body == pb.PayloadRecord(response=body).SerializeToString()
