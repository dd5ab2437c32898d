"""OpenTelemetry's door: exporters of any language send their spans here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from starlette.requests import Request
from starlette.responses import Response

from services.tracking.handlers.cases import UseCases
from services.tracking.mlflow.errors import BadRequest
from services.tracking.otlp import decode_export, inflate, spans_in
from tessera_kit.http.routes import Endpoint, HttpRoute
from tessera_kit.rpc.identity import current_principal

__all__ = ["otlp_routes"]

_EXPERIMENT: Final = "x-mlflow-experiment-id"
_RUN: Final = "x-mlflow-run-id"
_ANSWER: Final = ExportTraceServiceResponse().SerializeToString()


def otlp_routes(cases: UseCases) -> Sequence[HttpRoute]:
    """Return the routes over use cases."""
    return [HttpRoute("POST", "/v1/traces", _export(cases), "opentelemetry.TraceService/Export")]


def _export(cases: UseCases) -> Endpoint:
    async def export(request: Request) -> Response:
        experiment_id = request.headers.get(_EXPERIMENT)
        if not experiment_id:
            raise BadRequest(
                f"The header {_EXPERIMENT} is missing; it says which experiment traces belong to."
            )
        kind = request.headers.get("content-type", "")
        body = inflate(await request.body(), request.headers.get("content-encoding", "").lower())
        spans = spans_in(decode_export(body, kind))
        await cases.traces.add_spans(
            current_principal(), experiment_id, spans, request.headers.get(_RUN, "")
        )
        if kind.startswith("application/json"):
            return Response(b"{}", media_type="application/json")
        return Response(_ANSWER, media_type="application/x-protobuf")

    return export
