"""One call at the door: what its handler sees, and what of it is not sent yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol

import grpc

from services.inference.adapters.wire.heads import CallHead, Metadata
from services.inference.adapters.wire.messages import MessageReader, Piece

__all__ = ["CallAborted", "CallConnection", "ServedCall"]


class CallAborted(Exception):
    """Raised by `ServedCall.abort`; ends the call with the status that it was given."""


class CallConnection(Protocol):
    """The connection that a call came by, as the call and who answers it see it."""

    peer: str
    """Where the caller is, as `ipv4:host:port`."""
    ahead: int
    """Bytes of a streamed response that may wait for the caller before its handler does."""

    async def plain(self, call: ServedCall, message: bytes, compressed: bool) -> bytes:
        """A message as it was before it was compressed."""

    def consumed(self, call: ServedCall) -> None:
        """Let the caller send more: the handler has taken a message."""

    def reply(self, call: ServedCall, message: bytes) -> None:
        """Send the one message of a response and OK."""

    def send_message(self, call: ServedCall, message: bytes) -> None:
        """Send a message, or keep it until the caller has room."""

    def finish(self, call: ServedCall, code: grpc.StatusCode, details: str) -> None:
        """End a call with its status, after what is pending of it."""

    def over(self, call: ServedCall) -> None:
        """The handler's task has ended."""


class ServedCall:
    """A call that is being answered: the context of its handler, after `grpc.aio`'s.

    Args:
        connection: Where it came.
        stream: Its number there.
        head: Its headers.
        deadline: When it must end, on the loop's clock; None for no end.
        send_window: Bytes that the caller takes now.
        receive_window: Bytes that the caller may send now.
    """

    __slots__ = (
        "_arrived",
        "_connection",
        "_room",
        "_serialize",
        "_trailing",
        "begun",
        "code",
        "deadline",
        "details",
        "ended",
        "failure",
        "head",
        "heard",
        "held",
        "initial",
        "message",
        "messages",
        "method",
        "pending",
        "pending_bytes",
        "queued",
        "reader",
        "receive_window",
        "received",
        "request_ended",
        "send_window",
        "stream",
        "taken",
        "task",
        "timer",
        "trailers",
    )

    def __init__(
        self,
        connection: CallConnection,
        stream: int,
        head: CallHead,
        deadline: float | None,
        send_window: int,
        receive_window: int,
    ) -> None:
        self._connection = connection
        self.stream = stream
        self.head = head
        self.deadline = deadline
        self.send_window = send_window
        self.receive_window = receive_window
        self.method: Any = None
        self.reader: MessageReader | None = None
        """Made when the body does not come in one piece."""
        self.message: tuple[bytes, bool] | None = None
        """The message of a call that has one, and whether it is compressed."""
        self.received = 0
        """Bytes of the body so far."""
        self.taken = 0
        """Bytes that the caller was not yet told that it may send again."""
        self.held = 0
        """Bytes that count against what the door may hold."""
        self.heard = 0.0
        self.request_ended = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.Handle | None = None
        self.begun = False
        """Whether the handler's task has run its first step."""
        self.initial = False
        """Whether the initial headers are sent."""
        self.pending: deque[Piece] = deque()
        self.pending_bytes = 0
        self.queued = False
        """Whether it waits for its turn to send."""
        self.trailers: bytes | None = None
        """What ends the call, once nothing is pending."""
        self.ended = False
        """Whether nothing more can be sent."""
        self.code = grpc.StatusCode.OK
        self.details = ""
        self.failure: Exception | None = None
        self.messages = 0
        """Messages of a streamed request that the handler has taken."""
        self._trailing: Metadata = ()
        self._arrived: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._serialize: Callable[[Any], bytes] | None = None

    # What handlers use.

    def invocation_metadata(self) -> Metadata:
        """The caller's metadata, in its order; keys in lower case, `-bin` values decoded."""
        return self.head.metadata

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, 0 when it has passed; None without one."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Set what is sent with the status; a later call replaces it."""
        self._trailing = tuple(metadata)

    def trailing_metadata(self) -> Metadata:
        """What was set to be sent with the status."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status that ends the call when its handler returns."""
        self.code = code

    def set_details(self, details: str) -> None:
        """Set the text beside the status."""
        self.details = details

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, str | bytes]] | None = None,
    ) -> NoReturn:
        """End the call with a status other than OK; does not return.

        Raises:
            CallAborted: Always; the handler lets it through.
        """
        self.code, self.details = code, details
        if trailing_metadata is not None:
            self._trailing = tuple(trailing_metadata)
        raise CallAborted

    def cancelled(self) -> bool:
        """Whether the caller has given the call up."""
        return self.ended

    @property
    def is_between_messages(self) -> bool:
        """Whether a streamed request has begun and no part of a message is missing now."""
        if self.reader is None or not self.method.request_streaming:
            return False
        return self.messages > 0 and (self.reader.empty or self.reader.ready)

    def peer(self) -> str:
        """Where the caller is, as `ipv4:host:port`."""
        return self._connection.peer

    async def write(self, message: Any) -> None:
        """Send a message of a streamed response; waits while the caller does not read."""
        await self.send(message if self._serialize is None else self._serialize(message))

    async def read(self) -> bytes | None:
        """The next message of a streamed request as it was sent; None at the end.

        Raises:
            InvalidBody: What came is no message.
        """
        while True:
            if self.failure is not None:
                raise self.failure
            reader = self.reader
            if reader is not None and reader.ready:
                message, compressed = reader.take()
                self.messages += 1
                self._connection.consumed(self)
                return await self._connection.plain(self, message, compressed)
            if self.request_ended:
                return None
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived

    # What the connection and the door use.

    def serialize_with(self, serialize: Callable[[Any], bytes] | None) -> None:
        """Say how `write` makes bytes of messages."""
        self._serialize = serialize

    async def send(self, message: bytes) -> None:
        """Send a message, and wait for room when much is pending."""
        self._connection.send_message(self, message)
        while not self.ended and self.pending_bytes > self._connection.ahead:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def end_unbegun(self) -> None:
        """Tell the connection that the handler's task ended before its first step."""
        self._connection.over(self)

    def wake_reader(self) -> None:
        """Let `read` look again."""
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def wake_writer(self) -> None:
        """Let `send` look again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
