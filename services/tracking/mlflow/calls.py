"""From routes to methods: one entry in a table per rpc; what has none answers NOT_IMPLEMENTED."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from services.tracking.mlflow.errors import NotOffered
from services.tracking.mlflow.messages import request_message
from services.tracking.mlflow.protos import Rpc, all_rpcs
from tessera_kit.http.routes import Endpoint, HttpRoute
from tessera_kit.rpc.identity import Principal, current_principal

__all__ = ["Answer", "Call", "Handler", "Method", "RawMethod", "message_fields", "rpc_routes"]

_LONG: Final = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method."""

    principal: Principal
    """Who calls."""
    message: Any
    """The request's message."""
    fields: Mapping[str, Any]
    """The JSON that the message was made of; tells an empty field from one that is not there."""
    request: Request
    """The HTTP request; `path_params` are the parameters in its path."""


Answer = Mapping[str, Any] | Message | None
"""A response: a message, its proto JSON with snake-case names, or None for an empty one."""
Handler = Callable[[Call], Awaitable[Answer]]
"""Answers a call; raises errors of the tree."""


@dataclass(frozen=True, slots=True)
class Method:
    """How one rpc is answered."""

    handle: Handler
    """Who answers."""
    required: tuple[str, ...] = ()
    """Fields that must be there and not empty."""


@dataclass(frozen=True, slots=True)
class RawMethod:
    """An rpc that reads its request and writes its response by itself."""

    endpoint: Endpoint
    """Who answers."""
    streams: bool = False
    """Whether its bodies are files: without a bound, and as long as they take."""


def rpc_routes(methods: Mapping[str, Method | RawMethod]) -> Sequence[HttpRoute]:
    """Return the routes of every rpc that MLflow has.

    Args:
        methods: Who answers, by the rpc's name, as `MlflowService/createRun`.

    Raises:
        ValueError: A name is not an rpc's.
    """
    rpcs = all_rpcs()
    unknown = set(methods) - {rpc.name for rpc in rpcs}
    if unknown:
        raise ValueError(f"MLflow has no rpc {', '.join(sorted(unknown))}")
    return [
        _route(rpc, methods.get(rpc.name), method, path)
        for rpc in rpcs
        for method, path in rpc.endpoints
    ]


def _route(rpc: Rpc, how: Method | RawMethod | None, method: str, path: str) -> HttpRoute:
    name = f"mlflow.{rpc.name}"
    if how is None:
        return HttpRoute(method, path, _not_offered(rpc.name), name)
    if isinstance(how, RawMethod):
        most = _ANY_SIZE if how.streams else None
        return HttpRoute(method, path, how.endpoint, name, max_body_bytes=most, streams=how.streams)
    return HttpRoute(method, path, _endpoint(rpc, how), name)


_ANY_SIZE: Final = 1 << 62


def _endpoint(rpc: Rpc, method: Method) -> Endpoint:
    kind, required, handle = rpc.request, method.required, method.handle

    async def endpoint(request: Request) -> Response:
        message, fields = await request_message(request, kind, required)
        answer = await handle(Call(current_principal(), message, fields, request))
        if isinstance(answer, Message):
            answer = message_fields(answer)
        return Response(orjson.dumps(answer or {}), media_type="application/json")

    return endpoint


def _not_offered(name: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        raise NotOffered(name)

    return endpoint


def message_fields(message: Message) -> dict[str, Any]:
    """Return a message as MLflow's servers write it: snake-case names, integers as numbers."""
    fields = MessageToDict(message, preserving_proto_field_name=True)
    _restore_integers(message.DESCRIPTOR, fields)
    return fields


def _restore_integers(descriptor: Any, fields: dict[str, Any]) -> None:
    for field in descriptor.fields:
        value = fields.get(field.name)
        if value is None:
            continue
        nested = field.message_type
        if nested is None:
            if field.cpp_type in _LONG:
                fields[field.name] = (
                    [int(one) for one in value] if field.is_repeated else int(value)
                )
        elif nested.GetOptions().map_entry:
            _restore_map(nested, value)
        elif not nested.full_name.startswith("google.protobuf."):
            for one in value if field.is_repeated else (value,):
                _restore_integers(nested, one)


def _restore_map(entry: Any, values: dict[str, Any]) -> None:
    kind = entry.fields_by_name["value"]
    for key, value in values.items():
        if kind.message_type is None:
            values[key] = int(value) if kind.cpp_type in _LONG else value
        elif not kind.message_type.full_name.startswith("google.protobuf."):
            _restore_integers(kind.message_type, value)
