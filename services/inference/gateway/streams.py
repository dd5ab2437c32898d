"""ModelStreamInfer: any number of requests on one call, each with any number of responses.

Each request is told apart, checked and recorded as one of ModelInfer is. A failure is told in the
stream, which goes on; only a caller without a valid token, or one that asks for it as Triton's
clients can (metadata `triton_grpc_error`), gets it as the status of the whole call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc
from google.rpc import status_pb2
from tritonclient.grpc import service_pb2

from services.inference.domain.fields import message_field
from services.inference.domain.request_id import ID_PARAMETER
from services.inference.errors import TooManyInferences
from services.inference.gateway.asking import ending_of
from services.inference.gateway.assembly import Assembly
from services.inference.gateway.dispatch import Dispatcher
from services.inference.gateway.infer import (
    CODES,
    REQUEST_ID_KEY,
    InferenceHandler,
    InferenceLimits,
    deadline_passed,
)
from services.inference.gateway.recorder import Recorder
from services.inference.gateway.records import LARGEST_BODY, Exchange
from services.inference.gateway.routing import Route
from services.inference.gateway.sequences import sequence_in
from services.inference.gateway.status import public_status
from tessera_kit.errors import Unauthenticated
from tessera_kit.rpc.status import trailing_metadata_of

__all__ = ["StreamHandler", "StreamLimits"]

Context = grpc.aio.ServicerContext[Any, Any]

_AS_STATUS: Final = "triton_grpc_error"
_STATUS: Final = "tessera_status_code"
"""Parameter of a failure in a stream: its gRPC status code."""
_INFER_RESPONSE: Final = 2
_RETRY_SECONDS: Final = 0.05
_OK: Final = 0


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of streams."""

    at_once: int = 64
    """Requests of one stream at once; it is not read while there are as many."""
    held_bytes: int = 256 << 20
    """Bytes of all streams' requests, and of their responses for the record, at once."""
    longest_seconds: float = 3600.0
    """How long a streamed answer may take whose caller set no deadline, or a later one."""


class _StreamEnds(Exception):
    """A failure that is told as the status of the call."""

    def __init__(self, request_id: str, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.request_id = request_id
        self.status = status


class StreamHandler:
    """Answers ModelStreamInfer on raw bytes; one per gateway.

    Args:
        infer: What is done with every request.
        dispatcher: Asks the models.
        recorder: Keeps the records.
        requests: Bounds of requests.
        limits: Bounds of streams.
    """

    def __init__(
        self,
        infer: InferenceHandler,
        dispatcher: Dispatcher,
        recorder: Recorder,
        requests: InferenceLimits,
        limits: StreamLimits,
    ) -> None:
        self.infer = infer
        self.dispatcher = dispatcher
        self.recorder = recorder
        self.requests = requests
        self.limits = limits
        self.held = 0
        """Bytes of all streams' requests, and of their responses for the record."""

    async def stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answer serialised `inference.ModelInferRequest` messages as they come."""
        failures: list[Exception] = []
        try:
            await _Stream(self, context).answer_all(requests)
        except* Exception as group:
            failures.extend(group.exceptions)
        if not failures:
            return
        ending = failures[0]
        if not isinstance(ending, _StreamEnds):
            raise ending
        status = ending.status
        context.set_trailing_metadata(
            ((REQUEST_ID_KEY, ending.request_id), trailing_metadata_of(status))
        )
        await context.abort(CODES[status.code], status.message)


class _Stream:
    """One call."""

    def __init__(self, handler: StreamHandler, context: Context) -> None:
        self._handler = handler
        self._infer = handler.infer
        self._context = context
        self._metadata = context.invocation_metadata() or ()
        self._as_status = any(
            name == _AS_STATUS and value == "true" for name, value in self._metadata
        )
        self._places = asyncio.Semaphore(handler.limits.at_once)
        self._writing = asyncio.Lock()
        self._sequences: dict[str, asyncio.Task[None]] = {}

    async def answer_all(self, requests: AsyncIterator[bytes]) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for data in requests:
                await self._places.acquire()
                sequence = sequence_in(data)
                before = self._sequences.get(sequence) if sequence else None
                task = tasks.create_task(self._answer(data, before))
                if sequence:
                    self._sequences[sequence] = task
                    task.add_done_callback(partial(self._forget, sequence))

    def _forget(self, sequence: str, task: asyncio.Task[None]) -> None:
        if self._sequences.get(sequence) is task:
            del self._sequences[sequence]

    async def _answer(self, data: bytes, before: asyncio.Task[None] | None) -> None:
        """Answer a request, after the one before it in its sequence."""
        exchange, call = self._infer.begin(data, self._metadata)
        whole = Assembly(LARGEST_BODY)
        self._handler.held += len(data)
        code = CODES[_OK].name
        try:
            if before is not None:
                await asyncio.wait([before])
            await self._ask(exchange, whole)
        except asyncio.CancelledError:
            code = self._infer.keep_cancelled(
                exchange, deadline_passed(self._context), self._reply(exchange, whole)
            )
            self._handler.recorder.end(exchange)
            raise
        except Exception as error:
            status = public_status(error)
            code = CODES[status.code].name
            self._handler.recorder.keep_failure(
                exchange, status.code, status.message, self._reply(exchange, whole)
            )
            self._handler.recorder.end(exchange)
            if self._as_status or isinstance(error, Unauthenticated):
                raise _StreamEnds(exchange.request_id, status) from None
            await self._write(_failure(exchange, status))
        finally:
            self._handler.held -= len(data) + whole.size
            self._infer.end(exchange, call, code)
            self._places.release()

    async def _ask(self, exchange: Exchange, whole: Assembly) -> None:
        request, route = await self._infer.admit(exchange, self._metadata)
        if self._handler.held > self._handler.limits.held_bytes:
            raise TooManyInferences(
                "the gateway holds as many bytes of streams as it may", retry_after=_RETRY_SECONDS
            )
        timeout = self._timeout(route)
        dispatcher, recorder = self._handler.dispatcher, self._handler.recorder
        if not route.signature.streams:
            reply = await dispatcher.ask(exchange, route, request, self._metadata, timeout)
            recorder.keep(exchange, reply, _OK, "")
            await self._write(message_field(_INFER_RESPONSE, reply))
            return
        recorder.begin(exchange)
        asking = partial(recorder.note_asking, exchange)
        responses = dispatcher.stream(exchange, route, request, self._metadata, timeout, asking)
        answering = False
        async with aclosing(responses):
            async for response in responses:
                if not answering:
                    recorder.note_answering(exchange)
                    answering = True
                self._keep(whole, response)
                await self._write(message_field(_INFER_RESPONSE, response + ending_of(exchange)))
        recorder.keep(exchange, self._reply(exchange, whole), _OK, "")
        recorder.end(exchange)

    def _keep(self, whole: Assembly, response: bytes) -> None:
        self._handler.held += whole.add(response)
        if self._handler.held > self._handler.limits.held_bytes:
            self._handler.held += whole.cut()

    def _reply(self, exchange: Exchange, whole: Assembly) -> bytes:
        """What the record holds of a streamed answer; empty when there was none."""
        exchange.reply_cut = whole.is_cut
        if whole.is_cut or not exchange.chunk_times_us:
            return b""
        return whole.response() + ending_of(exchange)

    def _timeout(self, route: Route) -> float:
        streams = route.signature.streams
        longest = (self._handler.limits if streams else self._handler.requests).longest_seconds
        left = self._context.time_remaining()
        return longest if left is None or left > longest else left

    async def _write(self, message: bytes) -> None:
        # One at a time: each waits here while the caller does not read.
        async with self._writing:
            await self._context.write(message)


def _failure(exchange: Exchange, status: status_pb2.Status) -> bytes:
    """How a failed request is told in the stream."""
    response: Any = service_pb2.ModelStreamInferResponse(error_message=status.message or "failed")
    about = response.infer_response
    about.id = exchange.client_request_id
    about.model_name = exchange.endpoint
    about.parameters[_STATUS].int64_param = status.code
    about.parameters[ID_PARAMETER].string_param = exchange.request_id
    return bytes(response.SerializeToString())
