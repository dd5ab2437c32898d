"""Whatever is sent to the gateway's doors: an answer of the protocol, one record, nothing held.

`TESSERA_FUZZ_CASES=10000` sends as many to each; the suite sends a few.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import zlib
from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from services.inference.rest.bodies import Bodies
from services.inference.sink.tensors import decode_request, decode_response
from tests.gateway_door import ALICE, BOB, MOST_BODY, GatewayDoor
from tests.mlflow_door import Answer

CASES = int(os.environ.get("TESSERA_FUZZ_CASES", "150"))
SETTINGS = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
CODES = {200: {0}, 400: {3, 9}, 401: {16}, 403: {7}, 404: {5}, 413: {3}, 415: {3}}
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["x", "n", "note", "FP32", "INT64", "BYTES", "BOOL", "FP16", "\x00", "ä" * 600]
    ),
)
NUMBERS = st.one_of(
    st.integers(-3, 9),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([2**31, 2**63 - 1, -(2**63), 2**64, 1e39]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=10,
)
TOKENS = st.sampled_from([ALICE] * 12 + [BOB, "", "wrong", "x" * 9000])
ENDPOINTS = st.sampled_from(["model"] * 6 + ["plain"] * 3 + ["later", "none", "%00", "%ff"])


def mostly(fitting: Any, other: Any = VALUES) -> Any:
    """The fitting one nine times out of ten."""
    return st.integers(0, 9).flatmap(lambda number: other if number == 0 else fitting)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    """An input that may fit."""
    name, datatype, width = draw(
        st.sampled_from([("x", "FP32", 2), ("n", "INT64", 1), ("note", "BYTES", 1)])
    )
    rows = draw(st.integers(0, 3))
    cell = {"FP32": st.floats(-9, 9), "INT64": st.integers(-9, 9), "BYTES": TEXTS}[datatype]
    one = {
        "name": draw(mostly(st.just(name))),
        "datatype": draw(mostly(st.just(datatype))),
        "shape": draw(mostly(st.just([rows, width]))),
        "data": draw(mostly(st.lists(cell, min_size=rows * width, max_size=rows * width))),
    }
    if draw(st.integers(0, 5)) == 0:
        one["parameters"] = draw(
            mostly(st.fixed_dictionaries({"binary_data_size": mostly(st.integers(-1, 40))}))
        )
        if draw(st.booleans()):
            del one["data"]
    return one


INFERS = st.fixed_dictionaries(
    {"inputs": mostly(st.lists(tensors(), max_size=3, unique_by=lambda one: str(one["name"])))},
    optional={
        "id": mostly(TEXTS),
        "parameters": mostly(st.dictionaries(TEXTS, SCALARS, max_size=2)),
        "outputs": mostly(
            st.lists(
                st.fixed_dictionaries(
                    {"name": mostly(st.sampled_from(["sum", "next"]))},
                    optional={
                        "parameters": mostly(
                            st.fixed_dictionaries({"binary_data": mostly(st.booleans())})
                        )
                    },
                ),
                max_size=2,
            )
        ),
    },
)
CELLS = st.fixed_dictionaries(
    {"n": mostly(st.integers(-9, 9), SCALARS), "x": mostly(st.lists(st.floats(-9, 9), max_size=3))},
    optional={"note": SCALARS, "more": VALUES},
)
SCORINGS = st.one_of(
    st.fixed_dictionaries({"dataframe_records": mostly(st.lists(CELLS, max_size=3))}),
    st.fixed_dictionaries({"instances": mostly(st.lists(st.one_of(CELLS, VALUES), max_size=3))}),
    st.fixed_dictionaries(
        {
            "inputs": mostly(
                st.fixed_dictionaries(
                    {"x": mostly(st.lists(VALUES, max_size=3))},
                    optional={"n": mostly(st.lists(SCALARS, max_size=3))},
                )
            )
        },
        optional={"params": VALUES, "client_request_id": SCALARS},
    ),
    st.fixed_dictionaries(
        {
            "dataframe_split": mostly(
                st.fixed_dictionaries(
                    {"data": mostly(st.lists(st.lists(SCALARS, max_size=3), max_size=3))},
                    optional={"columns": mostly(st.lists(TEXTS, max_size=3))},
                )
            )
        }
    ),
    st.dictionaries(st.sampled_from(["inputs", "instances", "params"]), VALUES, max_size=2),
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, str, bytes, dict[str, str]]:
    """A path, a token, a body and headers of an inference request."""
    endpoint, scoring = draw(ENDPOINTS), draw(st.booleans())
    value = draw(mostly(SCORINGS if scoring else INFERS))
    body = json.dumps(value).encode("utf-8", "surrogatepass")
    headers = {}
    if scoring and draw(st.integers(0, 4)) == 0:
        headers["content-type"] = draw(st.sampled_from(["text/csv", "text/plain", ""]))
        lines = draw(st.lists(st.lists(st.text(max_size=5), min_size=1, max_size=3), max_size=4))
        body = "\n".join(",".join(line) for line in lines).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        body = draw(st.one_of(st.binary(max_size=60), st.just(body[: len(body) // 2])))
    if not scoring and draw(st.integers(0, 3)) == 0:
        headers["inference-header-content-length"] = draw(
            st.one_of(st.just(str(len(body))), st.integers(-1, 99).map(str), st.just("1e3"))
        )
        body += draw(st.binary(max_size=40))
    kind = draw(st.integers(0, 19))
    if kind < 4:
        headers["content-encoding"] = draw(st.sampled_from(["gzip", "deflate", "br"]))
        body = [gzip.compress, zlib.compress, bytes, lambda one: gzip.compress(one)[:-3]][kind](
            body
        )
    if kind == 19:
        headers["x-body"] = "too large"
    version = draw(st.sampled_from(["", "", "", "/versions/1", "/versions/9"]))
    path = (
        f"/serving-endpoints/{endpoint}/invocations"
        if scoring
        else f"/v2/models/{endpoint}{version}/infer"
    )
    return path, draw(TOKENS), body, headers


def checked(door: GatewayDoor, answer: Answer, path: str) -> None:
    """The answer is one of the protocol, and so is its record."""
    assert answer.status in CODES, answer
    if answer.status != 200:
        told = answer.json()
        assert told["message" if path.startswith("/serving") else "error"], told
    known = [f"/{name}/" in path for name in ("model", "plain", "later")]
    assert len(door.records) == any(known)
    for record in door.records:
        assert record.status_code in CODES[answer.status], (record, answer)
        assert answer.headers["tessera-request-id"] == record.tessera_request_id
        if answer.status == 200:
            decode_request(record.request)
            decode_response(record.response)
    assert door.infer.in_flight == 0


@given(calls())
@SETTINGS
def test_anything_is_answered_by_http(call: tuple[str, str, bytes, dict[str, str]]) -> None:
    async def check() -> None:
        door, tasks = GatewayDoor(), asyncio.all_tasks()
        path, token, body, headers = call
        if "x-body" in headers:
            body = bytes(MOST_BODY + 1)
        answer = await door.send("POST", path, body, token=token, headers=headers)
        checked(door, answer, path)
        # Unharmed: the next one is answered.
        assert (await door.send("POST", "/v2/models/plain/infer", GOOD)).status == 200
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == tasks

    asyncio.run(asyncio.wait_for(check(), 60))


GOOD = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


class Context:
    """The part of a gRPC call's context that the handler uses."""

    def __init__(self, token: str) -> None:
        self._token = token
        self.code = grpc.StatusCode.OK

    def invocation_metadata(self) -> Any:
        return (("authorization", f"Bearer {self._token}"),) if self._token else ()

    def time_remaining(self) -> None:
        return None

    def set_trailing_metadata(self, metadata: Any) -> None:
        pass

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        raise ConnectionAbortedError(details)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A serialised request that may fit, or is damaged."""
    request = service_pb2.ModelInferRequest(
        model_name=draw(st.sampled_from(["model", "plain", "plain", "later", "none", ""])),
        model_version=draw(st.sampled_from(["", "", "1", "9", "x"])),
        id=draw(st.sampled_from(["", "mine", "ä" * 600])),
    )
    for name, datatype, width, size in (("x", "FP32", 2, 4), ("n", "INT64", 1, 8)):
        rows = draw(st.sampled_from([1, 1, 1, 2, 0, -1, 2**62]))
        tensor = request.inputs.add(
            name=draw(mostly(st.just(name), st.sampled_from(["", "note", "other"]))),
            datatype=draw(mostly(st.just(datatype), st.sampled_from(["", "FP64", "BYTES"]))),
            shape=draw(mostly(st.just([rows, width]), st.lists(st.integers(-1, 3), max_size=4))),
        )
        assert tensor is not None
        if draw(st.integers(0, 9)) == 0:
            tensor.contents.fp32_contents.extend([1.0, 2.0])
        if draw(st.integers(0, 9)) == 0:
            tensor.parameters["shared_memory_region"].string_param = "a"
        if draw(st.integers(0, 9)):
            fitting = st.just(bytes(max(rows, 0) % 9 * width * size))
            request.raw_input_contents.append(draw(mostly(fitting, st.binary(max_size=30))))
    data = request.SerializeToString()
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + 1 :]
    return data


@given(messages(), TOKENS)
@SETTINGS
def test_anything_is_answered_by_grpc(data: bytes, token: str) -> None:
    async def check() -> None:
        door, context = GatewayDoor(), Context(token)
        call: Any = context
        try:
            service_pb2.ModelInferResponse.FromString(await door.infer.infer(data, call))
        except ConnectionAbortedError as error:
            assert str(error)
        assert context.code.value[0] in {0, 3, 5, 7, 9, 16}
        assert len(door.records) <= 1
        for record in door.records:
            assert record.status_code == context.code.value[0]
        assert door.infer.in_flight == 0

    asyncio.run(asyncio.wait_for(check(), 60))


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]), st.integers(0, 40))
@SETTINGS
def test_no_bytes_stay_held(content: bytes, encoding: str, cut: int) -> None:
    """Whatever becomes of a body, what it was held with is let go."""
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    packed = pack(content * 50)
    packed = packed[: len(packed) - cut] if cut < 20 else packed

    async def check() -> None:
        from starlette.requests import Request

        from tessera_kit.errors import TesseraError

        bodies, sent = Bodies(5000, 8000), [packed[:50], packed[50:]]

        async def receive() -> Any:
            body = sent.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(sent)}

        headers = [(b"content-encoding", encoding.encode())]
        request = Request({"type": "http", "headers": headers}, receive)
        try:
            async with bodies.read(request) as body:
                assert body == content * 50
                assert bodies.held > 0
        except TesseraError:
            assert cut < 20 or len(content) > 60
        assert bodies.held == 0

    asyncio.run(check())
