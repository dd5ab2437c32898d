"""What is wrong is refused: with the right status, a text that says what, and nothing changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as oip
from tritonclient.utils import InferenceServerException

from devstack import Stack
from tessera import AsyncClient
from tessera.catalog.v1 import securable_pb2
from tests.e2e import models
from tests.e2e.world import Served, User, new_user
from tests.helpers import eventually

pytestmark = pytest.mark.timeout(420)

X = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
METHOD = "/inference.GRPCInferenceService/ModelInfer"
REVOKED_WITHIN_SECONDS = 10.0


@pytest.fixture(scope="module")
async def user(client: AsyncClient, served: Served) -> User:
    """May query the endpoint, and nothing else."""
    return await allowed_user(client, served)


async def allowed_user(client: AsyncClient, served: Served) -> User:
    user = await new_user(client)
    await client.access.grant(
        user.name,
        [securable_pb2.PRIVILEGE_EXECUTE],
        securable_pb2.SECURABLE_TYPE_ENDPOINT,
        served.endpoint,
    )
    return user


@pytest.fixture
async def door(platform: Stack) -> AsyncIterator[triton_aio.InferenceServerClient]:
    """An unmodified Triton client on the gateway."""
    async with triton_aio.InferenceServerClient(platform.urls["gateway"]) as door:
        yield door


def bearer(user: User) -> dict[str, str]:
    return {"authorization": f"Bearer {user.token}"}


def tensor(name: str, values: npt.NDArray[Any], datatype: str) -> triton.InferInput:
    """An input as Triton's own client makes it."""
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def x_input(values: npt.NDArray[np.float32] = X) -> triton.InferInput:
    return tensor("x", values, "FP32")


def carrier_input(*names: str) -> triton.InferInput:
    return tensor("carrier", np.array(names or ("UA",), np.object_).reshape(-1, 1), "BYTES")


async def test_tritons_own_clients_work(
    platform: Stack, door: triton_aio.InferenceServerClient, served: Served, user: User
) -> None:
    wanted = models.expected(X, ["UA"])
    assert await door.is_server_ready()
    assert await door.is_model_ready(served.endpoint, headers=bearer(user))
    metadata = await door.get_model_metadata(served.endpoint, headers=bearer(user))
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("x", "FP32", [-1, 4]),
        ("carrier", "BYTES", [-1, 1]),
        ("flown_at", "INT64", [-1, 1]),
    ]
    inputs = [x_input(), carrier_input()]
    answer = await door.infer(served.endpoint, inputs, headers=bearer(user), request_id="own-1")
    np.testing.assert_allclose(answer.as_numpy("score"), wanted)
    assert answer.get_response().id == "own-1"

    def synchronous() -> npt.NDArray[np.float32]:
        with triton.InferenceServerClient(platform.urls["gateway"]) as plain:
            found = plain.infer(served.endpoint, inputs, headers=bearer(user))
            score: npt.NDArray[np.float32] = found.as_numpy("score")
            return score

    np.testing.assert_allclose(await asyncio.to_thread(synchronous), wanted)


def wrong_requests() -> Iterator[Any]:
    """Inputs that do not fit, with what the answer says of them."""
    two = np.repeat(X, 2, axis=0)
    yield pytest.param([x_input(X[:, :3]), carrier_input()], "'x'.*[any, 4].*[1, 3]", id="shape")
    yield pytest.param(
        [tensor("x", X.astype(np.float64), "FP64"), carrier_input()],
        "'x'.*must be FP32, not 'FP64'",
        id="dtype",
    )
    yield pytest.param([x_input()], "'carrier': is missing", id="missing")
    yield pytest.param(
        [x_input(), carrier_input(), tensor("y", X, "FP32")],
        "'y'.*no such input.*'carrier', 'flown_at', 'x'",
        id="unknown",
    )
    yield pytest.param([x_input(), carrier_input(), x_input()], "'x'.*is given twice", id="twice")
    yield pytest.param(
        [x_input(two), carrier_input()], "'carrier'.*1 rows while the first input has 2", id="rows"
    )
    many = np.zeros((9000, 4), np.float32)
    yield pytest.param(
        [x_input(many), carrier_input(*["UA"] * 9000)], "9000 rows.*at most", id="too many rows"
    )


@pytest.mark.parametrize(("inputs", "text"), list(wrong_requests()))
async def test_inputs_that_do_not_fit(
    client: AsyncClient,
    door: triton_aio.InferenceServerClient,
    served: Served,
    user: User,
    inputs: list[triton.InferInput],
    text: str,
) -> None:
    before = await client.inference.get_endpoint(served.endpoint)
    text = text.replace("[", r"\[").replace("]", r"\]")
    with refused("INVALID_ARGUMENT", text):
        await door.infer(served.endpoint, inputs, headers=bearer(user))
    assert await client.inference.get_endpoint(served.endpoint) == before
    await works(door, served, user)


async def test_unknown_outputs_names_and_endpoints(
    door: triton_aio.InferenceServerClient, served: Served, user: User
) -> None:
    inputs = [x_input(), carrier_input()]
    with refused("INVALID_ARGUMENT", "'scores'.*no such output.*'score'"):
        await door.infer(
            served.endpoint,
            inputs,
            outputs=[triton.InferRequestedOutput("scores")],
            headers=bearer(user),
        )
    for name in ("no-such-endpoint", "../etc/passwd", ""):
        with refused("NOT_FOUND", "no endpoint"):
            await door.infer(name, inputs, headers=bearer(user))
    with refused("(NOT_FOUND|INVALID_ARGUMENT)", "version.*7|7.*version"):
        await door.infer(served.endpoint, inputs, model_version="7", headers=bearer(user))
    await works(door, served, user)


async def test_bytes_that_are_no_request(
    platform: Stack, door: triton_aio.InferenceServerClient, served: Served, user: User
) -> None:
    valid = oip.ModelInferRequest(model_name=served.endpoint)
    torn = valid.SerializeToString()[:-3]
    too_large = oip.ModelInferRequest(model_name=served.endpoint)
    too_large.raw_input_contents.append(bytes(80 << 20))
    cases = (
        (b"\x0a\x02\xff\xfe", "INVALID_ARGUMENT", "not an inference.ModelInferRequest"),
        (torn, "INVALID_ARGUMENT", "not an inference.ModelInferRequest"),
        (too_large.SerializeToString(), "RESOURCE_EXHAUSTED", "at most .* are taken"),
    )
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(platform.urls["gateway"], options=options) as channel:
        call: Any = channel.unary_unary(METHOD)
        for body, status, text in cases:
            with pytest.raises(grpc.aio.AioRpcError, match=text) as caught:
                await call(body, metadata=tuple(bearer(user).items()), timeout=30)
            assert caught.value.code().name == status
    await works(door, served, user)


async def test_tokens(
    client: AsyncClient, door: triton_aio.InferenceServerClient, served: Served
) -> None:
    inputs = [x_input(), carrier_input()]
    with refused("UNAUTHENTICATED", "token"):
        await door.infer(served.endpoint, inputs)
    for wrong in ("Bearer tsr_0_nothing", "Basic dXNlcjpwdw==", "Bearer ", "tsr_0_nothing"):
        with refused("UNAUTHENTICATED", "token|bearer"):
            await door.infer(served.endpoint, inputs, headers={"authorization": wrong})

    stranger = await new_user(client)
    for name in (served.endpoint, "nowhere"):
        with refused("NOT_FOUND", f"no endpoint '{name}' that .* EXECUTE on endpoint {name}"):
            await door.infer(name, inputs, headers=bearer(stranger))

    leaving = await allowed_user(client, served)
    await works(door, served, leaving)
    await client.access.revoke_token(leaving.token_id)
    await until_refused(door, served, leaving)

    passing = await allowed_user(client, served)
    made = await client.access.create_token(passing.name, lifetime=timedelta(seconds=1))
    await until_refused(door, served, User(passing.name, made.token.token_id, made.secret))


async def test_refused_requests_of_an_endpoint_have_their_row(
    client: AsyncClient, door: triton_aio.InferenceServerClient, served: Served, user: User
) -> None:
    with refused("INVALID_ARGUMENT", "is missing"):
        await door.infer(served.endpoint, [x_input()], headers=bearer(user), request_id="refused-1")

    async def row() -> dict[str, Any]:
        rows = await client.tables.read(
            served.table, where=[("client_request_id", "=", "refused-1")]
        )
        assert rows.num_rows == 1
        found: dict[str, Any] = rows.to_pylist()[0]
        return found

    found = await eventually(row, timeout=60)
    assert found["status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "'carrier': is missing" in found["status_message"]
    assert found["requester"] == user.name
    assert found["outputs"] == "{}"


async def works(door: triton_aio.InferenceServerClient, served: Served, user: User) -> None:
    """A right request is answered rightly: what was refused before it broke nothing."""
    answer = await door.infer(
        served.endpoint, [x_input(), carrier_input("DL")], headers=bearer(user)
    )
    np.testing.assert_allclose(answer.as_numpy("score"), models.expected(X, ["DL"]))


async def until_refused(door: triton_aio.InferenceServerClient, served: Served, user: User) -> None:
    """Waits until a token that ends is not taken any more."""

    async def gone() -> None:
        with refused("UNAUTHENTICATED", "token is not valid"):
            await works(door, served, user)

    async def attempt() -> bool:
        try:
            await gone()
        except pytest.fail.Exception as error:
            raise AssertionError(str(error)) from None
        return True

    await eventually(attempt, timeout=REVOKED_WITHIN_SECONDS, interval=0.1)


@contextmanager
def refused(status: str, text: str) -> Iterator[None]:
    """The body is refused with a status and a text, as Triton's client tells it."""
    with pytest.raises(InferenceServerException, match=rf"(?s)\[StatusCode\.{status}\].*({text})"):
        yield
