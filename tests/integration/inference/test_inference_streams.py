"""Streams of the real runtime through the gateway's own door, asked by unmodified tritonclients."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as blocking
from tritonclient.grpc import aio, service_pb2

from services.inference.adapters.triton.wire import TritonWire
from services.inference.adapters.wire.door import WireDoor
from services.inference.errors import ModelFailed, RuntimeUnavailable
from services.inference.gateway.descriptions import Descriptions
from services.inference.gateway.protocol import SERVICE_NAME, InferenceProtocol
from services.inference.ports import Runtime, RuntimeModels
from tessera_kit.config import RpcConfig
from tessera_kit.rpc.server import RawBinding
from tessera_kit.telemetry.metrics import Metrics
from tests.helpers import eventually, unique_name
from tests.integration.inference.streaming import config, count_to, endpoint, files
from tests.unit.inference.gateway import Gateway

pytestmark = pytest.mark.timeout(240)

HEADERS = {"authorization": "Bearer alice-token"}
LONG = 200_000


@dataclass
class Streams:
    """A gateway with a door before it and Triton behind it."""

    gateway: Gateway
    runtime: Runtime
    address: str
    model: str

    def responses_of(self, identifier: str) -> Any:
        """The record of a request, once there is one."""
        found = [one for one in self.gateway.records if one.client_request_id == identifier]
        return found[0] if found else None


@pytest.fixture(scope="module")
async def streams(models: RuntimeModels, runtime: Runtime) -> AsyncIterator[Streams]:
    name = unique_name("counter").replace("_", "-")
    await models.load(name, config(name), files())
    gateway = Gateway(endpoint(name), runtime=runtime)
    descriptions = Descriptions(gateway.routes, gateway.authority, "1")
    protocol = InferenceProtocol(descriptions, gateway.handler, gateway.streams)
    door = WireDoor(
        RpcConfig("127.0.0.1:0", drain_seconds=1),
        [RawBinding(protocol, SERVICE_NAME)],
        metrics=Metrics(),
    )
    await door.start()
    yield Streams(gateway, runtime, door.address, name)
    await door.stop()
    await models.unload(name)


def numbers(result: Any) -> list[int]:
    return [int(value) for value in result.as_numpy("y").ravel()]


async def _told(requests: Iterable[tuple[str, int]]) -> AsyncIterator[Any]:
    for identifier, number in requests:
        yield {"model_name": "counter", "inputs": count_to(number), "request_id": identifier}


def asked(client: Any, requests: Iterable[tuple[str, int]]) -> Any:
    return client.stream_infer(_told(requests), headers=HEADERS)


async def test_a_blocking_client_streams(streams: Streams) -> None:
    def ask() -> tuple[list[tuple[str, int]], list[Any], list[str]]:
        results: queue.Queue[Any] = queue.Queue()
        found: list[tuple[str, int]] = []
        errors: list[Any] = []
        finals: list[str] = []
        with blocking.InferenceServerClient(streams.address) as client:
            client.start_stream(lambda result, error: results.put((result, error)), headers=HEADERS)
            for index in range(3):
                client.async_stream_infer("counter", count_to(5), request_id=f"sync-{index}")
            client.async_stream_infer("counter", count_to(-1), request_id="sync-bad")
            client.async_stream_infer(
                "counter", count_to(2), request_id="sync-final", enable_empty_final_response=True
            )
            for _ in range(20):
                result, error = results.get(timeout=60)
                if error is not None:
                    errors.append(error)
                    continue
                response = result.get_response()
                if response.parameters["triton_final_response"].bool_param:
                    finals.append(response.id)
                    assert not response.outputs
                else:
                    found += [(response.id, one) for one in numbers(result)]
            client.stop_stream()
        return found, errors, finals

    found, (error,), finals = await asyncio.to_thread(ask)
    for index in range(3):
        assert [value for one, value in found if one == f"sync-{index}"] == list(range(5))
    assert error.message() == "the model failed: ValueError: no more"
    assert finals == ["sync-final"]
    record = streams.responses_of("sync-bad")
    assert (record.status_code, len(record.chunk_times_us)) == (13, 1)


async def test_requests_on_one_stream_are_a_record_each(streams: Streams) -> None:
    async with aio.InferenceServerClient(streams.address) as client:
        got: dict[str, list[int]] = {}
        requests = [(f"aio-{index}", index) for index in range(20)]
        async for result, error in asked(client, requests):
            assert error is None
            response = result.get_response()
            assert (response.model_name, response.model_version) == ("counter", "1")
            got.setdefault(response.id, []).extend(numbers(result))
    assert got == {f"aio-{index}": list(range(index)) for index in range(1, 20)}
    for index in range(20):
        record = streams.responses_of(f"aio-{index}")
        assert (record.status_code, record.requester) == (0, "alice")
        assert len(record.chunk_times_us) == index
        if index:
            whole = service_pb2.ModelInferResponse.FromString(record.response)
            assert list(whole.outputs[0].shape) == [index, 1]
            sent = np.frombuffer(whole.raw_output_contents[0], np.int32)
            assert sent.tolist() == list(range(index))


async def test_a_unary_caller_gets_them_as_one(streams: Streams) -> None:
    async with aio.InferenceServerClient(streams.address) as client:
        result = await client.infer("counter", count_to(4), headers=HEADERS)
        config = await client.get_model_config("counter", headers=HEADERS)
    assert numbers(result) == [0, 1, 2, 3]
    assert config.config.model_transaction_policy.decoupled


async def test_a_cancelled_stream_stops_the_model(streams: Streams) -> None:
    async with aio.InferenceServerClient(streams.address) as client:
        # Leaving the loop alone ends nothing: tritonclient's iterator is told.
        stream = client.stream_infer(_told([("left", LONG)]), headers=HEADERS)
        await anext(stream)
        stream.cancel()
        await eventually(lambda: streams.responses_of("left") is not None, timeout=60)
        record = streams.responses_of("left")
        assert record.status_code == 1
        assert 0 < len(record.chunk_times_us) < LONG
        # The one instance is free again long before it would have counted to the end.
        result = await client.infer("counter", count_to(2), headers=HEADERS, client_timeout=60)
    assert numbers(result) == [0, 1]
    assert streams.gateway.handler.in_flight == 0


async def test_a_deadline_stops_the_model(streams: Streams) -> None:
    async with aio.InferenceServerClient(streams.address) as client:
        told = _told([("late", LONG)])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in client.stream_infer(told, stream_timeout=1, headers=HEADERS):
                pass
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: streams.responses_of("late") is not None, timeout=60)
        assert streams.responses_of("late").status_code == 4
        await client.infer("counter", count_to(1), headers=HEADERS, client_timeout=60)


async def test_without_a_token_the_stream_ends(streams: Streams) -> None:
    async with aio.InferenceServerClient(streams.address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in client.stream_infer(_told([("nobody", 1)]), headers={}):
                pass
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert streams.responses_of("nobody").status_code == 16


@pytest.mark.parametrize(
    ("name", "number", "failure"),
    [("never-loaded", 1, RuntimeUnavailable), ("", -2, ModelFailed)],
)
async def test_what_the_runtime_says_is_told_by_its_kind(
    streams: Streams, name: str, number: int, failure: type[Exception]
) -> None:
    request: Any = service_pb2.ModelInferRequest(model_name=name or streams.model)
    x = request.inputs.add(name="x", datatype="INT32", shape=[1, 1])
    assert x is not None
    request.raw_input_contents.append(np.int32(number).tobytes())
    found = 0
    with pytest.raises(failure):
        async for _ in streams.runtime.stream(request.SerializeToString(), 60):
            found += 1
    assert found == max(0, -number)


async def test_a_runtime_that_is_not_there_is_unavailable() -> None:
    nowhere = TritonWire("127.0.0.1:9", max_message_bytes=1 << 20)
    with pytest.raises(RuntimeUnavailable):
        await anext(nowhere.stream(b"", 5))
    await nowhere.close()
