"""How the door answers a method."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["Method"]


class Method:
    """A method of a service, from the handler that `grpc` describes it by.

    Args:
        handler: As `grpc` describes methods.
    """

    __slots__ = (
        "behaviour",
        "deserialize",
        "generates",
        "request_streaming",
        "response_streaming",
        "serialize",
    )

    def __init__(self, handler: Any) -> None:
        self.request_streaming: bool = handler.request_streaming
        self.response_streaming: bool = handler.response_streaming
        self.deserialize: Callable[[bytes], Any] | None = handler.request_deserializer
        self.serialize: Callable[[Any], bytes] | None = handler.response_serializer
        self.behaviour: Callable[..., Any] = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        self.generates = inspect.isasyncgenfunction(self.behaviour)
        """Whether it yields its responses; else it writes them."""
