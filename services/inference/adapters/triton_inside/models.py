"""Loads and unloads models in a Triton of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import grpc

from services.inference.adapters.triton.dead import DeadModels
from services.inference.adapters.triton.errors import load_failure
from services.inference.adapters.triton.settling import settled
from services.inference.adapters.triton_inside.interface import TritonFailure
from services.inference.adapters.triton_inside.server import TritonServer
from services.inference.errors import ModelNotServable, RuntimeUnavailable

__all__ = ["InsideModels"]

_LOAD_SECONDS: Final = 300.0


class InsideModels:
    """`ports.RuntimeModels` over a Triton of this process.

    Args:
        server: Runs it.
        dead: Told by who asks the models.
    """

    def __init__(self, server: TritonServer, dead: DeadModels | None = None) -> None:
        self._server = server
        self._dead = dead or DeadModels()

    async def load(self, name: str, config: str, files: Mapping[str, bytes]) -> None:
        """Load a model and return when it can be asked."""
        if name in self._dead:
            # Triton would find nothing changed, and leave it as it is.
            await self.unload(name)
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                await self._server.load(name, config, files)
        except TritonFailure as failure:
            raise _away(failure) or ModelNotServable(load_failure(failure.details)) from None
        except TimeoutError:
            raise ModelNotServable(
                load_failure(f"it was not ready after {_LOAD_SECONDS:.0f} seconds")
            ) from None
        self._dead.loaded(name)

    async def unload(self, name: str) -> None:
        """Unload a model; requests in it end first."""
        await settled()
        try:
            await self._server.unload(name)
        except TritonFailure as failure:
            away = _away(failure)
            if away is not None:
                raise away from None

    async def loaded(self) -> frozenset[str]:
        """Names of the models that answer."""
        return frozenset(await self.answered())

    async def answered(self) -> Mapping[str, int]:
        """How many requests each model that answers has answered since it was loaded."""
        try:
            told = await self._server.statistics()
        except TritonFailure as failure:
            raise _away(failure) or RuntimeUnavailable(failure.details) from None
        counts = {
            model["name"]: sum(
                int(model["inference_stats"][kind]["count"]) for kind in ("success", "fail")
            )
            for model in told
        }
        return {name: counts[name] for name in self._dead.without(counts)}


def _away(failure: TritonFailure) -> RuntimeUnavailable | None:
    if failure.code is grpc.StatusCode.UNAVAILABLE:
        return RuntimeUnavailable("the model runtime does not answer", retry_after=0.5)
    return None
