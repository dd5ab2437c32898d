"""Models in the real runtime: loaded with their files, answered in batches, refused when wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2

from services.inference.adapters.triton.wire import TritonWire
from services.inference.domain.fields import text_field
from services.inference.domain.signature import parse_manifest
from services.inference.errors import (
    InferenceTimeout,
    InvalidArchive,
    ModelFailed,
    ModelNotServable,
    RuntimeUnavailable,
)
from services.inference.ports import Runtime, RuntimeModels
from services.inference.runtime.bundle import make_bundle
from tests.helpers import eventually, unique_name
from tests.integration.inference.models import exported, manifest, scripted
from tests.integration.inference.requests import expected

pytestmark = pytest.mark.timeout(240)


async def load(models: RuntimeModels, content: bytes, **changes: Any) -> str:
    name = unique_name("model").replace("_", "-")
    signature = parse_manifest(manifest(**changes))
    bundle = make_bundle(name, signature, 1, {signature.file: content})
    await models.load(name, bundle.config, bundle.files)
    return name


@pytest.fixture(scope="module")
async def export_model(models: RuntimeModels) -> AsyncIterator[str]:
    name = await load(models, exported())
    yield name
    await models.unload(name)


def request(x: Any, carriers: list[str], *, metadata: bool = False) -> bytes:
    features = np.asarray(x, np.float32)
    message = service_pb2.ModelInferRequest(model_name="endpoint", id="r")
    message.inputs.add(name="x", datatype="FP32", shape=features.shape)
    message.raw_input_contents.append(features.tobytes())
    message.inputs.add(name="carrier", datatype="BYTES", shape=[len(carriers), 1])
    message.raw_input_contents.append(_texts(carriers))
    if metadata:
        message.inputs.add(name="flown_at", datatype="BYTES", shape=[len(carriers), 1])
        message.raw_input_contents.append(_texts(["2013-01-01"] * len(carriers)))
    return bytes(message.SerializeToString())


def _texts(values: list[str]) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value.encode() for value in values)


async def ask(runtime: Runtime, name: str, body: bytes, timeout: float = 30) -> Any:
    reply = await runtime.infer(body + text_field(1, name), timeout)
    response = service_pb2.ModelInferResponse.FromString(reply)
    (output,) = response.outputs
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(output.shape)


@pytest.mark.parametrize("metadata", [False, True])
async def test_an_exported_program_answers(
    runtime: Runtime, export_model: str, metadata: bool
) -> None:
    x, carriers = [[0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]], ["UA", "unheard of"]
    found = await ask(runtime, export_model, request(x, carriers, metadata=metadata))
    np.testing.assert_allclose(found, expected(x, carriers), rtol=1e-5)


async def test_torchscript_answers(models: RuntimeModels, runtime: Runtime) -> None:
    name = await load(models, scripted(0.5), flavor="torchscript", file="model.pt")
    x, carriers = [[0.1, 0.2, 0.3, 0.4]], ["DL"]
    found = await ask(runtime, name, request(x, carriers))
    np.testing.assert_allclose(found, expected(x, carriers, 0.5), rtol=1e-5)
    await models.unload(name)


async def test_requests_that_run_together_get_their_own_answers(
    runtime: Runtime, export_model: str
) -> None:
    generator = np.random.default_rng(3)
    batches = [generator.normal(size=(1 + i % 3, 4)) for i in range(60)]
    carriers = [["AA", "UA", "??"][: len(batch)] for batch in batches]
    found = await asyncio.gather(
        *(
            ask(runtime, export_model, request(batch, names))
            for batch, names in zip(batches, carriers, strict=True)
        )
    )
    for batch, names, got in zip(batches, carriers, found, strict=True):
        np.testing.assert_allclose(got, expected(batch, names), rtol=1e-4, atol=1e-6)


async def test_loaded_models_are_listed_until_they_are_unloaded(models: RuntimeModels) -> None:
    name = await load(models, exported())
    assert name in await models.loaded()
    await models.unload(name)

    async def gone() -> bool:
        return name not in await models.loaded()

    await eventually(gone)
    await models.unload(name)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([{"name": "p", "datatype": "FP32", "shape": [-1, 2]}], "the signature says"),
        (
            [
                {"name": "p", "datatype": "FP32", "shape": [-1, 1]},
                {"name": "q", "datatype": "FP32", "shape": [-1, 1]},
            ],
            "the signature has 2 outputs",
        ),
    ],
)
async def test_a_signature_that_lies_fails_the_load(
    models: RuntimeModels, outputs: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(ModelNotServable, match=words) as caught:
        await load(models, exported(), outputs=outputs)
    assert "Traceback" not in str(caught.value)
    assert "File" not in str(caught.value)


async def test_a_file_of_another_flavor_is_refused_before_the_runtime(
    models: RuntimeModels,
) -> None:
    with pytest.raises(InvalidArchive):
        await load(models, scripted())


async def test_a_model_that_is_not_there_is_unavailable(runtime: Runtime) -> None:
    with pytest.raises(RuntimeUnavailable):
        await ask(runtime, "never-loaded", request([[1, 2, 3, 4]], ["AA"]))


async def test_a_runtime_that_is_not_there_is_unavailable() -> None:
    nowhere = TritonWire("127.0.0.1:9", max_message_bytes=1 << 20)
    with pytest.raises(RuntimeUnavailable):
        await nowhere.infer(b"", 5)
    await nowhere.close()


async def test_time_that_is_over_is_a_timeout(runtime: Runtime, export_model: str) -> None:
    body = request(np.zeros((8000, 4)), ["AA"] * 8000)
    with pytest.raises(InferenceTimeout):
        await ask(runtime, export_model, body, timeout=0.0005)


async def test_a_model_whose_process_died_is_missed_and_can_be_loaded_again(
    models: RuntimeModels, runtime: Runtime
) -> None:
    name = unique_name("model").replace("_", "-")
    signature = parse_manifest(manifest())
    bundle = make_bundle(name, signature, 1, {signature.file: exported()})
    await models.load(name, bundle.config, bundle.files)
    x, carriers = [[0.1, 0.2, 0.3, 0.4]], ["UA"]
    assert await ask(runtime, name, request(x, carriers)) is not None
    for process in psutil.process_iter(["cmdline"]):
        if any(word.startswith(f"{name}_") for word in process.info["cmdline"] or ()):
            process.kill()
    with pytest.raises(RuntimeUnavailable):
        await ask(runtime, name, request(x, carriers))
    # Triton itself goes on to call it ready, and would leave it as it is.
    assert name not in await models.loaded()
    await models.load(name, bundle.config, bundle.files)
    assert name in await models.loaded()
    found = await ask(runtime, name, request(x, carriers))
    np.testing.assert_allclose(found, expected(x, carriers), rtol=1e-5)
    await models.unload(name)


async def test_one_bad_request_does_not_fail_its_neighbours(
    models: RuntimeModels, runtime: Runtime
) -> None:
    """An index outside of the embedding fails inside the model."""
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [-1, 4], "role": "FEATURE"},
        {"name": "carrier", "datatype": "INT64", "shape": [-1, 1], "role": "FEATURE"},
    ]
    name = await load(models, exported(), inputs=inputs)

    def indexed(index: int) -> bytes:
        message = service_pb2.ModelInferRequest()
        message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        message.inputs.add(name="carrier", datatype="INT64", shape=[1, 1])
        message.raw_input_contents.extend(
            [np.zeros(4, np.float32).tobytes(), np.int64(index).tobytes()]
        )
        return bytes(message.SerializeToString())

    found = await asyncio.gather(
        *(ask(runtime, name, indexed(99 if i % 10 == 0 else 1)) for i in range(40)),
        return_exceptions=True,
    )
    for i, got in enumerate(found):
        if i % 10 == 0:
            assert isinstance(got, ModelFailed)
            assert "IndexError" in got.message
        else:
            np.testing.assert_allclose(got, expected([[0, 0, 0, 0]], ["UA"]), rtol=1e-5)
    await models.unload(name)
