"""Clients as they are, on the gateway's HTTP door at a port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.gateway_door import ALICE, BOB, GatewayDoor

X = np.array([[1, 2], [3, 4.5]], np.float32)
N = np.array([[1], [2]], np.int64)


def token(who: str = ALICE) -> dict[str, str]:
    """New headers each time, as the client adds its own to those that it is given."""
    return {"authorization": f"Bearer {who}"}


def inputs(module: Any, *, binary: bool) -> list[Any]:
    made = []
    for name, datatype, values in (("x", "FP32", X), ("n", "INT64", N)):
        one = module.InferInput(name, values.shape, datatype)
        one.set_data_from_numpy(values, binary_data=binary)
        made.append(one)
    note = module.InferInput("note", [2, 1], "BYTES")
    note.set_data_from_numpy(np.array([["ä"], ["b"]], np.object_), binary_data=binary)
    return [*made, note]


def checked(result: Any) -> None:
    np.testing.assert_array_equal(result.as_numpy("sum"), [[3], [7.5]])
    np.testing.assert_array_equal(result.as_numpy("next"), [[2], [3]])


@asynccontextmanager
async def aio_client(door: GatewayDoor) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with door.bound() as address, triton_aio.InferenceServerClient(address) as client:
        yield client


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
async def test_tritonclient_asks_by_http(binary: bool, packed: str | None) -> None:
    door = GatewayDoor()

    def ask(address: str) -> None:
        with triton.InferenceServerClient(address) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("model", headers=token())
            outputs = [
                triton.InferRequestedOutput(name, binary_data=binary) for name in ("sum", "next")
            ]
            for wanted in (None, outputs):
                result = client.infer(
                    "model",
                    inputs(triton, binary=binary),
                    outputs=wanted,
                    request_id="mine",
                    headers=token(),
                    request_compression_algorithm=packed,
                    response_compression_algorithm=packed,
                )
                checked(result)
                assert result.get_response()["id"] == "mine"

    async with door.bound() as address:
        await asyncio.to_thread(ask, address)
    assert [record.status_code for record in door.records] == [0, 0]


async def test_tritonclient_reads_about_endpoints() -> None:
    def ask(address: str) -> None:
        with triton.InferenceServerClient(address) as client:
            assert client.get_server_metadata()["version"] == "1.2.3"
            assert client.get_model_metadata("model", headers=token())["versions"] == ["1", "2"]
            config = client.get_model_config("model", "1", headers=token())
            assert [one["name"] for one in config["output"]] == ["sum", "next"]
            assert client.get_inference_statistics("model", headers=token())["model_stats"]
            names = {one["name"] for one in client.get_model_repository_index(headers=token())}
            assert names == {"model", "plain", "later"}
            with pytest.raises(InferenceServerException, match="nothing at"):
                client.load_model("model", headers=token())
            with pytest.raises(InferenceServerException, match="nothing at"):
                client.get_system_shared_memory_status(headers=token())

    async with GatewayDoor().bound() as address:
        await asyncio.to_thread(ask, address)


async def test_tritonclient_asks_by_asyncio_and_is_told_what_is_wrong() -> None:
    door = GatewayDoor()
    async with aio_client(door) as client:
        given = inputs(triton_aio, binary=True)
        found = await asyncio.gather(
            *(client.infer("model", given, model_version="2", headers=token()) for _ in range(20))
        )
        for result in found:
            checked(result)
        with pytest.raises(InferenceServerException, match="bob") as caught:
            await client.infer("model", given, headers=token(BOB))
        assert caught.value.status() == "403"
        with pytest.raises(InferenceServerException, match="'n'") as caught:
            await client.infer("model", given[:1], headers=token())
        assert caught.value.status() == "400"
    assert sorted(record.status_code for record in door.records) == [*[0] * 20, 3, 7]
