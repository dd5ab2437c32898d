"""Serving endpoints: managing them and asking them for predictions."""

# Made from tessera.client.aio.inference by infra/tasks/sync_client.py.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy.typing as npt
from tritonclient.grpc import service_pb2 as oip

from tessera.client.aio.inference import AsyncInference
from tessera.client.answers import PayloadBody, Prediction, RowPrediction
from tessera.client.portal import Portal
from tessera.inference.v1 import (
    endpoint_pb2,
    explanation_pb2,
    inference_service_pb2,
)


class Inference:
    """Creates, changes and queries serving endpoints."""

    def __init__(self, portal: Portal, wrapped: AsyncInference) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def create_endpoint(
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
        return self._portal.run(
            self._wrapped.create_endpoint(
                name,
                entities,
                table_schema=table_schema,
                table_prefix=table_prefix,
                comment=comment,
                tags=tags,
                traffic=traffic,
                rate_limits=rate_limits,
                sampling_fraction=sampling_fraction,
                retention_days=retention_days,
            )
        )

    def deploy(
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
        return self._portal.run(
            self._wrapped.deploy(name, entities, table_schema=table_schema, timeout=timeout)
        )

    def get_endpoint(self, name: str) -> endpoint_pb2.Endpoint:
        """Reads an endpoint."""
        return self._portal.run(self._wrapped.get_endpoint(name))

    def list_endpoints(self) -> list[endpoint_pb2.Endpoint]:
        """The endpoints that the caller may see, by name."""
        return self._portal.run(self._wrapped.list_endpoints())

    def update_config(
        self,
        name: str,
        entities: Sequence[endpoint_pb2.ServedEntity],
        *,
        traffic: endpoint_pb2.TrafficPolicy | None = None,
    ) -> endpoint_pb2.Endpoint:
        """Begins to change what is served; the old configuration answers until the new is ready."""
        return self._portal.run(self._wrapped.update_config(name, entities, traffic=traffic))

    def update_endpoint(
        self,
        name: str,
        *,
        comment: str | None = None,
        tags: Mapping[str, str] | None = None,
        rate_limits: Sequence[endpoint_pb2.RateLimit] | None = None,
    ) -> endpoint_pb2.Endpoint:
        """Changes what is said about an endpoint, at once; what is None stays as it is."""
        return self._portal.run(
            self._wrapped.update_endpoint(name, comment=comment, tags=tags, rate_limits=rate_limits)
        )

    def cancel_update(self, name: str) -> endpoint_pb2.Endpoint:
        """Gives up the configuration that is being made ready; what answered goes on."""
        return self._portal.run(self._wrapped.cancel_update(name))

    def rollback(self, name: str, config_version: int = 0) -> endpoint_pb2.Endpoint:
        """Begins to serve what an earlier configuration served; see `wait_ready`.

        Args:
            name: The endpoint's name.
            config_version: The configuration's number, of `endpoint_configs`; 0 for the one that
                answered before.
        """
        return self._portal.run(self._wrapped.rollback(name, config_version))

    def endpoint_configs(self, name: str) -> list[endpoint_pb2.EndpointConfig]:
        """Every configuration that an endpoint ever had, the newest first."""
        return self._portal.run(self._wrapped.endpoint_configs(name))

    def update_traffic(
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
        return self._portal.run(
            self._wrapped.update_traffic(
                name, traffic_percent, shadow_percent=shadow_percent, traffic=traffic
            )
        )

    def start_canary(self, name: str, plan: endpoint_pb2.CanaryPlan) -> endpoint_pb2.Endpoint:
        """Begins to give a served entity growing shares of the traffic; see `watch_endpoint`.

        Raises:
            FailedPrecondition: A canary runs already.
        """
        return self._portal.run(self._wrapped.start_canary(name, plan))

    def end_canary(self, name: str, *, promote: bool) -> endpoint_pb2.Endpoint:
        """Ends a canary before its time: it gets all of the traffic, or what it had before."""
        return self._portal.run(self._wrapped.end_canary(name, promote=promote))

    def watch_endpoint(
        self, name: str, *, timeout: float | None = 3600.0
    ) -> Iterator[endpoint_pb2.Endpoint]:
        """An endpoint, at once and after every change."""
        return self._portal.iterate(self._wrapped.watch_endpoint(name, timeout=timeout))

    def wait_ready(self, name: str, *, timeout: float = 600.0) -> endpoint_pb2.Endpoint:
        """Waits until no change of an endpoint's configuration is under way and it answers.

        Raises:
            EndpointUpdateFailed: The change failed; the text says why.
            DeadlineExceeded: It was not ready in time.
        """
        return self._portal.run(self._wrapped.wait_ready(name, timeout=timeout))

    def delete_endpoint(self, name: str) -> None:
        """Deletes an endpoint; its inference table stays."""
        return self._portal.run(self._wrapped.delete_endpoint(name))

    def table_statistics(
        self, name: str, *, since: datetime | None = None
    ) -> inference_service_pb2.GetInferenceTableStatisticsResponse:
        """Counts what an endpoint's inference table holds, and how late it is."""
        return self._portal.run(self._wrapped.table_statistics(name, since=since))

    def payload_chunks(
        self,
        table: str,
        request_id: str,
        side: Literal["request", "response"] = "response",
        *,
        timeout: float = 600.0,
    ) -> Iterator[bytes]:
        """The bytes of a body, in pieces of at most 1 MiB; see `payload`."""
        return self._portal.iterate(
            self._wrapped.payload_chunks(table, request_id, side, timeout=timeout)
        )

    def payload(
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
        return self._portal.run(self._wrapped.payload(table, request_id, side, timeout=timeout))

    def predict(
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
        return self._portal.run(
            self._wrapped.predict(
                endpoint,
                inputs,
                client_request_id=client_request_id,
                sticky_key=sticky_key,
                timeout=timeout,
            )
        )

    def predict_rows(
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
        return self._portal.run(
            self._wrapped.predict_rows(
                endpoint,
                rows,
                client_request_id=client_request_id,
                model_version=model_version,
                sticky_key=sticky_key,
                outputs=outputs,
                parameters=parameters,
                timeout=timeout,
            )
        )

    def model_metadata(self, endpoint: str) -> oip.ModelMetadataResponse:
        """An endpoint's signature: its versions, and name, datatype and shape of each tensor."""
        return self._portal.run(self._wrapped.model_metadata(endpoint))

    def explain_request(
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
        return self._portal.run(
            self._wrapped.explain_request(
                request_id, client_request_id=client_request_id, endpoint=endpoint
            )
        )
