"""Calls of the platform's services that wait out a restart of theirs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc

from tessera.jobs.surroundings import Surroundings
from tessera_kit.errors import TesseraError
from tessera_kit.rpc.status import error_from_rpc

__all__ = ["PATIENCE_SECONDS", "Door", "file_chunks"]

Response = TypeVar("Response")

PATIENCE_SECONDS = 300.0
"""How long a service may be away before a call of it fails."""
_CHUNK_BYTES = 1 << 20
_LONGEST_PAUSE = 5.0
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
# The services' own channels allow as much.
_MESSAGE_BYTES = 64 << 20


class Door:
    """One service, called with the job's token.

    Args:
        target: Its gRPC target.
        surroundings: Whose token, and of which attempt.
    """

    def __init__(self, target: str, surroundings: Surroundings) -> None:
        options = [
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ]
        ca_file = surroundings.ca_file
        if ca_file is None:
            self.channel: Any = grpc.insecure_channel(target, options)
        else:
            credentials = grpc.ssl_channel_credentials(ca_file.read_bytes())
            self.channel = grpc.secure_channel(target, credentials, options)
        self._metadata = (
            ("authorization", f"Bearer {surroundings.token.reveal()}"),
            ("tessera-job-attempt", str(surroundings.attempt)),
        )

    def call(
        self,
        method: Callable[..., Response],
        request: object | Callable[[], Iterator[object]],
        *,
        timeout: float = 60.0,
        patience: float = PATIENCE_SECONDS,
    ) -> Response:
        """Call a method with one response; again while the service is away.

        Args:
            method: Of a stub on this door's channel.
            request: The message, or what makes a new stream of messages for each try.
            timeout: Seconds for one try.
            patience: Seconds for all tries.

        Raises:
            TesseraError: The service refused, or was away for too long.
        """

        def once() -> Response:
            sent = request() if callable(request) else request
            return method(sent, timeout=timeout, metadata=self._metadata)

        return self._patiently(once, patience)

    def gather(
        self,
        method: Callable[..., Any],
        request: object,
        take: Callable[[Iterator[Any]], Response],
        *,
        timeout: float = 3600.0,
        patience: float = PATIENCE_SECONDS,
    ) -> Response:
        """Call a method with a stream of responses and return what `take` makes of a whole one.

        Raises:
            TesseraError: The service refused, or was away for too long.
        """

        def once() -> Response:
            stream = method(request, timeout=timeout, metadata=self._metadata)
            try:
                return take(stream)
            finally:
                stream.cancel()

        return self._patiently(once, patience)

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()

    @staticmethod
    def _patiently(once: Callable[[], Response], patience: float) -> Response:
        deadline = time.monotonic() + patience
        pause = 0.1
        while True:
            try:
                return once()
            except grpc.RpcError as error:
                late = time.monotonic() + pause > deadline
                if error.code() not in _PASSING or late:
                    raise _told(error) from error
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(pause * 2, _LONGEST_PAUSE)


def _told(error: Any) -> TesseraError:
    return error_from_rpc(error)


def file_chunks(path: Path) -> Iterator[bytes]:
    """The content of a file in pieces of at most 1 MiB."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
