"""A payload record from the bus becomes a row of an inference table."""

from __future__ import annotations

from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, ClassVar, Final, NamedTuple

import orjson

from services.inference.domain.table import typed_name
from services.inference.sink.seen import Seen
from services.inference.sink.tensors import (
    DecodedBody,
    UndecodableBody,
    decode_request,
    decode_response,
    undecoded,
)
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.bus.envelope import ConsumedRecord, DataReader, check_data
from tessera_kit.errors import FieldViolation, InvalidArgument
from tessera_kit.rpc.validation import rules_without

__all__ = ["InvalidPayload", "Row", "RowMaker", "UnknownEndpoint", "row_of"]

_FIRST_SECOND: Final = 0
_LAST_SECOND: Final = int(datetime(2149, 1, 1, tzinfo=UTC).timestamp())
_LONGEST_DURATION_US: Final = 10**13
_ROUTES: Final = {
    number: name.removeprefix("PAYLOAD_ROUTE_") for name, number in pb.PayloadRoute.items()
}
_EMPTY: Final = undecoded(b"")
_MOST_COMMON: Final = 256
_COMMON: Final = (
    *("endpoint", "endpoint_id", "served_entity", "model_name", "model_version"),
    *("config_version", "route", "status_code", "status_message", "requester"),
    *("sampling_fraction", "encoding", "trace_flags"),
)
"""Fields that are the same in most records of one caller and entity."""
_read_common: Final = attrgetter(*_COMMON)
_others_are_sound: Final = rules_without(pb.PayloadRecord, _COMMON)
REQUEST_NOT_DECODED: Final = "REQUEST_NOT_DECODED"
"""The request's body is kept as base64, as it is no message of its encoding."""


class InvalidPayload(InvalidArgument):
    """A payload record cannot become a row; the message names the field at fault."""

    reason: ClassVar[str] = "INVALID_PAYLOAD"


class UnknownEndpoint(InvalidArgument):
    """A payload record is of an endpoint that never was."""

    reason: ClassVar[str] = "UNKNOWN_ENDPOINT"


class Row(NamedTuple):
    """One row, without the time of its writing."""

    request_id: str
    endpoint: str
    request_us: int
    """When the request arrived, in Unix microseconds."""
    response_us: int
    """When its response was ready, in Unix microseconds."""
    record: ConsumedRecord
    """Where it came from."""
    values: dict[str, Any]
    """By column: times as Unix microseconds, days as days since 1970, tensors as `Values`."""
    endpoint_id: str = ""
    """Which endpoint of that name; empty for the newest."""


class _Common(NamedTuple):
    """What requests of one caller to one served entity have in common; checked."""

    values: dict[str, Any]
    request: Seen
    response: Seen


class RowMaker:
    """Makes rows of records, most of which are like those before them.

    What a record says of its endpoint, entity, caller and status is checked once, and the like of
    its bodies read without parsing them again.
    """

    def __init__(self) -> None:
        self._reader = DataReader()
        self._common: dict[tuple[Any, ...], _Common] = {}

    def row_of(self, record: ConsumedRecord) -> Row:
        """The row of a record.

        Raises:
            MalformedEvent: It is no valid event.
            InvalidPayload: It is no payload that fits a table.
        """
        payload = self._reader.read(record)
        if not isinstance(payload, pb.PayloadRecord):
            raise InvalidPayload("the record holds no tessera.events.v1.PayloadRecord")
        key = _read_common(payload)
        common = self._common.get(key)
        if common is None or not _others_are_sound(payload):
            check_data(payload)
            common = self._common[key] = _Common(_common_values(payload), Seen(), Seen())
            if len(self._common) > _MOST_COMMON:
                del self._common[next(iter(self._common))]
        return _row(payload, record, common)


def row_of(record: ConsumedRecord) -> Row:
    """The row of a single record; as `RowMaker.row_of`."""
    return RowMaker().row_of(record)


def _common_values(payload: pb.PayloadRecord) -> dict[str, Any]:
    """The columns that the fields of `_COMMON` decide."""
    return {
        "endpoint": payload.endpoint,
        "served_entity_id": payload.served_entity,
        "model_name": payload.model_name,
        "model_version": payload.model_version,
        "config_version": payload.config_version,
        "route": _route(payload),
        "status_code": payload.status_code,
        "status_message": payload.status_message,
        "requester": payload.requester,
        "sampling_fraction": payload.sampling_fraction or 1.0,
    }


def _row(payload: pb.PayloadRecord, record: ConsumedRecord, common: _Common) -> Row:
    request_us = _checked_time(payload)
    duration_us = payload.duration_us
    response_us = request_us + duration_us
    codes = list(payload.logging_error_codes)
    request, response = _bodies(payload, codes, common)
    request_id = payload.tessera_request_id
    values: dict[str, Any] = {
        **common.values,
        "tessera_request_id": request_id,
        "request_date": request_us // 86_400_000_000,
        "request_time": request_us,
        "response_time": response_us,
        "client_request_id": payload.client_request_id,
        "failed_entity_ids": list(payload.failed_served_entities),
        "duration_ms": duration_us / 1000,
        "queue_duration_ms": payload.queue_duration_us / 1000,
        "execution_duration_ms": payload.execution_duration_us / 1000,
        "trace_id": payload.trace_id,
        "logging_error_codes": codes,
        "inputs": request.columns,
        "outputs": response.columns,
        "request": request.message,
        "response": response.message,
        "request_object": payload.request_object,
        "response_object": payload.response_object,
        "chunk_times_ms": [time_us / 1000 for time_us in payload.chunk_times_us],
        "kafka_partition": record.partition,
        "kafka_offset": record.offset,
    }
    for side, body in (("input", request), ("output", response)):
        for tensor, told in body.tensors.items():
            if name := typed_name(side, tensor):
                values[name] = told
    return Row(
        *(request_id, payload.endpoint, request_us, response_us, record, values),
        endpoint_id=payload.endpoint_id,
    )


def _checked_time(payload: pb.PayloadRecord) -> int:
    """When the request came, in microseconds; its times fit the table's columns."""
    time = payload.request_time
    if not _FIRST_SECOND <= time.seconds < _LAST_SECOND:
        raise _invalid("request_time", "must lie between 1970 and 2149")
    if (
        max(payload.duration_us, payload.execution_duration_us, payload.queue_duration_us)
        > _LONGEST_DURATION_US
    ):
        raise _invalid("duration_us", f"must be at most {_LONGEST_DURATION_US}")
    return time.seconds * 1_000_000 + time.nanos // 1000


def _route(payload: pb.PayloadRecord) -> str:
    if payload.route != pb.PAYLOAD_ROUTE_UNSPECIFIED:
        return _ROUTES[payload.route]
    return "PRIMARY" if payload.model_version else "REFUSED"


def _bodies(
    payload: pb.PayloadRecord, codes: list[str], common: _Common
) -> tuple[DecodedBody, DecodedBody]:
    if payload.encoding == pb.PAYLOAD_ENCODING_JSON:
        return (
            _json_body("request", "inputs", payload.request),
            _json_body("response", "outputs", payload.response),
        )
    request = response = _EMPTY
    if payload.request:
        try:
            request = decode_request(payload.request, common.request)
        except UndecodableBody as error:
            if payload.status_code == 0:
                raise _invalid("request", str(error)) from None
            # A request that was refused for what it is must be found in the table all the same.
            request = undecoded(payload.request)
            codes.append(REQUEST_NOT_DECODED)
    if payload.response:
        try:
            response = decode_response(payload.response, common.response)
        except UndecodableBody as error:
            raise _invalid("response", str(error)) from None
    return request, response


def _json_body(field: str, tensors: str, body: bytes) -> DecodedBody:
    """A body that is JSON already: an object that holds an object of lists."""
    if not body:
        return _EMPTY
    try:
        whole = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _invalid(field, "is not JSON in UTF-8") from None
    columns = whole.get(tensors) if isinstance(whole, dict) else None
    if not isinstance(columns, dict) or not all(
        isinstance(values, list) for values in columns.values()
    ):
        raise _invalid(field, f'must be {{"{tensors}": {{"name": [value of each row]}}}}')
    return DecodedBody(orjson.dumps(columns).decode(), body.decode("utf-8"), columns)


def _invalid(field: str, description: str) -> InvalidPayload:
    return InvalidPayload(f"{field} {description}", violations=[FieldViolation(field, description)])
