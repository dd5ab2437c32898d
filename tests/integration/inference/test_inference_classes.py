"""Python classes of users, registered by the client and asked by unmodified tritonclients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from devstack import Stack
from tessera import AsyncClient, PipelineStep, TensorSpec
from tessera.catalog.v1 import securable_pb2
from tessera.inference.v1 import endpoint_pb2
from tessera_kit.errors import InvalidArgument
from tests.e2e.world import settings_of
from tests.helpers import eventually, unique_name
from tests.integration.inference.models import CARRIERS, MANIFEST, module
from tests.integration.inference.serving import Serving

pytestmark = pytest.mark.timeout(300)

CODE = Path(__file__).with_name("user_classes.py")
X = TensorSpec("x", "FP32", [-1, 2])
NAME = TensorSpec("name", "BYTES", [-1, 1])
SCALE = {
    "inputs": [X, NAME],
    "outputs": [TensorSpec("scaled", "FP32", [-1, 2]), TensorSpec("told", "BYTES", [-1, 1])],
    "files": {"greeting.txt": b"hi "},
    "timeout_seconds": 2,
}
TOKEN = "token-that-nobody-may-see"


@dataclass
class Classes:
    """A platform with an endpoint per class."""

    serving: Serving
    client: AsyncClient
    folder: Path

    async def register(self, entry: str, **spec: Any) -> int:
        """Register a class as the next version of its model; returns the version's number."""
        model = self.model(entry)
        await self.client.models.create(model, exist_ok=True)
        made = await self.client.models.register_class(model, f"user_classes:{entry}", CODE, **spec)
        return int(made.version)

    async def serve(self, entry: str, version: int, **environment: str) -> str:
        """Serve a version; returns the endpoint's name."""
        name = unique_name("class").replace("_", "-")
        await self.client.inference.create_endpoint(
            name, [self.entity(entry, version, environment)], table_schema=self.serving.schema
        )
        endpoint = await self.serving.settled(name)
        assert endpoint.state == endpoint_pb2.ENDPOINT_STATE_READY, endpoint.update_message
        return name

    def model(self, entry: str) -> str:
        """The full name of a class's model."""
        return f"{self.serving.schema}.{entry.lower()}"

    def entity(self, entry: str, version: int, environment: Mapping[str, str] = {}) -> Any:
        """A version as the one that is served."""
        return endpoint_pb2.ServedEntity(
            model_name=self.model(entry),
            model_version=version,
            traffic_percent=100,
            allow_code=True,
            environment=environment,
        )

    async def row(self, name: str, request_id: str) -> dict[str, Any]:
        """The row of a request in its endpoint's table, once it is there."""
        return (await self.rows(name, [request_id]))[request_id]

    async def rows(self, name: str, request_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The one row of each request by its caller's id, once they are there."""

        async def are_there() -> list[dict[str, Any]] | None:
            table = await self.client.tables.read(
                f"{self.serving.schema}.{name}_payload",
                where=[("client_request_id", "in", list(request_ids))],
            )
            found = table.to_pylist()
            return found if len(found) >= len(request_ids) else None

        found = await eventually(are_there, timeout=60)
        rows = {row["client_request_id"]: dict(row) for row in found}
        assert len(rows) == len(found) == len(request_ids)
        return rows

    async def ask(self, name: str, inputs: Sequence[Any], **more: Any) -> Any:
        """A unary request's result."""
        return await self.serving.gateway.infer(
            name, inputs, headers=self.serving.headers, client_timeout=60, **more
        )

    async def stream(self, name: str, requests: Sequence[dict[str, Any]]) -> list[Any]:
        """What comes on one stream of requests: results, and the texts of failures."""

        async def told() -> AsyncIterator[dict[str, Any]]:
            for request in requests:
                yield {"model_name": name, **request}

        gateway = self.serving.gateway
        stream = gateway.stream_infer(told(), headers=self.serving.headers)
        return [result if error is None else error.message() async for result, error in stream]


@pytest.fixture(scope="module")
async def classes(
    stack: Stack, serving: Serving, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Classes]:
    async with AsyncClient(settings_of(stack)) as client:
        yield Classes(serving, client, tmp_path_factory.mktemp("classes"))


@pytest.fixture(scope="module")
async def scale(classes: Classes) -> str:
    arguments = {"factor": 3.0, "folder": str(classes.folder)}
    version = await classes.register("Scale", arguments=arguments, **SCALE)
    return await classes.serve("Scale", version, API_TOKEN=TOKEN)


def texts(name: str, *values: str) -> Any:
    tensor = triton.InferInput(name, [len(values), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(values, object).reshape(-1, 1))
    return tensor


def scaled(*names: str, x: float = 1.0) -> list[Any]:
    tensor = triton.InferInput("x", [len(names), 2], "FP32")
    tensor.set_data_from_numpy(np.full((len(names), 2), x, np.float32))
    return [tensor, texts("name", *names)]


async def test_a_class_answers_rows_of_several_callers(classes: Classes, scale: str) -> None:
    asked = [classes.ask(scale, scaled("ü", str(x), x=x)) for x in range(16)]
    for x, result in enumerate(await asyncio.gather(*asked)):
        assert result.as_numpy("scaled").tolist() == [[3.0 * x] * 2] * 2
        assert [one.decode() for one in result.as_numpy("told").ravel()] == ["hi ü", f"hi {x}"]


async def test_a_class_that_fails_tells_why_and_no_secret(classes: Classes, scale: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await classes.ask(scale, scaled("raise"), request_id="raised")
    assert caught.value.status() == "StatusCode.INTERNAL"
    assert caught.value.message() == "the model failed: ValueError: the token is ***"
    row = await classes.row(scale, "raised")
    assert (row["status_code"], TOKEN in str(row)) == (13, False)


async def test_a_class_refuses_what_it_cannot_take(classes: Classes, scale: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await classes.ask(scale, scaled("refuse"))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert caught.value.message() == "the model refused the request: such a name has nobody"
    (failure,) = await classes.stream(scale, [{"inputs": scaled("refuse")}])
    assert failure == "the model refused the request: such a name has nobody"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("die", "the model's process ended with status 7"),
        ("hang", "it gave no answer in 2 s, so its process was ended"),
        ("wrong", r"output 'scaled' has shape \[1, 3\]; the signature says \[-1, 2\]"),
    ],
)
async def test_after_a_class_broke_it_answers_again(
    classes: Classes, scale: str, name: str, reason: str
) -> None:
    with pytest.raises(InferenceServerException, match=reason):
        await classes.ask(scale, scaled(name))
    assert (await classes.ask(scale, scaled("a"))).as_numpy("told")[0, 0] == b"hi a"


async def test_every_way_a_request_can_fail_is_a_row(classes: Classes, scale: str) -> None:
    async def user(privilege: securable_pb2.Privilege.ValueType) -> tuple[str, str]:
        name = unique_name("user")
        token = await classes.serving.add_user(name)
        kind = securable_pb2.SECURABLE_TYPE_ENDPOINT
        await classes.client.access.grant(name, [privilege], kind, scale)
        return name, token

    async def fails(identifier: str, token: str, names: Sequence[str], **more: Any) -> str:
        headers = {"authorization": f"Bearer {token}"}
        inputs = more.pop("inputs", scaled(*names))
        with pytest.raises(InferenceServerException) as caught:
            await classes.serving.gateway.infer(
                scale, inputs, headers=headers, request_id=identifier, **more
            )
        return str(caught.value.status()).removeprefix("StatusCode.")

    viewer, may_see = await user(securable_pb2.PRIVILEGE_BROWSE)
    caller, may_ask = await user(securable_pb2.PRIVILEGE_EXECUTE)
    told = {
        "401": await fails("401", "wrong", ["a"]),
        "403": await fails("403", may_see, ["a"]),
        "404": await fails("404", may_ask, ["a"], model_version="9"),
        "400": await fails("400", may_ask, ["a"], inputs=scaled("a")[:1]),
        "late": await fails("late", may_ask, ["slow"], client_timeout=0.3),
    }
    begun = classes.folder / "begun"
    begun.unlink(missing_ok=True)
    cancelled = asyncio.create_task(fails("cancelled", may_ask, ["slow"], client_timeout=60))
    await eventually(begun.exists, timeout=60)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    limit = endpoint_pb2.RateLimit(
        scope=endpoint_pb2.RATE_LIMIT_SCOPE_USER,
        subject=caller,
        period=endpoint_pb2.RATE_LIMIT_PERIOD_HOUR,
        calls=0,
    )
    await classes.client.inference.update_endpoint(scale, rate_limits=[limit])
    told["429"] = await fails("429", may_ask, ["a"])
    await classes.client.inference.update_endpoint(scale, rate_limits=[])
    assert told == {
        "401": "UNAUTHENTICATED",
        "403": "PERMISSION_DENIED",
        "404": "NOT_FOUND",
        "400": "INVALID_ARGUMENT",
        "429": "RESOURCE_EXHAUSTED",
        "late": "DEADLINE_EXCEEDED",
    }
    hidden = ["REQUEST_NOT_AUTHORISED"]
    expected = {
        "401": (16, "token is not valid", "", "REFUSED", hidden),
        "403": (7, f"EXECUTE on endpoint {scale}", viewer, "REFUSED", hidden),
        "404": (5, "does not serve version '9'", caller, "REFUSED", []),
        "400": (3, "'name': is missing", caller, "REFUSED", []),
        "429": (8, f"calls of user '{caller}' are denied", caller, "REFUSED", []),
        "late": (4, "the deadline passed", caller, "PRIMARY", []),
        "cancelled": (1, "the caller cancelled", caller, "PRIMARY", []),
    }
    rows = await classes.rows(scale, list(expected))
    for identifier, (code, reason, requester, route, lacking) in expected.items():
        row = rows[identifier]
        assert reason in row["status_message"]
        found = (row["status_code"], row["requester"], row["route"], row["logging_error_codes"])
        assert found == (code, requester, route, lacking), row
        assert bool(row["request"]) == (not lacking)
        assert row["response"] == ""


@pytest.fixture(scope="module")
async def words(classes: Classes) -> str:
    version = await classes.register(
        "Words",
        inputs=[TensorSpec("text", "BYTES", [-1, 1])],
        outputs=[TensorSpec("word", "BYTES", [-1, 1])],
        streams=True,
        arguments={"folder": str(classes.folder)},
    )
    return await classes.serve("Words", version)


async def test_a_class_streams(classes: Classes, words: str) -> None:
    name = words
    sentences = {"first": "a stream of words", "second": "Grüße", "third": "one raise two"}
    requests = [
        {"inputs": [texts("text", sentence)], "request_id": identifier}
        for identifier, sentence in sentences.items()
    ]
    found = await classes.stream(name, requests)
    told: dict[str, list[str]] = {}
    for result in found:
        if not isinstance(result, str):
            words = told.setdefault(result.get_response().id, [])
            words += [one.decode() for one in result.as_numpy("word").ravel()]
    assert told == {"first": ["a", "stream", "of", "words"], "second": ["Grüße"], "third": ["one"]}
    failures = [one for one in found if isinstance(one, str)]
    assert failures == ["the model failed: ValueError: no such word"]
    row = await classes.row(name, "first")
    assert (row["status_code"], len(row["chunk_times_ms"])) == (0, 4)
    assert row["chunk_times_ms"] == sorted(row["chunk_times_ms"])
    together = await classes.ask(name, [texts("text", "as one")])
    assert together.as_numpy("word").ravel().tolist() == [b"as", b"one"]
    await leave(classes, name)


def endless(classes: Classes, name: str, identifier: str) -> Any:
    """A stream of words that never ends."""

    async def told() -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": name,
            "inputs": [texts("text", "a forever")],
            "request_id": identifier,
        }

    return classes.serving.gateway.stream_infer(told(), headers=classes.serving.headers)


async def leave(classes: Classes, name: str) -> None:
    """A caller that leaves ends the generator, and the one instance answers the next."""
    closed = classes.folder / "closed"
    closed.unlink()
    stream = endless(classes, name, "left")
    await anext(stream)
    stream.cancel()
    await eventually(closed.exists, timeout=60)
    result = await classes.ask(name, [texts("text", "next")])
    assert result.as_numpy("word").tolist() == [[b"next"]]


async def test_streams_that_a_kill_cuts_short_have_their_rows(
    classes: Classes, words: str, local_stack: Stack
) -> None:
    """One amid its answer, and one that waits for the model's one instance meanwhile."""
    answered = endless(classes, words, "answered")
    await anext(answered)
    waiting = endless(classes, words, "waiting")
    reading = asyncio.ensure_future(anext(waiting))
    begun = local_stack.home.data("inference") / "spool" / "begun"
    model = classes.model("Words").encode()
    await eventually(lambda: sum(model in one.read_bytes() for one in begun.iterdir()) == 2)
    local_stack.kill("inference")
    await local_stack.wait_healthy("inference")
    cut = (InferenceServerException, grpc.aio.AioRpcError, asyncio.CancelledError)
    with pytest.raises(cut):
        await reading
    with pytest.raises(cut):
        async for _, error in answered:
            assert error is None
    rows = await classes.rows(words, ["answered", "waiting"])
    for identifier, responses in (("answered", 1), ("waiting", 0)):
        row = rows[identifier]
        assert (row["status_code"], row["logging_error_codes"]) == (14, ["STREAM_CUT_SHORT"])
        assert (row["model_version"], row["route"]) == (1, "PRIMARY")
        assert (len(row["chunk_times_ms"]), row["response"]) == (responses, "")
        assert row["inputs"] == '{"text":["a forever"]}'

    async def next_answer() -> Any:
        # The models ended with the gateway that ran them, and are loaded again.
        try:
            return await classes.ask(words, [texts("text", "next")])
        except InferenceServerException as error:
            raise AssertionError(error.message()) from None

    result = await eventually(next_answer, timeout=60)
    assert result.as_numpy("word").tolist() == [[b"next"]]


async def test_a_class_keeps_the_state_of_each_sequence(classes: Classes) -> None:
    version = await classes.register(
        "Total",
        inputs=[TensorSpec("x", "INT64", [-1, 1])],
        outputs=[TensorSpec("sum", "INT64", [-1, 1])],
        stateful=True,
    )
    name = await classes.serve("Total", version)

    async def add(sequence: int | str, value: int, **place: bool) -> int:
        x = triton.InferInput("x", [1, 1], "INT64")
        x.set_data_from_numpy(np.array([[value]], np.int64))
        result = await classes.ask(name, [x], sequence_id=sequence, **place)
        return int(result.as_numpy("sum")[0, 0])

    assert await add(7, 1, sequence_start=True) == 1
    assert await add("other", 10, sequence_start=True) == 10
    assert await add(7, 2) == 3
    assert await add("other", 10, sequence_end=True) == 20
    assert await add(7, 3, sequence_end=True) == 6
    assert await add(7, 5, sequence_start=True, sequence_end=True) == 5


TEXT, VERDICT = TensorSpec("text", "BYTES", [-1, 1]), TensorSpec("verdict", "BYTES", [-1, 1])
PROBABILITY = TensorSpec("probability", "FP32", [-1, 1])


async def pipeline(classes: Classes, words: list[str]) -> int:
    """A version of a class, a torch program and another class in a row."""
    features = await classes.register(
        "Features",
        inputs=[TEXT],
        outputs=[TensorSpec("x", "FP32", [-1, 4]), TensorSpec("carrier", "BYTES", [-1, 1])],
    )
    program = await classes.serving.add_version(inputs=MANIFEST["inputs"][:2])
    verdict = await classes.register(
        "Verdict", inputs=[PROBABILITY], outputs=[VERDICT], arguments={"words": words}
    )
    model = classes.model("Pipeline")
    await classes.client.models.create(model, exist_ok=True)
    made = await classes.client.models.register_pipeline(
        model,
        [
            PipelineStep(classes.model("Features"), features, inputs={"text": "sentence"}),
            PipelineStep(classes.serving.model, program, outputs={"probability": "late"}),
            PipelineStep(classes.model("Verdict"), verdict, inputs={"probability": "late"}),
        ],
        inputs=[TensorSpec("sentence", "BYTES", [-1, 1])],
        outputs=[VERDICT, TensorSpec("late", "FP32", [-1, 1])],
    )
    return int(made.version)


async def test_a_pipeline_is_swapped_under_traffic(classes: Classes) -> None:
    first = await pipeline(classes, ["on time", "late"])
    name = await classes.serve("Pipeline", first)
    endpoint = await classes.client.inference.get_endpoint(name)
    steps = endpoint.config.served_entities[0].steps
    assert [step.model_name for step in steps] == [
        *(classes.model("Features"), classes.serving.model, classes.model("Verdict"))
    ]
    x = torch.tensor([[9.0, 1.0, 2.0, 1.0]])
    expected = module()(x, torch.tensor([[CARRIERS.index("AA")]])).item()
    sentence = "AA made e"
    words = {first: ["on time", "late"]}
    answered: list[bytes] = []
    is_over = asyncio.Event()

    async def caller() -> None:
        while not is_over.is_set():
            result = await classes.ask(name, [texts("sentence", sentence, sentence)])
            np.testing.assert_allclose(result.as_numpy("late"), [[expected]] * 2, rtol=1e-5)
            answered.append(result.as_numpy("verdict")[1, 0])

    async with asyncio.TaskGroup() as callers:
        for _ in range(3):
            callers.create_task(caller())
        second = await pipeline(classes, ["pünktlich", "zu spät"])
        words[second] = ["pünktlich", "zu spät"]
        for version in (second, first):
            await classes.client.inference.update_config(
                name, [classes.entity("Pipeline", version)]
            )
            endpoint = await classes.serving.settled(name)
            assert endpoint.config.served_entities[0].model_version == version
            wanted = words[version][expected > 0.5].encode()
            await eventually(lambda wanted=wanted: answered[-1] == wanted, timeout=60)
        is_over.set()
    row = await classes.row(name, await recorded(classes, name, sentence))
    assert (row["model_version"], row["status_code"]) == (first, 0)


async def recorded(classes: Classes, name: str, sentence: str) -> str:
    await classes.ask(name, [texts("sentence", sentence)], request_id="last")
    return "last"


async def test_a_pipeline_whose_steps_do_not_fit_is_refused(classes: Classes) -> None:
    version = await classes.register("Verdict", inputs=[PROBABILITY], outputs=[VERDICT])
    model = classes.model("Wrong")
    await classes.client.models.create(model)
    made = await classes.client.models.register_pipeline(
        model,
        [PipelineStep(classes.model("Verdict"), version, inputs={"probability": "sentence"})],
        inputs=[TensorSpec("sentence", "BYTES", [-1, 1])],
        outputs=[VERDICT],
    )
    with pytest.raises(
        InvalidArgument, match=r"steps\[0\]\.inputs\.probability is FP32 and is fed"
    ):
        await classes.client.inference.create_endpoint(
            "wrong", [classes.entity("Wrong", made.version)], table_schema=classes.serving.schema
        )
