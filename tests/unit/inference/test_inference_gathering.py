"""What comes while a model is busy leaves together, and nothing but the rows is shared."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, Final

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from services.inference.domain.fields import text_field
from services.inference.errors import (
    InferenceTimeout,
    InvalidInference,
    ModelFailed,
    ModelNotLoaded,
)
from services.inference.gateway.forms import Fit, Form
from services.inference.gateway.gathering import Gathering
from services.inference.gateway.records import Exchange
from tests.helpers import eventually

SUFFIX: Final = text_field(1, "runtime-name")
POISON: Final = 666.0
LONG: Final = 30.0


def form_of(rows: int = 1) -> Form:
    asks = service_pb2.ModelInferRequest()
    asks.inputs.add(name="x", datatype="FP32", shape=[rows, 1])
    return Form((rows * 4,), rows, asks, True)


FORM: Final = form_of()


class Doubling:
    """A runtime whose model doubles rows, once it is let."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked: list[list[float]] = []
        self.running = 0
        self.ended = 0
        self.failure: Exception | None = None
        self.rows_given: int | None = None

    async def infer(
        self, request: bytes, timeout: float | None, suffix: bytes = b"", ending: bytes = b""
    ) -> bytes:
        message = service_pb2.ModelInferRequest.FromString(request + suffix)
        assert message.model_name == "runtime-name"
        x = np.frombuffer(message.raw_input_contents[0], np.float32)
        assert list(message.inputs[0].shape) == [len(x), 1]
        self.asked.append(x.tolist())
        self.running += 1
        try:
            async with asyncio.timeout(timeout):
                await self.go.wait()
        except TimeoutError:
            raise InferenceTimeout("too late") from None
        finally:
            self.running -= 1
            self.ended += 1
        if self.failure is not None:
            raise self.failure
        if POISON in x:
            raise ModelFailed(f"the model failed: {len(x)} rows")
        y = x * 2 if self.rows_given is None or len(x) == 1 else x[: self.rows_given] * 2
        response = service_pb2.ModelInferResponse(id=message.id)
        response.outputs.add(name="y", datatype="FP32", shape=[len(y), 1])
        response.raw_output_contents.append(y.tobytes())
        return bytes(response.SerializeToString()) + ending

    def stream(self, request: bytes, timeout: float) -> Any:
        raise NotImplementedError("nobody streams here")


def exchange_of(*values: float, form: Form = FORM) -> Exchange:
    raw = np.array(values, np.float32).tobytes()
    message = service_pb2.ModelInferRequest(id=f"about {float(values[0])}")
    message.inputs.add(name="x", datatype="FP32", shape=[len(values), 1])
    message.raw_input_contents.append(raw)
    exchange = Exchange("id", message.SerializeToString())
    exchange.client_request_id = message.id
    exchange.fit = Fit(form, [raw])
    return exchange


class Callers:
    """Ask a gathering, each one row."""

    def __init__(self, runtime: Doubling, gathering: Gathering) -> None:
        self.runtime = runtime
        self.gathering = gathering

    def ask(self, *values: float, form: Form = FORM, timeout: float = LONG) -> asyncio.Task[Any]:
        exchange = exchange_of(*values, form=form)
        assert self.gathering.takes(exchange)
        work = self.gathering.ask(self.runtime, exchange, timeout)
        return asyncio.get_running_loop().create_task(self._answer(work))

    async def _answer(self, work: Any) -> list[float]:
        response = service_pb2.ModelInferResponse.FromString(await work)
        y = np.frombuffer(response.raw_output_contents[0], np.float32)
        assert list(response.outputs[0].shape) == [len(y), 1]
        assert response.id == f"about {y[0] / 2}"
        return [float(value) for value in y]

    async def sent(self, *sizes: int) -> None:
        await eventually(lambda: [len(rows) for rows in self.runtime.asked] == list(sizes))


@pytest.fixture
def runtime() -> Doubling:
    return Doubling()


@pytest.fixture
def callers(runtime: Doubling) -> Callers:
    return Callers(runtime, Gathering(1, 64, SUFFIX))


async def test_one_alone_leaves_at_once_as_it_came(callers: Callers, runtime: Doubling) -> None:
    asked = callers.ask(3)
    await callers.sent(1)
    runtime.go.set()
    assert await asked == [6]


async def test_who_comes_while_it_is_busy_leaves_together(
    callers: Callers, runtime: Doubling
) -> None:
    first = callers.ask(1)
    await callers.sent(1)
    second = [callers.ask(value) for value in (2, 3, 4)]
    await callers.sent(1, 3)
    third = [callers.ask(value) for value in range(5, 25)]
    await asyncio.sleep(0)
    await callers.sent(1, 3)  # One computes and one is ready: more would wait in the runtime.
    runtime.go.set()
    assert [await task for task in (first, *second, *third)] == [[2.0 * n] for n in range(1, 25)]
    assert [len(rows) for rows in runtime.asked] == [1, 3, 20]


async def test_a_batch_has_as_many_rows_as_the_model_takes(runtime: Doubling) -> None:
    callers, three = Callers(runtime, Gathering(1, 7, SUFFIX)), form_of(3)
    first = callers.ask(1, 2, 3, form=three)
    await callers.sent(3)
    rest = [callers.ask(n, n + 1, n + 2, form=three) for n in range(5)]
    runtime.go.set()
    assert await first == [2, 4, 6]
    assert [await task for task in rest] == [[2 * n, 2 * n + 2, 2 * n + 4] for n in range(5)]
    assert all(len(rows) in (3, 6) for rows in runtime.asked)


async def test_other_forms_do_not_wait_for_this_one(callers: Callers, runtime: Doubling) -> None:
    tasks = [callers.ask(n) for n in range(1, 9)]
    await callers.sent(1, 7)
    late = callers.ask(9)
    other = callers.ask(1, 2, form=form_of(2))
    await callers.sent(1, 7, 2)
    runtime.go.set()
    assert await other == [2, 4]
    assert [await task for task in (*tasks, late)] == [[2.0 * n] for n in range(1, 10)]


async def test_one_at_fault_fails_alone(callers: Callers, runtime: Doubling) -> None:
    tasks = [callers.ask(value) for value in (1, 2, POISON, 4)]
    await callers.sent(1, 3)
    runtime.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [found[0], found[1], found[3]] == [[2], [4], [8]]
    assert isinstance(found[2], ModelFailed) and str(found[2]).endswith("1 rows")


@pytest.mark.parametrize("rows", [0, 2, 9])
async def test_a_model_that_does_not_give_a_row_for_each_is_asked_for_each(
    callers: Callers, runtime: Doubling, rows: int
) -> None:
    runtime.rows_given = rows
    tasks = [callers.ask(value) for value in (1, 2, 3, 4, 5)]
    await callers.sent(1, 4)
    runtime.go.set()
    expected = [[2.0 * n] for n in range(1, 6)]
    assert [await task for task in tasks] == expected


async def test_a_model_that_is_gone_is_told_to_all(callers: Callers, runtime: Doubling) -> None:
    runtime.failure = ModelNotLoaded("it is gone")
    tasks = [callers.ask(value) for value in (1, 2, 3)]
    await callers.sent(1, 2)
    runtime.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in found] == [ModelNotLoaded] * 3
    assert len(runtime.asked) == 2


async def test_each_has_its_own_deadline(callers: Callers, runtime: Doubling) -> None:
    patient = [callers.ask(1), callers.ask(2)]
    hurried = callers.ask(3, timeout=0.02)
    await callers.sent(1, 2)
    with pytest.raises(InferenceTimeout):
        await hurried
    runtime.go.set()
    assert [await task for task in patient] == [[2], [4]]


async def test_who_goes_away_before_leaving_is_not_asked_for(
    callers: Callers, runtime: Doubling
) -> None:
    tasks = [callers.ask(1), callers.ask(2)]
    await callers.sent(1, 1)
    waiting = [callers.ask(value) for value in (3, 4, 5)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    runtime.go.set()
    assert [await task for task in (*tasks, waiting[0], waiting[2])] == [[2], [4], [6], [10]]
    assert [3.0, 5.0] in runtime.asked


async def test_work_ends_when_the_last_of_a_company_goes_away(
    callers: Callers, runtime: Doubling
) -> None:
    tasks = [callers.ask(value) for value in (1, 2, 3)]
    await callers.sent(1, 2)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert runtime.running == 2
    tasks[2].cancel()
    await eventually(lambda: runtime.running == 1)
    runtime.go.set()
    assert await tasks[0] == [2]
    assert await callers.ask(7) == [14]


async def test_waiting_counts_as_waiting_for_a_place(callers: Callers, runtime: Doubling) -> None:
    tasks = [callers.ask(1), callers.ask(2)]
    await callers.sent(1, 1)
    exchange = exchange_of(3)
    exchange.model_began = exchange.began
    work = callers.gathering.ask(runtime, exchange, LONG)
    waiting = asyncio.get_running_loop().create_task(work)
    await asyncio.sleep(0)
    runtime.go.set()
    await asyncio.gather(*tasks, waiting)
    assert exchange.model_began > exchange.began
    assert exchange.queue_us == (exchange.model_began - exchange.began) // 1000


def test_what_cannot_share_its_rows_is_not_taken() -> None:
    gathering = Gathering(1, 64, SUFFIX)
    unknown = exchange_of(1)
    unknown.fit = None
    large = exchange_of(*range(10_000), form=form_of(10_000))
    own = exchange_of(1, form=Form((4,), 1, FORM.asks, joins=False))
    assert [gathering.takes(one) for one in (unknown, large, own)] == [False] * 3


async def test_refused_by_the_runtime_is_told_to_the_one_it_is_about(
    callers: Callers, runtime: Doubling
) -> None:
    runtime.failure = InvalidInference("the model refused the request: no")
    tasks = [callers.ask(value) for value in (1, 2, 3)]
    await callers.sent(1, 2)
    runtime.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in found] == [InvalidInference] * 3
    assert sorted(map(len, runtime.asked)) == [1, 1, 1, 2]


async def test_many_forms_leave_no_lanes_behind(callers: Callers, runtime: Doubling) -> None:
    runtime.go.set()
    for _ in range(300):
        assert await callers.ask(1, form=form_of()) == [2]
    assert len(callers.gathering._lanes) <= 64


async def test_requests_leave_nothing_to_the_cyclic_collector(
    callers: Callers, runtime: Doubling
) -> None:
    async def together() -> None:
        runtime.go.clear()
        runtime.asked.clear()
        tasks = [callers.ask(n) for n in range(1, 9)]
        await callers.sent(1, 7)
        runtime.go.set()
        await asyncio.gather(*tasks)

    await together()
    gc.collect()
    gc.disable()
    try:
        await together()
        await asyncio.sleep(0)
        left = gc.collect()
    finally:
        gc.enable()
    assert left < 8
