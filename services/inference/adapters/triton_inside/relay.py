"""From Triton's threads to the event loop: answers, and requests that Triton needs no more.

Two ways with the same words. The compiled one (`relay.c`) is taken where the machine has a C
compiler. A thread that runs Python holds the interpreter's lock, and on a busy machine it can lose
its processor while it does; then the loop waits for both.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import shutil
import struct
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from services.inference.adapters.triton_inside.interface import CPU, FINAL, TritonLibrary

__all__ = ["CompiledRelay", "Listen", "PythonRelay", "Relay", "compiled"]

_log = logging.getLogger(__name__)

_SOURCE: Final = Path(__file__).with_name("relay.c")
_COMPILE_SECONDS: Final = 60.0
_WORD: Final = struct.Struct("<QQQ")
_RELEASED: Final = 1 << 32
_PIPE_SHIFT: Final = 40
_READ_BYTES: Final = 1024 * _WORD.size
_PIPE_BYTES: Final = 1 << 20
"""What waits to be read at most, if the machine allows so much: who writes more waits, and the loop
writes too, where Triton answers a request at once from its cache."""
_DECLARATIONS: Final = """
TRITONSERVER_Error* relay_allocate(
    TRITONSERVER_ResponseAllocator*, const char*, size_t, int, int64_t, void*,
    void**, void**, int*, int64_t*);
TRITONSERVER_Error* relay_free(
    TRITONSERVER_ResponseAllocator*, void*, void*, size_t, int, int64_t);
void relay_respond(TRITONSERVER_InferenceResponse*, uint32_t, void*);
void relay_release(TRITONSERVER_InferenceRequest*, uint32_t, void*);
"""

Listen = Callable[[int, Any, bool, bool], None]
"""Told in the loop: the call, a response or None, whether that is the last, and whether Triton
needs the request no more."""


class Relay(Protocol):
    """What Triton is given to call, and tells a listener in the loop."""

    allocate: Any
    """`TRITONSERVER_ResponseAllocatorAllocFn_t`"""
    free: Any
    """`TRITONSERVER_ResponseAllocatorReleaseFn_t`"""
    respond: Any
    """`TRITONSERVER_InferenceResponseCompleteFn_t`; its user pointer is the call's number."""
    release: Any
    """`TRITONSERVER_InferenceRequestReleaseFn_t`; likewise."""

    @property
    def first(self) -> int:
        """The number from which calls are counted."""
        ...

    def close(self) -> None:
        """Tell nothing any more; Triton must have nothing to tell."""


def compiled(folder: Path) -> Path | None:
    """The relay as a shared object, made where it is not yet; None where it cannot be made.

    Args:
        folder: Where it is kept.
    """
    source = _SOURCE.read_bytes()
    path = folder / f"relay-{hashlib.sha256(source).hexdigest()[:12]}.so"
    if path.is_file():
        return path
    compiler = shutil.which("cc")
    if compiler is None:
        _log.info("answers pass through Python, as there is no C compiler `cc`")
        return None
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", unfinished, _SOURCE],
            check=True,
            capture_output=True,
            timeout=_COMPILE_SECONDS,
        )
        unfinished.replace(path)
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("answers pass through Python, as %s failed: %s", compiler, error)
        unfinished.unlink(missing_ok=True)
        return None
    return path


class CompiledRelay:
    """See `relay.c`. Made where a loop runs.

    Args:
        library: Triton's interface.
        listen: Told what Triton tells.
        path: From `compiled`.
    """

    def __init__(self, library: TritonLibrary, listen: Listen, path: Path) -> None:
        self._listen = listen
        self._cast = library.ffi.cast
        self._loop = asyncio.get_running_loop()
        library.declare(_DECLARATIONS)
        # Keeps it loaded.
        self._object: Any = library.ffi.dlopen(str(path))
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        with suppress(OSError):
            fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._loop.add_reader(self._reading, self._read)
        address = library.ffi.addressof
        self.allocate = address(self._object, "relay_allocate")
        self.free = address(self._object, "relay_free")
        self.respond = address(self._object, "relay_respond")
        self.release = address(self._object, "relay_release")

    @property
    def first(self) -> int:
        """The number from which calls are counted."""
        return self._writing << _PIPE_SHIFT

    def close(self) -> None:
        """Close the pipe."""
        self._loop.remove_reader(self._reading)
        os.close(self._reading)
        os.close(self._writing)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            told = os.read(self._reading, _READ_BYTES)
            for call, response, flags in _WORD.iter_unpack(told):
                self._listen(
                    call,
                    self._cast("TRITONSERVER_InferenceResponse*", response) if response else None,
                    bool(flags & FINAL),
                    bool(flags & _RELEASED),
                )


class PythonRelay:
    """Functions of Python, which Triton's threads run. Made where a loop runs.

    Args:
        library: Triton's interface.
        listen: Told what Triton tells.
    """

    def __init__(self, library: TritonLibrary, listen: Listen) -> None:
        self._listen = listen
        self._library = library
        self._loop = asyncio.get_running_loop()
        self._told: deque[tuple[int, Any, bool, bool]] = deque()
        self._woken = False
        callback = library.ffi.callback
        self.allocate = callback("allocate_t", self._allocate)
        self.free = callback("free_t", self._free)
        self.respond = callback("response_t", self._respond)
        self.release = callback("release_t", self._release)

    @property
    def first(self) -> int:
        """The number from which calls are counted."""
        return 1

    def close(self) -> None:
        """Nothing is left to close."""

    def _tell(self, call: Any, response: Any, ends: bool, released: bool) -> None:
        number = int(self._library.ffi.cast("uintptr_t", call))
        self._told.append((number, response, ends, released))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # First, so that what is told from now on wakes the loop again.
        self._woken = False
        while self._told:
            self._listen(*self._told.popleft())

    def _respond(self, response: Any, flags: int, call: Any) -> None:
        if response or flags:
            self._tell(call, response or None, bool(flags & FINAL), False)

    def _release(self, _request: Any, _flags: int, call: Any) -> None:
        self._tell(call, None, False, True)

    def _allocate(
        self,
        _allocator: Any,
        _name: Any,
        size: int,
        _kind: int,
        _kind_id: int,
        _call: Any,
        buffer: Any,
        buffer_mark: Any,
        kind: Any,
        kind_id: Any,
    ) -> Any:
        null = self._library.ffi.NULL
        buffer[0] = self._library.memory.malloc(size) if size else null
        buffer_mark[0], kind[0], kind_id[0] = null, CPU, 0
        return null

    def _free(
        self, _allocator: Any, buffer: Any, _mark: Any, _size: int, _kind: int, _kind_id: int
    ) -> Any:
        self._library.memory.free(buffer)
        return self._library.ffi.NULL
