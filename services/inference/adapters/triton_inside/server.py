"""A Triton of this process: its beginning and end, and its models."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import psutil
from threadpoolctl import threadpool_limits

from services.inference.adapters.triton.region import SharedRegion, stale_regions
from services.inference.adapters.triton.settling import settled
from services.inference.adapters.triton_inside.interface import (
    EXPLICIT,
    STRING,
    TritonFailure,
    TritonLibrary,
)

__all__ = ["TritonPlace", "TritonServer"]

_log = logging.getLogger(__name__)

_RESPONSE_CACHE_BYTES: Final = 64 << 20
"""Memory for answers of models whose endpoint wants them kept."""
_EXIT_SECONDS: Final = 5
_ISO8601: Final = 1
_LOADS: Final = 4
"""Models that are loaded at once."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TritonPlace:
    """Where the parts of Triton are."""

    library: Path
    """`libtritonserver`."""
    backends: Path
    """The folder with a folder for each backend."""
    caches: Path
    """The folder with a folder for each response cache; one that is not there leaves it out."""
    models: Path
    """An empty folder, or one that can be made: models come with their files."""
    owner: Path
    """What no other process uses, as its data directory."""

    @property
    def region(self) -> str:
        """What the names of its shared memory begin with, and no other's."""
        return f"tessera_models_{hashlib.sha256(bytes(self.owner)).hexdigest()[:12]}_"


class TritonServer:
    """One Triton, that can be ended and started again.

    Models of its Python backend run in processes of their own, which inherit this process's
    environment and working directory.

    Args:
        place: Where its parts are.
    """

    def __init__(self, place: TritonPlace) -> None:
        self._place = place
        self._threads = ThreadPoolExecutor(_LOADS, "triton")
        self._running: set[Future[Any]] = set()
        self._changing = asyncio.Lock()
        self._handle: Any = None
        self.library = TritonLibrary(place.library)
        """Its interface."""

    @property
    def handle(self) -> Any:
        """What the interface knows it by.

        Raises:
            TritonFailure: It does not run.
        """
        if self._handle is None:
            raise TritonFailure(grpc.StatusCode.UNAVAILABLE, "Triton does not run")
        return self._handle

    async def start(self) -> None:
        """Start it; one that runs is left as it is.

        Raises:
            TritonFailure: It cannot start; the text says why.
        """
        async with self._changing:
            if self._handle is None:
                self._handle = await asyncio.to_thread(self._new)

    async def stop(self) -> None:
        """End it, and its models' processes with it: what it does ends first, for some seconds.

        Raises:
            TritonFailure: It cannot end, and none can be started in its place.
        """
        async with self._changing:
            handle, self._handle = self._handle, None
            if handle is not None:
                await settled()
                await asyncio.to_thread(self._delete, handle, frozenset(self._running))

    async def kill_models(self) -> None:
        """End the processes of all models at once: requests in them fail, and loads do."""
        await asyncio.to_thread(self._kill_models)

    async def load(self, name: str, config: str, files: Mapping[str, bytes]) -> None:
        """Load a model, or load it anew.

        Args:
            name: The model's.
            config: Triton's ModelConfig as JSON.
            files: Content by path, as `1/model.py`.

        Raises:
            TritonFailure: It cannot be loaded.
        """
        await self._thread(self._load, self.handle, name, config, files)

    async def unload(self, name: str) -> None:
        """Unload a model once the requests in it have ended.

        Raises:
            TritonFailure: There is none of this name.
        """
        unload = self.library.calls.TRITONSERVER_ServerUnloadModel
        handle = self.handle
        await self._thread(lambda: self.library.check(unload(handle, name.encode())))

    async def statistics(self) -> list[dict[str, Any]]:
        """What Triton has counted of each model that is ready, as its HTTP door tells it.

        Raises:
            TritonFailure: It does not run.
        """
        return await self._thread(self._statistics, self.handle)

    async def _thread(self, work: Callable[..., T], *arguments: Any) -> T:
        future = self._threads.submit(work, *arguments)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(future)

    def _new(self) -> Any:
        # Triton forks, upon which OpenBLAS ends its threads; beside a computation in them it waits
        # for one for ever, and every later load with it. So this process computes without them.
        threadpool_limits(1, user_api="blas")
        for region in stale_regions(self._place.region):
            # Of a process that was killed.
            SharedRegion.remove(region)
        self._place.models.mkdir(parents=True, exist_ok=True)
        ffi, calls, check = self.library.ffi, self.library.calls, self.library.check
        options = ffi.new("TRITONSERVER_ServerOptions**")
        check(calls.TRITONSERVER_ServerOptionsNew(options))
        try:
            self._set(options[0])
            server = ffi.new("TRITONSERVER_Server**")
            check(calls.TRITONSERVER_ServerNew(server, options[0]))
            return server[0]
        finally:
            check(calls.TRITONSERVER_ServerOptionsDelete(options[0]))

    def _delete(self, handle: Any, running: frozenset[Future[Any]]) -> None:
        # None of them may find it gone.
        if wait(running, _EXIT_SECONDS).not_done:
            _log.warning("Triton still loads a model, whose process is ended")
            self._kill_models()
            if wait(running, _EXIT_SECONDS).not_done:
                raise TritonFailure(grpc.StatusCode.UNAVAILABLE, "Triton still loads a model")
        delete = self.library.calls.TRITONSERVER_ServerDelete
        try:
            self.library.check(delete(handle))
        except TritonFailure as failure:
            # As it does after a model's process died. It waits but once.
            _log.warning("Triton did not end by itself: %s", failure)
            self._kill_models()
            self.library.check(delete(handle))

    def _kill_models(self) -> None:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if any(word.startswith(self._place.region) for word in child.cmdline()):
                    child.kill()

    def _set(self, options: Any) -> None:
        place = self._place

        def put(option: str, *values: Any) -> None:
            function = getattr(self.library.calls, f"TRITONSERVER_ServerOptionsSet{option}")
            self.library.check(function(options, *values))

        put("ModelRepositoryPath", bytes(place.models))
        put("ModelControlMode", EXPLICIT)
        put("BackendDirectory", bytes(place.backends))
        put("BackendConfig", b"python", b"shm-region-prefix-name", place.region.encode())
        if place.caches.is_dir():
            put("CacheDirectory", bytes(place.caches))
            # For the models that ask for it alone.
            size = json.dumps({"size": str(_RESPONSE_CACHE_BYTES)})
            put("CacheConfig", b"local", size.encode())
        # As its own program says them: without, a failed load was tried again without end at times.
        put("StrictModelConfig", False)
        put("ModelLoadThreadCount", _LOADS)
        put("ModelLoadRetryCount", 0)
        put("ModelNamespacing", False)
        put("EnablePeerAccess", True)
        # A model that fails or loads slowly must not make the server look dead.
        put("StrictReadiness", False)
        # It would be there otherwise, and refuse everything.
        put("ExitOnError", True)
        put("ExitTimeout", _EXIT_SECONDS)
        # The service counts for itself, and Triton's own counters have no door here.
        put("Metrics", False)
        put("LogInfo", False)
        put("LogFormat", _ISO8601)

    def _load(self, handle: Any, name: str, config: str, files: Mapping[str, bytes]) -> None:
        ffi, calls = self.library.ffi, self.library.calls
        text = ffi.new("char[]", config.encode())
        parameters = [calls.TRITONSERVER_ParameterNew(b"config", STRING, text)]
        try:
            parameters += [
                calls.TRITONSERVER_ParameterBytesNew(
                    f"file:{path}".encode(), ffi.from_buffer(content), len(content)
                )
                for path, content in files.items()
            ]
            told = ffi.new("TRITONSERVER_Parameter*[]", parameters)
            self.library.check(
                calls.TRITONSERVER_ServerLoadModelWithParameters(
                    handle, name.encode(), told, len(parameters)
                )
            )
        finally:
            for parameter in parameters:
                calls.TRITONSERVER_ParameterDelete(parameter)

    def _statistics(self, handle: Any) -> list[dict[str, Any]]:
        ffi, calls, check = self.library.ffi, self.library.calls, self.library.check
        message = ffi.new("TRITONSERVER_Message**")
        check(calls.TRITONSERVER_ServerModelStatistics(handle, b"", -1, message))
        try:
            text, size = ffi.new("const char**"), ffi.new("size_t*")
            check(calls.TRITONSERVER_MessageSerializeToJson(message[0], text, size))
            told: dict[str, Any] = json.loads(bytes(ffi.buffer(text[0], size[0])))
        finally:
            check(calls.TRITONSERVER_MessageDelete(message[0]))
        return list(told.get("model_stats", ()))
