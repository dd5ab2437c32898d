"""Every answered request has exactly one row, whatever is killed while traffic flows."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from devstack import Stack
from tests.helpers import eventually
from tests.integration.inference.requests import inputs
from tests.integration.inference.serving import Serving
from tests.integration.inference.test_inference_serving import X, request_id, rows_of

pytestmark = pytest.mark.timeout(600)


class Traffic:
    """Requests that never stop; remembers the id of every one that was answered."""

    def __init__(
        self,
        serving: Serving,
        endpoint: str,
        workers: int,
        gateway: triton.InferenceServerClient | None = None,
    ) -> None:
        self._serving = serving
        self._gateway = gateway or serving.gateway
        self._endpoint = endpoint
        self._tasks = [asyncio.create_task(self._run()) for _ in range(workers)]
        self._stopping = False
        self.answered: list[str] = []
        self.refused: Counter[str] = Counter()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                result: Any = await self._gateway.infer(
                    self._endpoint,
                    inputs(X, ["UA"]),
                    headers=self._serving.headers,
                    client_timeout=60,
                )
            except InferenceServerException as error:
                self.refused[error.status()] += 1
                await asyncio.sleep(0.02)
            else:
                self.answered.append(request_id(result))

    async def more(self, count: int) -> None:
        """Return when that many further requests were answered."""
        wanted = len(self.answered) + count
        await eventually(lambda: len(self.answered) >= wanted, timeout=120)

    async def stop(self) -> None:
        """Let the last requests end."""
        self._stopping = True
        await asyncio.gather(*self._tasks)


async def test_answered_requests_have_one_row_each(serving: Serving, local_stack: Stack) -> None:
    name = await serving.create([await serving.add_version()])
    traffic = Traffic(serving, name, workers=4)
    await traffic.more(50)
    for victim in ("inference-sink", "kafka", "clickhouse"):
        local_stack.kill(victim)
        await traffic.more(50)
        await local_stack.wait_healthy(victim, timeout=120)
        await traffic.more(50)
    assert not traffic.refused, "what is behind the spool must not fail a request"
    for victim in ("inference", "triton", "inference"):
        local_stack.kill(victim)
        await local_stack.wait_healthy(victim, timeout=120)
        await traffic.more(50)
    await traffic.stop()
    rows = await rows_of(serving, name, traffic.answered, timeout=120)
    found = Counter(row["tessera_request_id"] for row in rows)
    doubled = [identifier for identifier, count in found.items() if count > 1]
    lost = set(traffic.answered) - set(found)
    assert (lost, doubled) == (set(), [])
    assert {row["status_code"] for row in rows} == {0}
    counts = await serving.statistics(name)
    assert counts.row_count == counts.distinct_request_count >= len(traffic.answered)
