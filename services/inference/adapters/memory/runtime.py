"""Twins in memory of the model runtime, its bundles and its secrets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from tritonclient.grpc import service_pb2

from services.inference.errors import (
    InferenceTimeout,
    ModelNotLoaded,
    ModelNotServable,
    RuntimeUnavailable,
    SecretNotFound,
)
from services.inference.runtime.bundle import ModelBundle
from tessera_kit.config import Secret

__all__ = ["InMemoryBundles", "InMemoryProcess", "InMemoryRuntime", "InMemorySecrets"]


class InMemorySecrets:
    """`ports.Secrets` that a test puts in."""

    def __init__(self) -> None:
        self._secrets: dict[tuple[str, str], tuple[str, frozenset[str]]] = {}

    def put(self, scope: str, key: str, value: str, *readers: str) -> None:
        """Keep a secret."""
        self._secrets[scope, key] = (value, frozenset(readers))

    async def read(self, principal: str, scope: str, key: str) -> Secret:
        """Read a secret."""
        value, readers = self._secrets.get((scope, key), ("", frozenset()))
        if not {"*", principal} & readers:
            raise SecretNotFound(f"there is no secret {scope}/{key} that {principal!r} may read")
        return Secret(value)


class InMemoryBundles:
    """`ports.Bundles`."""

    def __init__(self) -> None:
        self._bundles: dict[str, ModelBundle] = {}

    async def get(self, name: str) -> ModelBundle | None:
        """The bundle of a model; None when it is not here."""
        return self._bundles.get(name)

    async def put(self, name: str, bundle: ModelBundle) -> None:
        """Keep a bundle."""
        self._bundles[name] = bundle

    async def keep_only(self, names: frozenset[str]) -> None:
        """Remove the bundles of all other models."""
        self._bundles = {name: one for name, one in self._bundles.items() if name in names}


class InMemoryRuntime:
    """`ports.RuntimeModels` and `ports.Runtime`: models are functions of the request's bytes.

    Args:
        answer: What every loaded model answers.
    """

    def __init__(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._answer = answer
        self._models: dict[str, tuple[str, Mapping[str, bytes]]] = {}
        self._answered: Counter[str] = Counter()
        self._inside: Counter[str] = Counter()
        self._leaving: set[str] = set()
        self._refused: list[tuple[bytes, str]] = []
        self.up = True
        self.streamed: Callable[[bytes], AsyncGenerator[bytes]] | None = None

    def refuse(self, content: bytes, reason: str) -> None:
        """Let every load of a model whose files hold this content fail."""
        self._refused.append((content, reason))

    def files(self, name: str) -> Mapping[str, bytes]:
        """The files that a loaded model was loaded with."""
        return self._models[name][1]

    def config(self, name: str) -> str:
        """The configuration that a loaded model was loaded with."""
        return self._models[name][0]

    def has(self, name: str) -> bool:
        """Whether a model is loaded."""
        return name in self._models

    def restart(self) -> None:
        """Lose every model, as a killed runtime does."""
        self._models.clear()

    async def load(self, name: str, config: str, files: Mapping[str, bytes]) -> None:
        """Load a model."""
        self._check_up()
        for content, reason in self._refused:
            if any(content in file for file in files.values()):
                raise ModelNotServable(reason)
        self._models[name] = (config, files)
        self._answered[name] = 0

    async def unload(self, name: str) -> None:
        """Unload a model."""
        self._check_up()
        self._leaving.add(name)
        while self._inside[name]:  # noqa: ASYNC110 - nobody tells, in a twin
            await asyncio.sleep(0)
        self._leaving.discard(name)
        self._models.pop(name, None)

    async def loaded(self) -> frozenset[str]:
        """Names of the models that answer."""
        self._check_up()
        return frozenset(self._models)

    async def answered(self) -> Mapping[str, int]:
        """How many requests each model that answers has answered since it was loaded."""
        self._check_up()
        return {name: self._answered[name] for name in self._models}

    async def infer(
        self, request: bytes, timeout: float | None, suffix: bytes = b"", ending: bytes = b""
    ) -> bytes:
        """Answer with the function."""
        self._check_up()
        request += suffix
        name = service_pb2.ModelInferRequest.FromString(request).model_name
        if name in self._leaving:
            raise ModelNotLoaded(f"{name} is being unloaded")
        self._inside[name] += 1
        try:
            async with asyncio.timeout(timeout):
                return await self._answer(request) + ending
        except TimeoutError:
            raise InferenceTimeout("the deadline passed before the model answered") from None
        finally:
            self._inside[name] -= 1
            self._answered[name] += 1

    async def stream(self, request: bytes, timeout: float) -> AsyncGenerator[bytes]:
        """Answer with the responses that `streamed` gives, the function's one when it is None."""
        self._check_up()
        if self.streamed is None:
            yield await self.infer(request, timeout)
            return
        deadline = asyncio.get_running_loop().time() + timeout
        responses = self.streamed(request)
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    response = await anext(responses, None)
                if response is None:
                    return
                yield response
        except TimeoutError:
            raise InferenceTimeout("the deadline passed before the model answered") from None
        finally:
            await responses.aclose()

    def _check_up(self) -> None:
        if not self.up:
            raise RuntimeUnavailable("the model runtime does not answer")


class InMemoryProcess:
    """`ports.RuntimeProcess` of a runtime in memory, which loses its models when it ends.

    Args:
        runtime: The runtime.
        size: Bytes; None for a process on another machine.
    """

    def __init__(self, runtime: InMemoryRuntime, size: int | None) -> None:
        self.size = size
        self.ended = 0
        self._runtime = runtime

    async def memory(self) -> int | None:
        """Resident bytes of it."""
        return self.size

    async def end(self) -> None:
        """End it; it is started again at once."""
        self.ended += 1
        self._runtime.restart()
