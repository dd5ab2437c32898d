"""A real Triton within the tests' process: what it answers, and what ends with it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2

from devstack import Stack
from services.inference.adapters.triton.dead import DeadModels
from services.inference.adapters.triton.models import TritonModels
from services.inference.adapters.triton.streams import TritonStreams
from services.inference.adapters.triton_inside.calls import TritonCalls
from services.inference.domain.datatypes import DATATYPES
from services.inference.errors import (
    InferenceTimeout,
    InvalidInference,
    ModelFailed,
    TooManyInferences,
)
from tessera_kit.errors import TesseraError
from tests.helpers import unique_name
from tests.integration.inference import streaming
from tests.integration.inference.echoing import config, echo, files, request, told
from tests.integration.inference.inside import Inside, inside

pytestmark = pytest.mark.timeout(240)

ECHO: Final = "echo"
TOGETHER: Final = "together"
"""The same, but requests that come together run together, and answers are kept."""
COUNTER: Final = "counter"
WANTS_FINAL: Final = "triton_enable_empty_final_response"
MOST: Final = 100_000
"""Bytes of a response."""
SECONDS: Final = 30.0
IN_FLIGHT: Final = 32
MIB: Final = 1 << 20
EDGES: Final[dict[str, list[Any]]] = {
    "BOOL": [True, False],
    **{
        name: [np.iinfo(one.numpy).min, 0, np.iinfo(one.numpy).max]
        for name, one in DATATYPES.items()
        if one.numpy.startswith(("int", "uint"))
    },
    **{name: [-1.5, 0.0, np.inf, np.nan] for name in ("FP16", "FP32", "FP64")},
    "BYTES": [b"", "grüß".encode(), b"\0\xff", b"x" * 1000],
}


@pytest.fixture(scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Inside]:
    async with inside(tmp_path_factory.mktemp("inside")) as here:
        cached: dict[str, Any] = {"response_cache": {"enable": True}}
        await asyncio.gather(
            here.models.load(ECHO, config(ECHO), files()),
            here.models.load(TOGETHER, config(TOGETHER, rows=64, **cached), files()),
            here.models.load(COUNTER, streaming.config(COUNTER), streaming.files()),
        )
        yield here


@pytest.fixture(scope="module", params=["compiled", "Python"])
async def calls(request: pytest.FixtureRequest, here: Inside) -> AsyncIterator[TritonCalls]:
    """Asks it in each of the ways that its answers may take."""
    async with here.asking(relay=request.param == "compiled", max_message_bytes=MOST) as calls:
        yield calls


def rows(datatype: str, values: list[Any]) -> Any:
    """Values as an array of two dimensions."""
    array = np.empty(len(values), DATATYPES[datatype].numpy)
    array[:] = values
    return array.reshape(-1, 1)


def small(model: str, number: int, **others: Any) -> bytes:
    """A request that is told from others by its number."""
    return request(model, {"INT32": rows("INT32", [number])}, outputs=("y_int32",), **others)


def number_of(reply: bytes) -> int:
    (found,) = echo(reply)["INT32"].ravel()
    return int(found)


async def answers(calls: TritonCalls) -> None:
    """See that the next request is answered."""
    assert number_of(await calls.infer(small(ECHO, 7), SECONDS)) == 7


def counting(number: int, **parameters: bool) -> bytes:
    """A request for so many responses."""
    message: Any = service_pb2.ModelInferRequest(model_name=COUNTER)
    message.inputs.add(name="x", datatype="INT32", shape=[1, 1])
    message.raw_input_contents.append(np.int32(number).tobytes())
    for name, value in parameters.items():
        message.parameters[name].bool_param = value
    return bytes(message.SerializeToString())


async def test_every_datatype_comes_back_equal(calls: TritonCalls) -> None:
    sent = {datatype: rows(datatype, values) for datatype, values in EDGES.items()}
    assert sent.keys() == DATATYPES.keys()
    reply = await calls.infer(request(ECHO, sent), SECONDS)
    back = echo(reply)
    assert back.keys() == sent.keys()
    for datatype, array in sent.items():
        np.testing.assert_array_equal(back[datatype], array, strict=True)
    response = service_pb2.ModelInferResponse.FromString(reply)
    assert (response.model_name, response.model_version) == (ECHO, "1")


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
@pytest.mark.parametrize("shape", [(0, 1), (1, 0), (3, 0)])
async def test_tensors_may_be_empty(
    calls: TritonCalls, datatype: str, shape: tuple[int, ...]
) -> None:
    empty = np.empty(shape, DATATYPES[datatype].numpy)
    back = echo(await calls.infer(request(ECHO, {datatype: empty}), SECONDS))
    assert back[datatype].shape == shape


async def test_a_megabyte_comes_back(here: Inside) -> None:
    generator = np.random.default_rng(11)
    texts = [generator.bytes(int(size)) for size in generator.integers(0, 20_000, 100)]
    sent = {"FP32": generator.normal(size=(4, 65_536)).astype(np.float32)}
    sent["BYTES"] = rows("BYTES", texts)
    back = echo(await here.calls.infer(request(ECHO, sent), SECONDS))
    for datatype, array in sent.items():
        np.testing.assert_array_equal(back[datatype], array, strict=True)


async def test_an_output_may_have_no_dimensions(calls: TritonCalls) -> None:
    reply = await calls.infer(request(ECHO, parameters={"scalar": 5}), SECONDS)
    assert echo(reply)["FP32"].shape == ()
    assert echo(reply)["FP32"] == 5


@pytest.mark.parametrize("model", [ECHO, TOGETHER])
async def test_answers_carry_the_requests_own_ids(calls: TritonCalls, model: str) -> None:
    ids = ["", "own", "ü", *(f"id-{number}" for number in range(200))]
    requests = [small(model, index, identifier=one) for index, one in enumerate(ids)]
    replies = await asyncio.gather(*(calls.infer(one, SECONDS) for one in requests))
    found = [service_pb2.ModelInferResponse.FromString(reply).id for reply in replies]
    assert found == ids
    assert [number_of(reply) for reply in replies] == list(range(len(ids)))


async def test_what_follows_request_and_response_is_added(calls: TritonCalls) -> None:
    name = service_pb2.ModelInferRequest(model_name=ECHO).SerializeToString()
    ending = service_pb2.ModelInferResponse(model_name="told").SerializeToString()
    reply = await calls.infer(small("another", 3), SECONDS, name, ending)
    assert service_pb2.ModelInferResponse.FromString(reply).model_name == "told"
    assert number_of(reply) == 3


async def test_parameters_reach_the_model(calls: TritonCalls) -> None:
    own: dict[str, Any] = {"text": "grüß", "large": (1 << 53) - 1, "true": True, "half": 0.5}
    own |= {"number": -5, "": ""}
    said = told(await calls.infer(request(ECHO, parameters=own, identifier="a"), SECONDS))
    assert said == {"parameters": own, "id": "a", "sequence": 0, "flags": 0, "timeout": 0}


@pytest.mark.parametrize(
    ("parameters", "sequence", "flags"),
    [
        ({"sequence_id": 7, "sequence_start": True}, 7, 1),
        ({"sequence_id": "seven", "sequence_end": True}, "seven", 2),
        ({"sequence_id": 7, "sequence_start": True, "sequence_end": True}, 7, 3),
        ({"sequence_id": 7, "sequence_start": False, "sequence_end": False}, 7, 0),
        # As Triton's own door reads it.
        ({"sequence_id": -1}, (1 << 64) - 1, 0),
    ],
)
async def test_sequences_reach_the_model(
    calls: TritonCalls, parameters: dict[str, Any], sequence: int | str, flags: int
) -> None:
    said = told(await calls.infer(request(ECHO, parameters=parameters), SECONDS))
    assert (said["sequence"], said["flags"], said["parameters"]) == (sequence, flags, {})


async def test_a_timeout_reaches_the_model(calls: TritonCalls) -> None:
    own = {"timeout": 10_000_000, "priority": 0}
    assert told(await calls.infer(request(ECHO, parameters=own), SECONDS))["timeout"] == 10_000_000


@pytest.mark.parametrize(
    "parameters",
    [
        {"sequence_id": 0.5},
        {"sequence_start": "yes"},
        {"sequence_end": 1},
        {"priority": "high"},
        {"timeout": True},
    ],
)
async def test_a_parameter_of_another_kind_is_refused_by_its_name(
    calls: TritonCalls, parameters: dict[str, Any]
) -> None:
    (name,) = parameters
    with pytest.raises(InvalidInference, match=rf"parameters\['{name}'\]"):
        await calls.infer(request(ECHO, parameters=parameters), SECONDS)
    message = service_pb2.ModelInferRequest(model_name=ECHO)
    message.parameters["wide"].uint64_param = 1
    with pytest.raises(InvalidInference, match=r"parameters\['wide'\]"):
        await calls.infer(message.SerializeToString(), SECONDS)
    await answers(calls)


@pytest.mark.parametrize("queued", [0, 3])
async def test_a_cancelled_request_leaves_nothing(calls: TritonCalls, queued: int) -> None:
    slow = request(ECHO, parameters={"sleep": 0.3})
    tasks = [asyncio.ensure_future(calls.infer(slow, SECONDS)) for _ in range(1 + queued)]
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in found)
    await asyncio.wait_for(calls.drain(), 5)
    await answers(calls)


async def test_a_late_request_leaves_nothing(calls: TritonCalls) -> None:
    slow = request(ECHO, parameters={"sleep": 0.3})
    found = await asyncio.gather(
        *(calls.infer(slow, timeout) for timeout in (0.1, 0.05, 0)), return_exceptions=True
    )
    assert all(isinstance(one, InferenceTimeout) for one in found)
    await asyncio.wait_for(calls.drain(), 5)
    await answers(calls)


async def test_a_stream_that_is_left_leaves_nothing(calls: TritonCalls) -> None:
    async with aclosing(calls.stream(counting(100_000), SECONDS)) as responses:
        await anext(responses)
    await asyncio.wait_for(calls.drain(), 5)
    with pytest.raises(InferenceTimeout):
        async for _ in calls.stream(counting(100_000), 0.2):
            pass
    await asyncio.wait_for(calls.drain(), 5)
    assert [one async for one in calls.stream(counting(2), SECONDS)]
    await answers(calls)


async def test_a_response_that_is_too_large_is_refused(calls: TritonCalls) -> None:
    for _ in range(3):
        with pytest.raises(TooManyInferences):
            await calls.infer(request(ECHO, parameters={"zeros": MOST // 4}), SECONDS)
    reply = await calls.infer(request(ECHO, parameters={"zeros": MOST // 4 - 200}), SECONDS)
    assert echo(reply)["FP32"].shape == (1, MOST // 4 - 200)
    await answers(calls)


async def test_a_stream_that_nobody_reads_is_ended(here: Inside) -> None:
    async with here.asking(max_message_bytes=2_000) as calls:
        responses = calls.stream(counting(1_000), SECONDS)
        await anext(responses)
        await asyncio.sleep(0.5)
        with pytest.raises(TooManyInferences):
            async for _ in responses:
                pass
        await asyncio.wait_for(calls.drain(), 5)
        await answers(calls)


@pytest.mark.parametrize(("number", "failure"), [(0, "0"), (3, "3"), (-1, "no more")])
async def test_one_answer_is_wanted_of_a_model_that_gives_others(
    calls: TritonCalls, number: int, failure: str
) -> None:
    assert await calls.infer(counting(1), SECONDS)
    with pytest.raises(ModelFailed, match=failure):
        await calls.infer(counting(number), SECONDS)


async def test_thousands_of_kept_answers_come_at_once(calls: TritonCalls) -> None:
    """They are told by the thread that asks, which is the one that hears them."""
    await calls.infer(small(TOGETHER, 1), SECONDS)
    found = await asyncio.gather(*(calls.infer(small(TOGETHER, 1), SECONDS) for _ in range(4_000)))
    assert {number_of(reply) for reply in found} == {1}


async def test_many_requests_leave_no_memory_behind(here: Inside) -> None:
    numbers = count()

    async def ask(until: int) -> None:
        while (number := next(numbers)) < until:
            assert number_of(await here.calls.infer(small(ECHO, number), SECONDS)) == number

    async def resident_after(until: int) -> int:
        await asyncio.gather(*(ask(until) for _ in range(IN_FLIGHT)))
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    before = await resident_after(2_000)
    assert await resident_after(20_000) - before < 20 * MIB


async def test_two_at_once_answer_their_own(here: Inside, tmp_path: Path) -> None:
    name = unique_name("second").replace("_", "-")
    async with inside(tmp_path, relay=False, caches=False) as second:
        await second.models.load(name, config(name), files())
        assert await second.models.loaded() == {name}
        assert name not in await here.models.loaded()
        for number in range(20):
            replies = await asyncio.gather(
                here.calls.infer(small(ECHO, number), SECONDS),
                second.calls.infer(small(name, 100 + number), SECONDS),
            )
            assert [number_of(reply) for reply in replies] == [number, 100 + number]
    await answers(here.calls)


@pytest.fixture(scope="module")
async def process(stack: Stack) -> AsyncIterator[TritonStreams]:
    """Triton as a process, asked at its own door, with the same models."""
    models = TritonModels(stack.urls["triton_grpc"])
    streams = TritonStreams(stack.urls["triton_grpc"], max_message_bytes=MIB, dead=DeadModels())
    await models.load(ECHO, config(ECHO), files())
    await models.load(COUNTER, streaming.config(COUNTER), streaming.files())
    yield streams
    for name in (ECHO, COUNTER):
        await models.unload(name)
    await streams.close()
    await models.close()


@pytest.mark.parametrize("wanted", [None, False, True])
@pytest.mark.parametrize("number", [0, 1, 3, -2])
async def test_a_stream_says_of_each_answer_what_tritons_door_says(
    calls: TritonCalls, process: TritonStreams, number: int, wanted: bool | None
) -> None:
    parameters = {} if wanted is None else {WANTS_FINAL: wanted}
    asked = counting(number, **parameters)
    found = await streamed(calls, asked)
    assert found == await streamed(process, asked)
    # A failure comes in place of the last one.
    assert len(found) == (number + bool(wanted) if number >= 0 else -number + 1)


@pytest.mark.parametrize("wanted", [None, False, True])
async def test_a_stream_of_one_answer_says_what_tritons_door_says(
    calls: TritonCalls, process: TritonStreams, wanted: bool | None
) -> None:
    parameters = {} if wanted is None else {WANTS_FINAL: wanted}
    asked = small(ECHO, 5, parameters=parameters, identifier="own")
    found = await streamed(calls, asked)
    assert found == await streamed(process, asked)
    (only,) = found
    assert only.parameters["triton_final_response"].bool_param


async def streamed(asked: TritonCalls | TritonStreams, body: bytes) -> list[Any]:
    """The responses of a stream, and last what it failed of if it did."""
    found: list[Any] = []
    try:
        async for reply in asked.stream(body, SECONDS):
            found.append(service_pb2.ModelInferResponse.FromString(reply))
    except TesseraError as error:
        found.append((type(error), str(error)))
    return found
