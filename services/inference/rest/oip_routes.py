"""The Open Inference Protocol's REST form on the gateway, with Triton's extensions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from starlette.requests import Request
from starlette.responses import Response
from tritonclient.grpc import service_pb2

from services.inference.domain.signature import Signature
from services.inference.gateway.descriptions import Descriptions
from services.inference.gateway.protocol import SERVICE_NAME
from services.inference.gateway.records import Exchange
from services.inference.rest.answering import Asked, HttpInference
from services.inference.rest.bodies import Bodies
from services.inference.rest.oip import parse_json, read_infer, write_infer
from tessera_kit.http.identity import request_token
from tessera_kit.http.routes import Endpoint, HttpRoute
from tessera_kit.http.status import json_response

__all__ = ["UNBOUNDED", "oip_routes"]

UNBOUNDED: Final = 1 << 62
"""Inference requests are bounded where they are read, so that refusals have their rows."""
_LENGTH: Final = "inference-header-content-length"
_MODEL: Final = "/v2/models/{name}"


class OipDialect:
    """ModelInfer's form; see `answering.Dialect`."""

    def read(self, body: bytes, request: Request, signature: Signature) -> Asked:
        """Read a request."""
        message, wanted = read_infer(body, request.headers.get(_LENGTH), signature)

        def write(reply: service_pb2.ModelInferResponse, exchange: Exchange) -> Response:
            pieces, length = write_infer(reply, wanted)
            if length is None:
                return Response(pieces[0], media_type="application/json")
            return Response(
                b"".join(pieces),
                headers={_LENGTH: str(length)},
                media_type="application/octet-stream",
            )

        return Asked(message, write)


def oip_routes(
    inference: HttpInference, descriptions: Descriptions, bodies: Bodies
) -> Sequence[HttpRoute]:
    """Return the routes."""
    dialect = OipDialect()

    async def infer(request: Request) -> Response:
        version = request.path_params.get("version", "")
        return await inference.answer(request, dialect, request.path_params["name"], version)

    async def ready(request: Request) -> Response:
        name, version, token = _asked(request)
        is_ready = await descriptions.is_ready(name, version, token)
        status = HTTPStatus.OK if is_ready else HTTPStatus.NOT_FOUND
        return json_response({"name": name, "ready": is_ready}, status)

    async def metadata(request: Request) -> Response:
        return json_response(plain(await descriptions.metadata(*_asked(request))))

    async def config(request: Request) -> Response:
        return json_response(plain((await descriptions.config(*_asked(request))).config))

    async def stats(request: Request) -> Response:
        return json_response(plain(await descriptions.statistics(*_asked(request))))

    async def index(request: Request) -> Response:
        async with bodies.read(request) as body:
            only_ready = bool(parse_json(body).get("ready")) if body else False
        found = await descriptions.index(_token(request), only_ready=only_ready)
        return json_response(plain(found)["models"])

    async def server(_: Request) -> Response:
        return json_response(plain(descriptions.server()))

    return [
        _open("/v2", server, "ServerMetadata"),
        _open("/v2/health/live", _constant({"live": True}), "ServerLive"),
        _open("/v2/health/ready", _constant({"ready": True}), "ServerReady"),
        _route("GET", "/v2/models/stats", stats, "ModelStatistics"),
        _route("POST", "/v2/repository/index", index, "RepositoryIndex"),
        *_versioned("POST", "/infer", infer, "ModelInfer", open=True, max_body_bytes=UNBOUNDED),
        *_versioned("GET", "/ready", ready, "ModelReady"),
        *_versioned("GET", "/config", config, "ModelConfig"),
        *_versioned("GET", "/stats", stats, "ModelStatistics"),
        *_versioned("GET", "", metadata, "ModelMetadata"),
    ]


def plain(message: Any) -> dict[str, Any]:
    """A message as JSON takes it, with every field that is not a message unset.

    Names are the message's own and 64-bit numbers are numbers, as the protocol's REST form has them
    and protobuf's JSON form does not.
    """
    told: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is None:
            told[field.name] = (
                [_scalar(field, one) for one in value]
                if field.is_repeated
                else _scalar(field, value)
            )
        elif field.message_type.GetOptions().map_entry:
            told[field.name] = {key: value[key] for key in value}
        elif field.is_repeated:
            told[field.name] = [plain(one) for one in value]
        elif message.HasField(field.name):
            told[field.name] = plain(value)
    return told


def _scalar(field: Any, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values_by_number[value].name
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _asked(request: Request) -> tuple[str, str, str]:
    """The name, version and token of a request about an endpoint."""
    path = request.path_params
    return path.get("name", ""), path.get("version", ""), _token(request)


def _token(request: Request) -> str:
    return request_token(request.headers.get("authorization"))


def _constant(content: dict[str, bool]) -> Endpoint:
    async def answer(_: Request) -> Response:
        return json_response(content)

    return answer


def _open(path: str, endpoint: Endpoint, rpc: str) -> HttpRoute:
    return HttpRoute("GET", path, endpoint, f"{SERVICE_NAME}/{rpc}", open=True)


def _route(
    method: str,
    path: str,
    endpoint: Callable[[Request], Awaitable[Response]],
    rpc: str,
    **named: Any,
) -> HttpRoute:
    return HttpRoute(method, path, endpoint, f"{SERVICE_NAME}/{rpc}", **named)


def _versioned(
    method: str, path: str, endpoint: Endpoint, rpc: str, **named: Any
) -> Sequence[HttpRoute]:
    return [
        _route(method, f"{_MODEL}{path}", endpoint, rpc, **named),
        _route(method, f"{_MODEL}/versions/{{version}}{path}", endpoint, rpc, **named),
    ]
