"""Requests that flow while something is done to the platform."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from tests.helpers import eventually
from tests.integration.inference.requests import inputs
from tests.integration.inference.serving import Serving
from tests.integration.inference.test_inference_serving import X, request_id


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
