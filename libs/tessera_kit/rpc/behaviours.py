"""Makes a method's behaviour, of any of the four kinds, a coroutine over validated requests.

Parsing and serializing happen here and not in grpc, which would answer a malformed request with
INTERNAL, and a response that does not serialize with the exception's text.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from tessera_kit.errors import InvalidArgument, Unimplemented
from tessera_kit.rpc.validation import validate

__all__ = ["Behaviour", "Context", "Handler", "MalformedRequest", "adapted", "kind_of"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
# Quoted: generic in its stubs, not at run time.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour = Callable[[Any, Context], Awaitable[Any]]
_Parse = Callable[[Any], Any]
_Serialize = Callable[[Any], Any]


class MalformedRequest(InvalidArgument):
    """The request's bytes are not a message of the method's request type."""

    reason = "MALFORMED_REQUEST"


def kind_of(handler: Handler) -> str:
    """Return the name of the handler's behaviour, as `unary_stream`."""
    before = "stream" if handler.request_streaming else "unary"
    after = "stream" if handler.response_streaming else "unary"
    return f"{before}_{after}"


def adapted(full_method: str, handler: Handler) -> tuple[Behaviour, dict[str, Any]]:
    """Return the coroutine function, and what else of the handler changes with it.

    Raises:
        TypeError: The behaviour is synchronous.
    """
    behaviour = getattr(handler, kind_of(handler))
    parse = _parser(handler.request_deserializer)
    changes: dict[str, Any] = {"request_deserializer": None}
    if inspect.isasyncgenfunction(behaviour):
        changes["response_serializer"] = None
        serialize = handler.response_serializer or _as_it_is
        return _writing(behaviour, handler.request_streaming, parse, serialize), changes
    if not inspect.iscoroutinefunction(behaviour):
        if getattr(behaviour, "__module__", "").endswith("_pb2_grpc"):
            return _not_offered(full_method), changes
        raise TypeError(f"{full_method}: behaviours must be async")
    if handler.response_streaming:
        # It writes through its context, where grpc serializes.
        return _returning(behaviour, handler.request_streaming, parse, _as_it_is), changes
    changes["response_serializer"] = None
    serialize = handler.response_serializer or _as_it_is
    return _returning(behaviour, handler.request_streaming, parse, serialize), changes


def _parser(deserialize: Callable[[bytes], Any] | None) -> _Parse:
    """Return what makes bytes a validated request; raw methods get their bytes as they are."""
    if deserialize is None:
        return _as_it_is

    def parse(data: bytes) -> Any:
        try:
            request = deserialize(data)
        except (DecodeError, ValueError) as error:
            raise MalformedRequest("the request is not a message of the method's type") from error
        if isinstance(request, Message):
            validate(request)
        return request

    return parse


def _as_it_is(value: Any) -> Any:
    return value


def _returning(
    behaviour: Any, request_streaming: bool, parse: _Parse, serialize: _Serialize
) -> Behaviour:
    async def over_stream(requests: Any, context: Context) -> Any:
        return serialize(await behaviour(_parsed(requests, parse), context))

    async def over_one(request: Any, context: Context) -> Any:
        return serialize(await behaviour(parse(request), context))

    return over_stream if request_streaming else over_one


def _writing(
    behaviour: Any, request_streaming: bool, parse: _Parse, serialize: _Serialize
) -> Behaviour:
    async def over_stream(requests: Any, context: Context) -> None:
        await _write_all(behaviour(_parsed(requests, parse), context), context, serialize)

    async def over_one(request: Any, context: Context) -> None:
        await _write_all(behaviour(parse(request), context), context, serialize)

    return over_stream if request_streaming else over_one


async def _parsed(requests: AsyncIterator[Any], parse: _Parse) -> AsyncIterator[Any]:
    async for request in requests:
        yield parse(request)


async def _write_all(responses: Any, context: Context, serialize: _Serialize) -> None:
    # Driven here and not handed to grpc, so that it runs and is closed in the call's own task.
    try:
        async for response in responses:
            await context.write(serialize(response))
    finally:
        await responses.aclose()


def _not_offered(full_method: str) -> Behaviour:
    async def refuse(request: Any, context: Context) -> NoReturn:
        raise Unimplemented(f"{full_method} is not offered by this server")

    return refuse
