"""Serving endpoints: managing them and asking them for predictions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import grpc
import numpy.typing as npt
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

from tessera.client.aio.calls import call, stream
from tessera.client.answers import PayloadBody, Prediction, RowPrediction
from tessera.client.predictions import columns_from, parameter_value, prediction_from
from tessera.client.tensors import read_outputs, write_inputs
from tessera.inference.v1 import (
    endpoint_pb2,
    explanation_pb2,
    inference_service_pb2,
    inference_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)
from tessera_kit.errors import AlreadyExists, FailedPrecondition, TesseraError
from tessera_kit.rpc.status import error_from_rpc

_STICKY_KEY = "tessera-sticky-key"
_SIDES = {
    "request": inference_service_pb2.PAYLOAD_SIDE_REQUEST,
    "response": inference_service_pb2.PAYLOAD_SIDE_RESPONSE,
}


class EndpointUpdateFailed(FailedPrecondition):
    """An endpoint's new configuration could not be made ready; the old one, if any, answers."""

    reason = "ENDPOINT_UPDATE_FAILED"


class AsyncInference:
    """Creates, changes and queries serving endpoints."""

    def __init__(self, channel: grpc.aio.Channel, gateway: grpc.aio.Channel) -> None:
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        self._gateway = oip_grpc.GRPCInferenceServiceStub(gateway)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(gateway)

    async def create_endpoint(
        self,
        name: str,
        entities: Sequence[endpoint_pb2.ServedEntity],
        *,
        table_schema: str,
        table_prefix: str = "",
        comment: str = "",
        tags: Mapping[str, str] | None = None,
        traffic: endpoint_pb2.TrafficPolicy | None = None,
        rate_limits: Sequence[endpoint_pb2.RateLimit] = (),
        sampling_fraction: float = 1.0,
        retention_days: int = 0,
    ) -> endpoint_pb2.Endpoint:
        """Creates an endpoint and begins to make it ready; see `wait_ready`.

        Args:
            name: The endpoint's name; the model name for clients of the Open Inference Protocol.
            entities: Model versions with shares of the traffic that sum to 100.
            table_schema: The schema, "catalog.schema", that holds the inference table.
            table_prefix: The table is named "<prefix>_payload"; the endpoint's name when empty.
            comment: What the endpoint is for.
            tags: Its tags.
            traffic: How requests are led beside the shares.
            rate_limits: How many calls are answered in a minute or an hour.
            sampling_fraction: The share of requests that the inference table keeps.
            retention_days: Days that it keeps them; 0 for ever.
        """
        request = inference_service_pb2.CreateEndpointRequest(
            name=name,
            comment=comment,
            config=endpoint_pb2.EndpointConfig(served_entities=entities, traffic=traffic),
            inference_table=endpoint_pb2.InferenceTableConfig(
                schema_full_name=table_schema,
                table_name_prefix=table_prefix,
                sampling_fraction=sampling_fraction,
                retention_days=retention_days,
            ),
            tags=tags or {},
            rate_limits=rate_limits,
        )
        return (await call(self._stub.CreateEndpoint, request)).endpoint

    async def deploy(
        self,
        name: str,
        entities: Sequence[endpoint_pb2.ServedEntity],
        *,
        table_schema: str,
        timeout: float = 600.0,
    ) -> endpoint_pb2.Endpoint:
        """Serves model versions under a name, and waits until they answer.

        Creates the endpoint, or changes what it serves where there is one of the name.

        Args:
            name: The endpoint's name.
            entities: Model versions with shares of the traffic that sum to 100.
            table_schema: The schema, "catalog.schema", of a new endpoint's inference table.
            timeout: Seconds to wait.

        Raises:
            EndpointUpdateFailed: They could not be made ready; the text says why.
            DeadlineExceeded: They were not ready in time.
        """
        try:
            await self.create_endpoint(name, entities, table_schema=table_schema)
        except AlreadyExists:
            await self.update_config(name, entities)
        return await self.wait_ready(name, timeout=timeout)

    async def get_endpoint(self, name: str) -> endpoint_pb2.Endpoint:
        """Reads an endpoint."""
        return (
            await call(self._stub.GetEndpoint, inference_service_pb2.GetEndpointRequest(name=name))
        ).endpoint

    async def list_endpoints(self) -> list[endpoint_pb2.Endpoint]:
        """The endpoints that the caller may see, by name."""
        found: list[endpoint_pb2.Endpoint] = []
        request = inference_service_pb2.ListEndpointsRequest(page_size=1000)
        while True:
            page = await call(self._stub.ListEndpoints, request)
            found.extend(page.endpoints)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def update_config(
        self,
        name: str,
        entities: Sequence[endpoint_pb2.ServedEntity],
        *,
        traffic: endpoint_pb2.TrafficPolicy | None = None,
    ) -> endpoint_pb2.Endpoint:
        """Begins to change what is served; the old configuration answers until the new is ready."""
        request = inference_service_pb2.UpdateEndpointConfigRequest(
            name=name,
            config=endpoint_pb2.EndpointConfig(served_entities=entities, traffic=traffic),
        )
        return (await call(self._stub.UpdateEndpointConfig, request)).endpoint

    async def update_endpoint(
        self,
        name: str,
        *,
        comment: str | None = None,
        tags: Mapping[str, str] | None = None,
        rate_limits: Sequence[endpoint_pb2.RateLimit] | None = None,
    ) -> endpoint_pb2.Endpoint:
        """Changes what is said about an endpoint, at once; what is None stays as it is."""
        request = inference_service_pb2.UpdateEndpointRequest(
            endpoint=endpoint_pb2.Endpoint(
                name=name, comment=comment or "", tags=tags or {}, rate_limits=rate_limits or ()
            )
        )
        fields = {"comment": comment, "tags": tags, "rate_limits": rate_limits}
        for field, value in fields.items():
            if value is not None:
                request.update_mask.paths.append(field)
        return (await call(self._stub.UpdateEndpoint, request)).endpoint

    async def cancel_update(self, name: str) -> endpoint_pb2.Endpoint:
        """Gives up the configuration that is being made ready; what answered goes on."""
        request = inference_service_pb2.CancelEndpointUpdateRequest(name=name)
        return (await call(self._stub.CancelEndpointUpdate, request)).endpoint

    async def rollback(self, name: str, config_version: int = 0) -> endpoint_pb2.Endpoint:
        """Begins to serve what an earlier configuration served; see `wait_ready`.

        Args:
            name: The endpoint's name.
            config_version: The configuration's number, of `endpoint_configs`; 0 for the one that
                answered before.
        """
        request = inference_service_pb2.RollbackEndpointRequest(
            name=name, config_version=config_version
        )
        return (await call(self._stub.RollbackEndpoint, request)).endpoint

    async def endpoint_configs(self, name: str) -> list[endpoint_pb2.EndpointConfig]:
        """Every configuration that an endpoint ever had, the newest first."""
        found: list[endpoint_pb2.EndpointConfig] = []
        request = inference_service_pb2.ListEndpointConfigsRequest(name=name, page_size=1000)
        while True:
            page = await call(self._stub.ListEndpointConfigs, request)
            found.extend(page.configs)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def update_traffic(
        self,
        name: str,
        traffic_percent: Mapping[str, int],
        *,
        shadow_percent: Mapping[str, int] | None = None,
        traffic: endpoint_pb2.TrafficPolicy | None = None,
    ) -> endpoint_pb2.Endpoint:
        """Changes how requests are led to the served entities, at once.

        Args:
            name: The endpoint's name.
            traffic_percent: Shares that sum to 100, by entity.
            shadow_percent: Shares of the requests that are mirrored, by entity; those that are not
                named keep theirs.
            traffic: The other rules; None for those that there are.
        """
        request = inference_service_pb2.UpdateTrafficRequest(
            name=name,
            traffic_percent=traffic_percent,
            shadow_percent=shadow_percent or {},
            traffic=traffic,
        )
        return (await call(self._stub.UpdateTraffic, request)).endpoint

    async def start_canary(self, name: str, plan: endpoint_pb2.CanaryPlan) -> endpoint_pb2.Endpoint:
        """Begins to give a served entity growing shares of the traffic; see `watch_endpoint`.

        Raises:
            FailedPrecondition: A canary runs already.
        """
        request = inference_service_pb2.StartCanaryRequest(name=name, plan=plan)
        return (await call(self._stub.StartCanary, request)).endpoint

    async def end_canary(self, name: str, *, promote: bool) -> endpoint_pb2.Endpoint:
        """Ends a canary before its time: it gets all of the traffic, or what it had before."""
        request = inference_service_pb2.EndCanaryRequest(name=name, promote=promote)
        return (await call(self._stub.EndCanary, request)).endpoint

    async def watch_endpoint(
        self, name: str, *, timeout: float | None = 3600.0
    ) -> AsyncIterator[endpoint_pb2.Endpoint]:
        """An endpoint, at once and after every change."""
        request = inference_service_pb2.WatchEndpointRequest(name=name)
        async for response in stream(self._stub.WatchEndpoint, request, timeout):
            yield response.endpoint

    async def wait_ready(self, name: str, *, timeout: float = 600.0) -> endpoint_pb2.Endpoint:
        """Waits until no change of an endpoint's configuration is under way and it answers.

        Raises:
            EndpointUpdateFailed: The change failed; the text says why.
            DeadlineExceeded: It was not ready in time.
        """
        endpoint = endpoint_pb2.Endpoint(name=name)
        async for endpoint in self.watch_endpoint(name, timeout=timeout):
            if endpoint.update_state == endpoint_pb2.UPDATE_STATE_FAILED:
                raise EndpointUpdateFailed(
                    f"endpoint {name}: {endpoint.update_message}", metadata={"endpoint": name}
                )
            settled = endpoint.update_state == endpoint_pb2.UPDATE_STATE_NOT_UPDATING
            if settled and endpoint.state == endpoint_pb2.ENDPOINT_STATE_READY:
                break
        return endpoint

    async def delete_endpoint(self, name: str) -> None:
        """Deletes an endpoint; its inference table stays."""
        await call(
            self._stub.DeleteEndpoint, inference_service_pb2.DeleteEndpointRequest(name=name)
        )

    async def table_statistics(
        self, name: str, *, since: datetime | None = None
    ) -> inference_service_pb2.GetInferenceTableStatisticsResponse:
        """Counts what an endpoint's inference table holds, and how late it is."""
        request = inference_service_pb2.GetInferenceTableStatisticsRequest(name=name)
        if since is not None:
            request.since.FromDatetime(since)
        return await call(self._stub.GetInferenceTableStatistics, request)

    async def payload_chunks(
        self,
        table: str,
        request_id: str,
        side: Literal["request", "response"] = "response",
        *,
        timeout: float = 600.0,
    ) -> AsyncIterator[bytes]:
        """The bytes of a body, in pieces of at most 1 MiB; see `payload`."""
        request = await self._body_request(table, request_id, side)
        async for response in stream(self._stub.ReadPayloadBody, request, timeout):
            if response.chunk:
                yield response.chunk

    async def payload(
        self,
        table: str,
        request_id: str,
        side: Literal["request", "response"] = "response",
        *,
        timeout: float = 600.0,
    ) -> PayloadBody:
        """Reads the body of a request or of its response; `payload_chunks` needs less memory.

        Args:
            table: The inference table's full name, or the name of an endpoint that there is.
            request_id: The row's `tessera_request_id`.
            side: Which of the two bodies.
            timeout: Seconds.

        Raises:
            NotFound: There is no such table or row, or the row has no such body.
            PermissionDenied: The caller lacks SELECT on the table.
        """
        request = await self._body_request(table, request_id, side)
        encoding, chunks = 0, []
        async for response in stream(self._stub.ReadPayloadBody, request, timeout):
            encoding = response.encoding or encoding
            chunks.append(response.chunk)
        return PayloadBody(b"".join(chunks), encoding == inference_service_pb2.BODY_ENCODING_JSON)

    async def _body_request(
        self, table: str, request_id: str, side: Literal["request", "response"]
    ) -> inference_service_pb2.ReadPayloadBodyRequest:
        if "." not in table:
            table = (await self.get_endpoint(table)).inference_table_full_name
        return inference_service_pb2.ReadPayloadBodyRequest(
            table_full_name=table, request_id=request_id, side=_SIDES[side]
        )

    async def predict(
        self,
        endpoint: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        client_request_id: str = "",
        sticky_key: str = "",
        timeout: float = 30.0,
    ) -> Prediction:
        """Asks an endpoint for predictions, tensor by tensor; `predict_rows` takes plain values.

        Args:
            endpoint: The endpoint's name.
            inputs: An array per input, of shape [rows, ...] and the dtype of the signature; texts
                as arrays of str or bytes objects.
            client_request_id: The caller's own id, kept in the inference table.
            sticky_key: Requests with one key go to one entity, where the endpoint is sticky.
            timeout: Seconds.

        Raises:
            InvalidArgument: An input is unknown, missing, or has a wrong shape or dtype.
            NotFound: There is no such endpoint, or the caller may not see it.
            PermissionDenied: The caller may see it, and lacks EXECUTE on it.
            ResourceExhausted: Too many requests are in flight; see `retry_after`.
        """
        request = oip.ModelInferRequest(model_name=endpoint, id=client_request_id)
        write_inputs(request, inputs)
        metadata = ((_STICKY_KEY, sticky_key),) if sticky_key else None
        pending = self._gateway.ModelInfer(request, timeout=timeout, metadata=metadata)
        try:
            response = await pending
            trailing = await pending.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            raise _with_request_id(error_from_rpc(error), error) from None
        return Prediction(outputs=read_outputs(response), request_id=_request_id(trailing))

    async def predict_rows(
        self,
        endpoint: str,
        rows: Sequence[Mapping[str, Any]] | Mapping[str, Any],
        *,
        client_request_id: str = "",
        model_version: int = 0,
        sticky_key: str = "",
        outputs: Sequence[str] = (),
        parameters: Mapping[str, bool | int | float | str] | None = None,
        timeout: float = 30.0,
    ) -> RowPrediction:
        """Asks an endpoint for predictions of rows of plain values; the signature says their types.

        Whole numbers become fractions where the signature has these, fractions that are whole
        become whole numbers, and what would be rounded is refused.

        Args:
            endpoint: The endpoint's name.
            rows: A mapping per row, or one with a sequence or array per column. Numbers, texts,
                bytes, truth values, or lists of them as the signature's shapes say; None is NaN.
            client_request_id: The caller's own id, kept in the inference table.
            model_version: The served version that shall answer; 0 for whichever the traffic rules
                choose.
            sticky_key: Requests with one key go to one entity, where the endpoint is sticky.
            outputs: Names of the outputs to answer with; all when empty.
            parameters: Parameters of the request, as `sequence_id`.
            timeout: Seconds.

        Raises:
            ValueError: A column's values have no type or shape in common; the text names it.
            InvalidArgument: Columns do not fit the signature; `violations` say each.
            NotFound: There is no such endpoint, or none that the caller may see, or it does not
                serve that version.
            PermissionDenied: The caller may see it, and lacks EXECUTE on it.
            ResourceExhausted: Too many requests are in flight; see `retry_after`.
        """
        request = prediction_service_pb2.PredictRequest(
            endpoint=endpoint,
            columns=columns_from(rows),
            client_request_id=client_request_id,
            model_version=model_version,
            sticky_key=sticky_key,
            outputs=outputs,
            parameters={name: parameter_value(value) for name, value in (parameters or {}).items()},
        )
        try:
            return prediction_from(await self._predictions.Predict(request, timeout=timeout))
        except grpc.aio.AioRpcError as error:
            raise _with_request_id(error_from_rpc(error), error) from None

    async def model_metadata(self, endpoint: str) -> oip.ModelMetadataResponse:
        """An endpoint's signature: its versions, and name, datatype and shape of each tensor."""
        return await call(self._gateway.ModelMetadata, oip.ModelMetadataRequest(name=endpoint))

    async def explain_request(
        self, request_id: str = "", *, client_request_id: str = "", endpoint: str = ""
    ) -> explanation_pb2.RequestExplanation:
        """What produced an answer: configuration, entity, model version, run, commit, tables.

        A row takes about a second to be written; a request as young as that is asked for again.

        Args:
            request_id: The answer's `tessera_request_id`.
            client_request_id: The caller's own id in its place, where it is unique; needs the
                endpoint.
            endpoint: The endpoint that was asked, if it is known; also one that is deleted.

        Raises:
            NotFound: No inference table that the caller may read has a row of the request.
            Unavailable: Its row has not been written yet.
            FailedPrecondition: Several requests have the caller's own id; the text names them.
        """
        request = inference_service_pb2.ExplainRequestRequest(
            request_id=request_id, client_request_id=client_request_id, endpoint=endpoint
        )
        return (await call(self._stub.ExplainRequest, request)).explanation


def _request_id(metadata: object) -> str:
    pairs = dict(metadata or ())  # type: ignore[call-overload]
    return str(pairs.get("tessera-request-id", ""))


def _with_request_id(error: TesseraError, cause: grpc.aio.AioRpcError) -> TesseraError:
    """The error, with the id under which the failed request is kept."""
    if request_id := _request_id(cause.trailing_metadata()):
        error.metadata["tessera_request_id"] = request_id
    return error
