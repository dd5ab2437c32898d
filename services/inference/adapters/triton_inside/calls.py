"""The hot path to a Triton of this process.

What Triton's threads have to tell (an answer, a request they need no more) comes by a `Relay`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from itertools import count
from pathlib import Path
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2

from services.inference.adapters.triton.dead import DeadModels
from services.inference.adapters.triton.errors import runtime_error
from services.inference.adapters.triton_inside import requests
from services.inference.adapters.triton_inside.interface import TritonFailure
from services.inference.adapters.triton_inside.relay import CompiledRelay, PythonRelay, Relay
from services.inference.adapters.triton_inside.responses import ResponseReader
from services.inference.adapters.triton_inside.server import TritonServer
from services.inference.domain.fields import message_field, text_field
from services.inference.errors import InferenceTimeout, ModelFailed, TooManyInferences
from tessera_kit.errors import TesseraError

__all__ = ["TritonCalls"]

_log = logging.getLogger(__name__)
_PARAMETERS: Final = service_pb2.ModelInferResponse.PARAMETERS_FIELD_NUMBER
_IS_FINAL, _IS_NOT_FINAL = (
    message_field(
        _PARAMETERS, text_field(1, "triton_final_response") + message_field(2, b"\x08" + value)
    )
    for value in (b"\x01", b"\x00")
)
"""What Triton's gRPC door says of each response of a stream: whether it is the last."""
_WANTS_FINAL: Final = "triton_enable_empty_final_response"
_DRAIN_SECONDS: Final = 5.0
_LATE: Final = "the deadline passed before the model answered"


class _Call:
    """A request from its beginning until Triton needs nothing of it any more."""

    __slots__ = (
        "buffers",
        "ended",
        "failure",
        "given_up",
        "released",
        "replies",
        "request",
        "streams",
        "told",
        "unread",
        "waiter",
    )

    def __init__(self, request: Any, told: Any, *, streams: bool) -> None:
        self.request = request
        """The interface's."""
        self.told = told
        """An `inference.ModelInferRequest`, whose contents may be missing."""
        self.streams = streams
        """Whether each answer says whether it is the last."""
        self.buffers: list[Any] = []
        """What Triton reads the inputs from, until the request is released."""
        self.replies: deque[bytes] = deque()
        """Answers that nobody has taken yet."""
        self.unread = 0
        """Their bytes."""
        self.failure: TesseraError | None = None
        """What ended it."""
        self.given_up = False
        """Whether nobody waits for it any more."""
        self.ended = False
        """Whether Triton has given its last answer."""
        self.released = False
        """Whether Triton needs the request no more."""
        self.waiter: asyncio.Future[None] | None = None

    def take(self) -> bytes:
        """The next of the answers."""
        reply = self.replies.popleft()
        self.unread -= len(reply)
        return reply

    def tell(self) -> None:
        """Wake who waits for an answer or the end."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class TritonCalls:
    """Asks Triton; see `ports.Runtime`. Made where a loop runs, and for that loop alone.

    Args:
        server: Runs it.
        max_message_bytes: Largest response; of a stream, most bytes that wait to be read.
        relay: From `relay.compiled`.
        dead: Told of models that died.
    """

    def __init__(
        self,
        server: TritonServer,
        *,
        max_message_bytes: int,
        relay: Path | None = None,
        dead: DeadModels | None = None,
    ) -> None:
        self._server = server
        self._dead = dead or DeadModels()
        self._library = server.library
        self._max_message_bytes = max_message_bytes
        self._loop = asyncio.get_running_loop()
        self._reader = ResponseReader(server.library)
        self._calls: dict[int, _Call] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._relay: Relay = (
            PythonRelay(server.library, self._listen)
            if relay is None
            else CompiledRelay(server.library, self._listen, relay)
        )
        self._keys = count(self._relay.first)
        ffi = self._library.ffi
        self._allocator = ffi.new("TRITONSERVER_ResponseAllocator**")
        self._library.check(
            self._library.calls.TRITONSERVER_ResponseAllocatorNew(
                self._allocator, self._relay.allocate, self._relay.free, ffi.NULL
            )
        )

    async def infer(
        self, request: bytes, timeout: float | None, suffix: bytes = b"", ending: bytes = b""
    ) -> bytes:
        """Send a serialised request and what follows it; return the response, and what follows."""
        key, call = self._begin(request, suffix)
        late = False

        def expire() -> None:
            nonlocal late
            late = True
            call.tell()

        timer = None if timeout is None else self._loop.call_later(timeout, expire)
        try:
            while not (call.ended or call.failure or late):
                call.waiter = self._loop.create_future()
                await call.waiter
        finally:
            if timer is not None:
                timer.cancel()
            if not call.ended:
                self._give_up(key, call)
        if call.failure is not None:
            raise call.failure
        if not call.ended:
            raise InferenceTimeout(_LATE)
        if len(call.replies) != 1:
            raise ModelFailed(f"the model failed: it gave {len(call.replies)} responses, not one")
        return call.replies[0] + ending if ending else call.replies[0]

    async def stream(self, request: bytes, timeout: float) -> AsyncGenerator[bytes]:
        """Send a serialised request and return its serialised responses."""
        deadline = self._loop.time() + timeout
        key, call = self._begin(request, b"", streams=True)
        try:
            while True:
                while call.replies:
                    yield call.take()
                if call.failure is not None:
                    raise call.failure
                if call.ended:
                    return
                call.waiter = self._loop.create_future()
                async with asyncio.timeout_at(deadline):
                    await call.waiter
        except TimeoutError:
            raise InferenceTimeout(_LATE) from None
        finally:
            if not call.ended:
                self._give_up(key, call)

    async def close(self) -> None:
        """Give all requests up, and ask nothing more."""
        await self.drain()
        self._relay.close()

    async def drain(self) -> None:
        """Give all requests up, and return when Triton needs nothing of them any more.

        Models that do not let go of theirs are ended.
        """
        for key, call in list(self._calls.items()):
            if not call.ended:
                call.failure = runtime_error(grpc.StatusCode.CANCELLED, "")
                self._give_up(key, call)
                call.tell()
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("%d requests do not end: their models are ended", len(self._calls))
            await self._server.kill_models()
            await self._idle.wait()

    def _begin(self, request: bytes, suffix: bytes, *, streams: bool = False) -> tuple[int, _Call]:
        told = requests.read(request, suffix)
        try:
            return self._ask(told, streams)
        except TritonFailure as failure:
            raise self._error(failure) from None

    def _ask(self, told: requests.Told, streams: bool) -> tuple[int, _Call]:
        library, calls, ffi = self._library, self._library.calls, self._library.ffi
        handle, head = self._server.handle, told.head
        made = ffi.new("TRITONSERVER_InferenceRequest**")
        library.check(
            calls.TRITONSERVER_InferenceRequestNew(
                made, handle, head.model_name.encode(), requests.version_of(head)
            )
        )
        call = _Call(made[0], head, streams=streams)
        key = next(self._keys)
        mark = ffi.cast("void*", key)
        try:
            call.buffers = requests.put(library, call.request, told)
            library.check(
                calls.TRITONSERVER_InferenceRequestSetReleaseCallback(
                    call.request, self._relay.release, mark
                )
            )
            library.check(
                calls.TRITONSERVER_InferenceRequestSetResponseCallback(
                    call.request, self._allocator[0], ffi.NULL, self._relay.respond, mark
                )
            )
            library.check(calls.TRITONSERVER_ServerInferAsync(handle, call.request, ffi.NULL))
        except Exception:
            # It is this side's again, and no callback comes.
            library.check(calls.TRITONSERVER_InferenceRequestDelete(call.request))
            raise
        self._calls[key] = call
        self._idle.clear()
        return key, call

    def _give_up(self, key: int, call: _Call) -> None:
        """Tell Triton that nobody waits; what it says of the call later ends it."""
        call.given_up = True
        call.replies.clear()
        if key in self._calls and not call.released:
            cancel = self._library.calls.TRITONSERVER_InferenceRequestCancel
            error = cancel(call.request)
            if error:
                self._library.calls.TRITONSERVER_ErrorDelete(error)

    def _listen(self, key: int, response: Any, ends: bool, released: bool) -> None:
        """Take what Triton tells of a call."""
        call = self._calls[key]
        if response is not None:
            self._take(key, call, response, ends)
        elif ends and call.streams and call.told.parameters[_WANTS_FINAL].bool_param:
            call.replies.append(_empty(call.told) + _IS_FINAL)
        if released:
            call.released = True
            self._library.calls.TRITONSERVER_InferenceRequestDelete(call.request)
            call.buffers.clear()
        if ends:
            call.ended = True
        if call.ended and call.released:
            del self._calls[key]
            if not self._calls:
                self._idle.set()
        if response is not None or ends:
            call.tell()

    def _error(self, failure: TritonFailure) -> TesseraError:
        self._dead.note(failure.details)
        return runtime_error(failure.code, failure.details)

    def _take(self, key: int, call: _Call, response: Any, ends: bool) -> None:
        """Keep an answer for who waits for it."""
        try:
            if not call.given_up:
                ending = b"" if not call.streams else _IS_FINAL if ends else _IS_NOT_FINAL
                message = self._reader.read(response, call.told.id, ending)
                if call.unread + len(message) > self._max_message_bytes:
                    call.failure = TooManyInferences(
                        "the responses are too large, or are read too slowly", retry_after=0.5
                    )
                    self._give_up(key, call)
                else:
                    call.replies.append(message)
                    call.unread += len(message)
        except TritonFailure as failure:
            call.failure = self._error(failure)
        except Exception:
            # What Triton told behind it is heard all the same.
            _log.exception("an answer of a model cannot be read")
            call.failure = ModelFailed("the model failed: its answer cannot be read")
        finally:
            self._library.calls.TRITONSERVER_InferenceResponseDelete(response)


def _empty(told: Any) -> bytes:
    """A response without outputs, serialised."""
    message: Any = service_pb2.ModelInferResponse(
        model_name=told.model_name, model_version=told.model_version, id=told.id
    )
    return bytes(message.SerializeToString())
