"""Loads and unloads models in Triton by its repository API; no disk is shared with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from services.inference.adapters.triton.dead import DeadModels
from services.inference.adapters.triton.errors import load_failure
from services.inference.adapters.triton.settling import settled
from services.inference.errors import ModelNotServable, RuntimeUnavailable

__all__ = ["TritonModels"]

_LOAD_SECONDS: Final = 300.0
_CALL_SECONDS: Final = 10.0
_AWAY: Final = frozenset({"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "Timeout"})


class TritonModels:
    """`ports.RuntimeModels` over Triton's gRPC door.

    Args:
        target: `host:port` of the door.
        dead: Told by who asks the models.
    """

    def __init__(self, target: str, dead: DeadModels | None = None) -> None:
        self._client = aio.InferenceServerClient(target)
        self._dead = dead or DeadModels()

    async def load(self, name: str, config: str, files: Mapping[str, bytes]) -> None:
        """Load a model and return when it can be asked."""
        if name in self._dead:
            # Triton would find nothing changed, and leave it as it is.
            await self.unload(name)
        try:
            await self._client.load_model(
                name,
                config=config,
                files={f"file:{path}": content for path, content in files.items()},
                client_timeout=_LOAD_SECONDS,
            )
        except InferenceServerException as error:
            raise _away(error) or ModelNotServable(_reason(error)) from None
        self._dead.loaded(name)

    async def unload(self, name: str) -> None:
        """Unload a model; requests in it end first."""
        await settled()
        try:
            await self._client.unload_model(name, client_timeout=_CALL_SECONDS)
        except InferenceServerException as error:
            away = _away(error)
            if away is not None:
                raise away from None

    async def loaded(self) -> frozenset[str]:
        """Names of the models that answer."""
        return frozenset(await self.answered())

    async def answered(self) -> Mapping[str, int]:
        """How many requests each model that answers has answered since it was loaded."""
        # The repository's index does not list models that were loaded with their files; the
        # statistics list every model that is ready.
        try:
            statistics: Any = await self._client.get_inference_statistics(
                client_timeout=_CALL_SECONDS
            )
        except InferenceServerException as error:
            raise _away(error) or RuntimeUnavailable(_reason(error)) from None
        counts = {
            model.name: model.inference_stats.success.count + model.inference_stats.fail.count
            for model in statistics.model_stats
        }
        return {name: counts[name] for name in self._dead.without(counts)}

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


def _away(error: InferenceServerException) -> RuntimeUnavailable | None:
    if error.status() in _AWAY:
        return RuntimeUnavailable("the model runtime does not answer", retry_after=0.5)
    return None


def _reason(error: InferenceServerException) -> str:
    return load_failure(error.message() or "")
