"""Whatever is asked by `PredictionService`: an answer or a specific refusal, one readable record.

`TESSERA_FUZZ_CASES=10000` asks as often; the suite asks a few times.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.inference.sink.rows import row_of
from tessera.events.v1 import inference_events_pb2
from tessera.inference.v1 import prediction_pb2
from tessera.inference.v1 import prediction_service_pb2 as pb
from tessera_kit.bus.envelope import ConsumedRecord, to_record
from tessera_kit.bus.event import new_event
from tests.gateway_door import ALICE, BOB, GatewayDoor, Refused

CASES = int(os.environ.get("TESSERA_FUZZ_CASES", "150"))
SETTINGS = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NAMES = st.one_of(
    st.sampled_from(["x"] * 6 + ["n"] * 5 + ["note"] * 2 + ["", "ä" * 200]), st.text(max_size=4)
)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[str, Any] = {
    "bools": st.booleans(),
    "integers": st.one_of(st.integers(-9, 9), INTEGERS),
    "unsigned_integers": st.integers(0, 2**64 - 1),
    "floats": st.floats(width=32),
    "doubles": st.one_of(st.floats(-9, 9), st.integers(-9, 9).map(float), st.floats()),
    "texts": st.text(max_size=5),
    "binaries": st.binary(max_size=5),
}
CODES = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND} | {
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
}


@st.composite
def columns(draw: st.DrawFn, rows: int) -> prediction_pb2.PredictionColumn:
    """A column that may fit."""
    column = prediction_pb2.PredictionColumn(
        name=draw(NAMES),
        datatype=draw(st.sampled_from([""] * 8 + ["FP32", "INT64", "X" * 20])),
        row_shape=draw(
            st.sampled_from([[]] * 8 + [[1], [2], [2, 1], [0], [-1], [2**62, 2**62], [1] * 9])
        ),
    )
    kind = draw(st.sampled_from([*VALUES, "doubles", "integers", "none"]))
    if kind != "none":
        width = 2 if column.name == "x" else 1
        count = draw(st.sampled_from([rows * width] * 8 + [0, 1, 3]))
        made = draw(st.lists(VALUES[kind], min_size=count, max_size=count))
        getattr(column, kind).values.extend(made)
    return column


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A serialised request that may fit, or is damaged."""
    rows = draw(st.integers(1, 3))
    request = pb.PredictRequest(
        endpoint=draw(st.sampled_from(["model"] * 6 + ["plain"] * 4 + ["later", "none", ""])),
        columns=draw(st.lists(columns(rows), max_size=3)),
        client_request_id=draw(st.sampled_from(["", "mine", "ä" * 600])),
        model_version=draw(st.sampled_from([0] * 6 + [1, 9, -1])),
        sticky_key=draw(st.sampled_from(["", "k", "k" * 600])),
        outputs=draw(st.sampled_from([[]] * 6 + [["sum"], ["sum", "sum"], ["other"]])),
    )
    if draw(st.integers(0, 5)) == 0:
        name = draw(st.sampled_from(["a", "triton_x", "sequence_id", "b" * 200]))
        request.parameters[name].text_value = draw(st.text(max_size=3))
    data = request.SerializeToString()
    if draw(st.integers(0, 7)) == 0 and data:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + 1 :]
    return data


def read_back(record: inference_events_pb2.PayloadRecord) -> None:
    """The sink can make a row of the record."""
    sent = to_record(new_event(record, source="test", key=record.tessera_request_id))
    row_of(ConsumedRecord(sent.topic, 0, 0, 0, sent.key, sent.value, sent.headers))


@given(requests(), st.sampled_from([ALICE] * 12 + [BOB, "", "wrong"]))
@SETTINGS
def test_anything_is_answered_and_has_its_row(data: bytes, token: str) -> None:
    async def check() -> None:
        door = GatewayDoor()
        status = 0
        try:
            answer = await door.predict(data, token)
            assert all(len(one.name) for one in answer.columns)
            assert answer.row_count >= 1
        except Refused as error:
            assert error.code in CODES, error
            assert error.details
            status = error.code.value[0]
        assert len(door.records) <= 1
        for record in door.records:
            assert record.status_code == status
            read_back(record)
        assert door.infer.in_flight == 0

    asyncio.run(asyncio.wait_for(check(), 60))
