"""Large tensors by memory that the real runtime shares; each falls back to being sent."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from devstack import Stack
from services.inference.adapters.triton.models import TritonModels
from services.inference.adapters.triton.region import SharedRegion, stale_regions
from services.inference.adapters.triton.sharing import Loan, TensorSharing
from services.inference.adapters.triton.wire import TritonWire
from services.inference.domain.fields import text_field
from services.inference.errors import InferenceTimeout, ModelFailed
from tests.helpers import eventually, unique_name

pytestmark = pytest.mark.timeout(240)

LARGE: Final = 300_000
"""Elements of a tensor of more than a megabyte."""
CODE: Final = b'''
import json
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    """Doubles x, `times` over, once it is let; says how many elements came."""

    def initialize(self, arguments):
        config = json.loads(arguments["model_config"])
        self.gate = config["parameters"]["gate"]["string_value"]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb.get_input_tensor_by_name(request, "x").as_numpy()
        wait, times = pb.get_input_tensor_by_name(request, "how").as_numpy()
        if wait:
            # Opening a pipe waits for whoever opens its other end.
            open(self.gate).close()
        if times < 0:
            raise ValueError("no shared memory for so small a number")
        said = np.array([str(len(x)), "elements"], object)
        outputs = [pb.Tensor("y", np.tile(x * 2, int(times))), pb.Tensor("said", said)]
        return pb.InferenceResponse(outputs)
'''
CONFIG: Final = {
    "backend": "python",
    "input": [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [-1]},
        {"name": "how", "data_type": "TYPE_FP32", "dims": [2]},
    ],
    "output": [
        {"name": "y", "data_type": "TYPE_FP32", "dims": [-1]},
        {"name": "said", "data_type": "TYPE_STRING", "dims": [-1]},
    ],
    "instance_group": [{"kind": "KIND_CPU", "count": 2}],
}


class Watched(TensorSharing):
    """Counts what was lent."""

    loans = 0

    def lend(self, request: bytes, suffix: bytes) -> Loan | None:
        loan = super().lend(request, suffix)
        self.loans += loan is not None
        return loan


class Caller:
    """Asks the model over a wire of its own."""

    def __init__(self, stack: Stack, model: str, owner: Path, size: int = 64 << 20) -> None:
        self.target = stack.urls["triton_grpc"]
        self.sharing = Watched(self.target, owner, size, left_seconds=0.0)
        self.region = self.sharing._region
        self.wire = TritonWire(self.target, max_message_bytes=64 << 20, sharing=self.sharing)
        self.model = model

    async def ask(
        self,
        first: float,
        size: int = LARGE,
        wait: bool = False,
        times: float = 1,
        timeout: float = 60,
    ) -> Any:
        """The response to `size` numbers from `first` on, checked."""
        x = np.arange(size, dtype=np.float32) + np.float32(first)
        message = service_pb2.ModelInferRequest(model_name="endpoint", id=f"about {first}")
        message.inputs.add(name="x", datatype="FP32", shape=[size])
        message.inputs.add(name="how", datatype="FP32", shape=[2])
        how = np.array([wait, times], np.float32)
        message.raw_input_contents.extend([x.tobytes(), how.tobytes()])
        suffix = text_field(1, self.model)
        ending = text_field(1, f"told {first}")
        reply = await self.wire.infer(message.SerializeToString(), timeout, suffix, ending)
        response = service_pb2.ModelInferResponse.FromString(reply)
        assert response.model_name == f"told {first}"
        assert response.id == f"about {first}"
        assert [output.name for output in response.outputs] == ["y", "said"]
        y, said = response.raw_output_contents
        np.testing.assert_array_equal(np.frombuffer(y, np.float32), np.tile(x * 2, int(times)))
        assert said.endswith(b"\x08\x00\x00\x00elements")
        assert not response.outputs[0].parameters
        return response

    async def share(self) -> None:
        """Return when the runtime has the memory and answers of the usual size lie in it."""

        async def shared() -> bool:
            before = self.sharing.loans
            await self.ask(1)
            return self.sharing.loans > before

        await eventually(shared)
        await self.ask(2)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipe that the model waits for to be opened, where it is asked to."""
    path = tmp_path_factory.mktemp("gate") / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture(scope="module")
async def model(process_models: TritonModels, gate: Path) -> AsyncIterator[str]:
    name = unique_name("shared").replace("_", "-")
    config = {**CONFIG, "parameters": {"gate": {"string_value": str(gate)}}}
    await process_models.load(name, json.dumps(config), {"1/model.py": CODE})
    yield name
    await process_models.unload(name)


@pytest.fixture
async def caller(stack: Stack, model: str, tmp_path: Path) -> AsyncIterator[Caller]:
    caller = Caller(stack, model, tmp_path)
    yield caller
    await caller.wire.close()
    assert stale_regions(caller.region.name) == []


async def test_answers_are_the_same_whichever_way_they_come(caller: Caller) -> None:
    await caller.ask(0.5, size=3)
    assert caller.sharing.loans == 0
    await caller.share()
    for size in (LARGE, LARGE + 1, 20_000, 1_000_000, LARGE):
        await caller.ask(0.25, size=size)
        await caller.ask(0.75, size=size)
    await asyncio.gather(*(caller.ask(n) for n in range(40)))
    assert caller.region.lent == 0


async def test_an_answer_that_has_no_room_is_sent(caller: Caller) -> None:
    await caller.share()
    response = await caller.ask(3, times=3)
    assert response.outputs[0].shape == [3 * LARGE]
    await caller.ask(4, times=2)
    await caller.ask(5)
    assert caller.region.lent == 0


async def test_a_smaller_answer_is_as_small_as_it_is(caller: Caller) -> None:
    await caller.ask(1, size=2 * LARGE, times=2)
    await caller.share()
    await caller.ask(2, size=2 * LARGE, times=2)
    response = await caller.ask(3, size=2 * LARGE, times=1)
    assert response.outputs[0].shape == [2 * LARGE]


async def test_an_answer_that_the_runtime_kept_is_the_same(
    stack: Stack, process_models: TritonModels, tmp_path: Path
) -> None:
    name = unique_name("kept").replace("_", "-")
    config = {
        **CONFIG,
        "response_cache": {"enable": True},
        "parameters": {"gate": {"string_value": ""}},
    }
    await process_models.load(name, json.dumps(config), {"1/model.py": CODE})
    caller = Caller(stack, name, tmp_path)
    await caller.share()
    for _ in range(3):
        await caller.ask(7)
        await caller.ask(8)
    await caller.wire.close()
    await process_models.unload(name)


async def test_what_does_not_fit_the_memory_is_sent(
    stack: Stack, model: str, tmp_path: Path
) -> None:
    caller = Caller(stack, model, tmp_path, size=4 << 20)
    await caller.share()
    loans = caller.sharing.loans
    await caller.ask(1, size=2 * LARGE, times=2)
    await caller.ask(2, size=5 * LARGE)
    assert caller.sharing.loans <= loans + 1
    await asyncio.gather(*(caller.ask(n) for n in range(20)))
    await caller.wire.close()


async def test_memory_is_kept_until_the_runtime_is_done_with_it(caller: Caller, gate: Path) -> None:
    """Whoever gave up would else have an answer written into another one's tensors."""
    await caller.share()
    slow = asyncio.create_task(caller.ask(10, wait=True))

    await eventually(lambda: caller.region.lent == 1, interval=0.01)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert caller.region.lent == 1
    await asyncio.gather(*(caller.ask(n) for n in range(8)))
    assert caller.region.lent == 1
    await asyncio.to_thread(gate.write_bytes, b"")
    await eventually(lambda: caller.region.lent == 0)


async def test_a_deadline_ends_the_wait(caller: Caller, gate: Path) -> None:
    await caller.share()
    with pytest.raises(InferenceTimeout):
        await caller.ask(1, wait=True, timeout=0.2)
    assert caller.region.lent == 1
    await asyncio.to_thread(gate.write_bytes, b"")
    await caller.ask(2)
    await eventually(lambda: caller.region.lent == 0)


async def settled_count(models: TritonModels, model: str) -> int:
    """How many requests the model has answered: Triton counts one after its answer has left."""
    seen = [-1]

    async def is_settled() -> bool:
        seen.append((await models.answered())[model])
        return seen[-1] == seen[-2]

    await eventually(is_settled)
    return seen[-1]


async def test_a_failure_of_the_model_is_told_and_not_tried_again(
    caller: Caller, process_models: TritonModels, model: str
) -> None:
    await caller.share()
    before = await settled_count(process_models, model)
    with pytest.raises(ModelFailed):
        await caller.ask(1, times=-1)
    assert await settled_count(process_models, model) == before + 1
    await caller.ask(2)
    assert caller.region.lent == 0


async def test_a_runtime_that_was_started_anew_is_told_of_the_memory_again(
    caller: Caller, client: triton.InferenceServerClient
) -> None:
    await caller.share()

    async def forgotten() -> bool:
        # Triton has done with a request's memory a little after its answer has left.
        try:
            await client.unregister_system_shared_memory(caller.region.name)
        except InferenceServerException as error:
            assert "in use" not in str(error)
            raise
        return True

    await eventually(forgotten)
    await caller.ask(1)
    await caller.share()
    told: Any = await client.get_system_shared_memory_status()
    assert caller.region.name in told.regions


async def test_a_runtime_that_cannot_open_the_memory_is_sent_everything(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(region: SharedRegion) -> None:
        opened(region)
        SharedRegion.remove(region.name)

    opened = SharedRegion.open
    monkeypatch.setattr(SharedRegion, "open", elsewhere)
    await caller.ask(1)

    await eventually(lambda: not caller.sharing._work)
    await caller.ask(2)
    assert caller.sharing.loans == 0


async def test_memory_that_a_killed_process_left_is_removed(
    caller: Caller, stack: Stack, model: str, tmp_path: Path
) -> None:
    await caller.share()
    successor = Caller(stack, model, tmp_path)
    await successor.share()

    await eventually(lambda: stale_regions(caller.region.name) == [])
    await successor.ask(3)
    await successor.wire.close()
