"""OpenTelemetry's door: exporters of any language send their spans here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from starlette.requests import Request
from starlette.responses import Response

from services.tracking.convert.otlp import decode_export, inflate, spans_in
from services.tracking.domain.traces.span import Span
from services.tracking.handlers.cases import UseCases
from services.tracking.mlflow.errors import BadRequest
from tessera_kit.http.routes import Endpoint, HttpRoute
from tessera_kit.rpc.identity import current_principal

__all__ = ["otlp_routes"]

_EXPERIMENT: Final = "x-mlflow-experiment-id"
_RUN: Final = "x-mlflow-run-id"
_LARGE: Final = 64 << 10
_ANSWER: Final = ExportTraceServiceResponse().SerializeToString()


def otlp_routes(cases: UseCases) -> Sequence[HttpRoute]:
    """Return the routes over use cases."""
    return [HttpRoute("POST", "/v1/traces", _export(cases), "opentelemetry.TraceService/Export")]


def _spans(body: bytes, kind: str, encoding: str) -> list[Span]:
    return spans_in(decode_export(inflate(body, encoding), kind))


def _export(cases: UseCases) -> Endpoint:
    async def export(request: Request) -> Response:
        experiment_id = request.headers.get(_EXPERIMENT)
        if not experiment_id:
            raise BadRequest(
                f"The header {_EXPERIMENT} is missing; it says which experiment traces belong to."
            )
        kind = request.headers.get("content-type", "")
        body = await request.body()
        encoding = request.headers.get("content-encoding", "").lower()
        if encoding or len(body) > _LARGE:
            # Decoding takes its time, in which others are answered.
            spans = await asyncio.to_thread(_spans, body, kind, encoding)
        else:
            spans = _spans(body, kind, encoding)
        await cases.traces.add_spans(
            current_principal(), experiment_id, spans, request.headers.get(_RUN, "")
        )
        if kind.startswith("application/json"):
            return Response(b"{}", media_type="application/json")
        return Response(_ANSWER, media_type="application/x-protobuf")

    return export
