"""`tessera.inference.v1.PredictionService`: named columns in, named columns out.

A request takes the way of every other one, as the protocol's message that its columns make.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from services.inference.convert.columns import (
    LARGEST_PREDICT,
    columns_of,
    refused_body,
    request_of_columns,
)
from services.inference.domain.signature import Signature
from services.inference.errors import InvalidInference
from services.inference.gateway.dispatch import STICKY_KEY
from services.inference.gateway.infer import InferenceHandler, Metadata
from services.inference.gateway.records import Exchange
from tessera.events.v1 import inference_events_pb2
from tessera.inference.v1 import prediction_service_pb2 as pb
from tessera_kit.http.status import BodyTooLarge
from tessera_kit.ids import new_id
from tessera_kit.rpc.validation import validate
from tessera_kit.telemetry.calls import MethodCalls

__all__ = ["PREDICTION_SERVICE", "PredictionHandler", "PredictionProtocol"]

Context = grpc.aio.ServicerContext[Any, Any]

PREDICTION_SERVICE: Final = "tessera.inference.v1.PredictionService"
_LARGE: Final = 256 << 10
_LARGE_AT_ONCE: Final = 2


class PredictionHandler:
    """Answers Predict on raw bytes; one per gateway.

    Args:
        infer: Admits requests, asks models, keeps records.
        calls: Records spans and durations.
        most: Largest message that the runtime takes, in bytes.
    """

    def __init__(self, infer: InferenceHandler, calls: MethodCalls, *, most: int) -> None:
        self._infer = infer
        self._calls = calls
        self._most = most
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def predict(self, data: bytes, context: Context) -> bytes:
        """Answer a serialised `tessera.inference.v1.PredictRequest`."""
        metadata = context.invocation_metadata() or ()
        exchange = Exchange(new_id(), b"")
        call = self._calls.begin(metadata)
        self._infer.enter(exchange, call[1])
        made: list[bytes] = []

        async def work() -> bytes:
            reply, answer = await self._answer(exchange, data, metadata, context)
            made.append(answer)
            return reply

        try:
            await self._infer.told(exchange, work(), context)
            return made[0]
        finally:
            self._infer.leave(exchange, call[1], exchange.code)
            self._calls.end(call, exchange.code)

    async def _answer(
        self, exchange: Exchange, data: bytes, metadata: Metadata, context: Context
    ) -> tuple[bytes, bytes]:
        """The protocol's reply, for the record, and the caller's."""
        asked = await self._sized(len(data), _parsed, data)
        exchange.client_request_id = asked.client_request_id
        route = await self._infer.admit_caller(exchange, asked.endpoint, metadata)
        message = await self._message(exchange, asked, len(data), route.signature)
        if asked.sticky_key:
            metadata = ((STICKY_KEY, asked.sticky_key), *metadata)
        reply = await self._infer.ask(exchange, message, metadata, self._infer.timeout(context))
        return reply, await self._sized(len(reply), _response, exchange, reply)

    async def _message(
        self,
        exchange: Exchange,
        asked: pb.PredictRequest,
        size: int,
        signature: Signature,
    ) -> service_pb2.ModelInferRequest:
        try:
            message = await self._sized(size, _request, asked, size, signature)
            exchange.request = message.SerializeToString()
            _hold_to_size(len(exchange.request), self._most)
            return message
        except Exception:
            exchange.request = await self._sized(size, refused_body, asked)
            exchange.encoding = inference_events_pb2.PAYLOAD_ENCODING_JSON
            raise

    async def _sized(self, size: int, read: Any, *arguments: Any) -> Any:
        """What `read` returns; in a thread, few at once, where that takes its time."""
        if size <= _LARGE:
            return read(*arguments)
        async with self._large:
            return await asyncio.to_thread(read, *arguments)


class PredictionProtocol(grpc.GenericRpcHandler):
    """Finds the method of a call.

    Args:
        predictions: Answers Predict.
    """

    def __init__(self, predictions: PredictionHandler) -> None:
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            f"/{PREDICTION_SERVICE}/Predict": grpc.unary_unary_rpc_method_handler(
                predictions.predict
            )
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method of a call; None when it is not offered."""
        return self._methods.get(details.method)


def _parsed(data: bytes) -> pb.PredictRequest:
    try:
        return pb.PredictRequest.FromString(data)
    except DecodeError:
        raise InvalidInference(
            f"the request is not a {pb.PredictRequest.DESCRIPTOR.full_name}"
        ) from None


def _request(
    asked: pb.PredictRequest, size: int, signature: Signature
) -> service_pb2.ModelInferRequest:
    _hold_to_size(size, LARGEST_PREDICT)
    validate(asked)
    message = request_of_columns(asked, signature)
    message.model_name = asked.endpoint
    message.model_version = str(asked.model_version or "")
    return message


def _hold_to_size(size: int, most: int) -> None:
    if size > most:
        raise BodyTooLarge(
            f"the request may have at most {most} bytes; ask by ModelInfer",
            metadata={"most": str(most)},
        )


def _response(exchange: Exchange, data: bytes) -> bytes:
    reply = service_pb2.ModelInferResponse.FromString(data)
    response = pb.PredictResponse(
        columns=columns_of(reply),
        row_count=reply.outputs[0].shape[0] if reply.outputs else 0,
        tessera_request_id=exchange.request_id,
        client_request_id=exchange.client_request_id,
    )
    if exchange.served is not None:
        response.served_entity = exchange.served.name
        response.model_name = exchange.served.model_name
        response.model_version = exchange.served.model_version
    if exchange.route is not None:
        response.config_version = exchange.route.config_version
    return response.SerializeToString()
