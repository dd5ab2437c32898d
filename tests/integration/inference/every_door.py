"""One caller at each of the gateway's doors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
from tritonclient.utils import InferenceServerException

from tessera import AsyncClient
from tessera_kit.config import Secret
from tessera_kit.errors import NotFound
from tests.e2e.world import settings_of
from tests.integration.inference.requests import inputs
from tests.integration.inference.serving import Serving

__all__ = ["asked_by_every_door"]


@asynccontextmanager
async def asked_by_every_door(
    serving: Serving, endpoint: str, token: str, x: list[list[float]]
) -> AsyncIterator[dict[str, Callable[[], Awaitable[bool]]]]:
    """How a caller asks an endpoint by each of the gateway's doors; each tells whether it may."""
    headers = {"authorization": f"Bearer {token}"}
    url = serving.stack.urls["gateway_http"]
    row = {"x": x[0], "carrier": "UA"}
    tensors = [
        {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": x[0]},
        {"name": "carrier", "datatype": "BYTES", "shape": [1, 1], "data": ["UA"]},
    ]
    settings = replace(settings_of(serving.stack), token=Secret(token))
    async with AsyncClient(settings) as client, aiohttp.ClientSession(headers=headers) as web:

        async def infer() -> bool:
            try:
                await serving.gateway.infer(endpoint, inputs(x, ["UA"]), headers=headers)
            except InferenceServerException as error:
                assert "EXECUTE" in error.message()
                return False
            return True

        async def predict() -> bool:
            try:
                await client.inference.predict_rows(endpoint, [row])
            except NotFound:
                return False
            return True

        async def stream() -> bool:
            async def one() -> AsyncIterator[dict[str, Any]]:
                yield {"model_name": endpoint, "inputs": inputs(x, ["UA"])}

            answers = serving.gateway.stream_infer(one(), headers=headers)
            return [error async for _, error in answers] == [None]

        def post(path: str, body: Any) -> Callable[[], Awaitable[bool]]:
            async def ask() -> bool:
                async with web.post(f"{url}{path}", json=body) as answer:
                    assert answer.status in (200, 404), await answer.text()
                    return answer.status == 200

            return ask

        yield {
            "ModelInfer": infer,
            "ModelStreamInfer": stream,
            "Predict": predict,
            "/v2": post(f"/v2/models/{endpoint}/infer", {"inputs": tensors}),
            "/invocations": post(
                f"/serving-endpoints/{endpoint}/invocations", {"dataframe_records": [row]}
            ),
        }
