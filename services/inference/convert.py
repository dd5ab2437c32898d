"""Between the contract's messages and the domain's values; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from services.inference.domain.endpoint import (
    Endpoint,
    EndpointConfig,
    EndpointState,
    EntityRequest,
    ServedEntity,
    UpdateState,
)
from services.inference.ports import TableStatistics
from tessera.inference.v1 import endpoint_pb2, inference_service_pb2

__all__ = [
    "config_message",
    "endpoint_message",
    "entity_requests",
    "optional_time",
    "statistics_message",
    "timestamp",
]

_STATES: Final = {
    EndpointState.NOT_READY: endpoint_pb2.ENDPOINT_STATE_NOT_READY,
    EndpointState.READY: endpoint_pb2.ENDPOINT_STATE_READY,
}
_UPDATES: Final = {
    UpdateState.NOT_UPDATING: endpoint_pb2.UPDATE_STATE_NOT_UPDATING,
    UpdateState.IN_PROGRESS: endpoint_pb2.UPDATE_STATE_IN_PROGRESS,
    UpdateState.FAILED: endpoint_pb2.UPDATE_STATE_FAILED,
}


def entity_requests(config: endpoint_pb2.EndpointConfig) -> list[EntityRequest]:
    """The served entities that a caller asks for."""
    return [
        EntityRequest(
            name=entity.name,
            model_name=entity.model_name,
            model_version=entity.model_version,
            model_alias=entity.model_alias,
            traffic_percent=entity.traffic_percent,
            instance_count=entity.instance_count or 1,
        )
        for entity in config.served_entities
    ]


def endpoint_message(endpoint: Endpoint) -> endpoint_pb2.Endpoint:
    """An endpoint as callers see it."""
    schema, _, _ = endpoint.table.full_name.rpartition(".")
    message = endpoint_pb2.Endpoint(
        name=endpoint.name,
        comment=endpoint.comment,
        state=_STATES[endpoint.state],
        update_state=_UPDATES[endpoint.update_state],
        update_message=endpoint.update_message,
        inference_table=endpoint_pb2.InferenceTableConfig(
            schema_full_name=schema, table_name_prefix=endpoint.table_prefix
        ),
        inference_table_full_name=endpoint.table.full_name,
        created_by=endpoint.created_by,
        created_at=timestamp(endpoint.created_at),
        updated_at=timestamp(endpoint.updated_at),
        etag=endpoint.etag,
    )
    if endpoint.config is not None:
        message.config.CopyFrom(config_message(endpoint.config))
    if endpoint.pending is not None:
        message.pending_config.CopyFrom(config_message(endpoint.pending))
    return message


def config_message(config: EndpointConfig) -> endpoint_pb2.EndpointConfig:
    """A configuration as callers see it."""
    return endpoint_pb2.EndpointConfig(
        served_entities=[_entity_message(entity) for entity in config.entities],
        config_version=config.version,
        created_at=timestamp(config.created_at),
    )


def _entity_message(entity: ServedEntity) -> endpoint_pb2.ServedEntity:
    return endpoint_pb2.ServedEntity(
        name=entity.name,
        model_name=entity.model_name,
        model_version=entity.model_version,
        model_alias=entity.model_alias,
        traffic_percent=entity.traffic_percent,
        instance_count=entity.instance_count,
    )


def statistics_message(
    counts: TableStatistics,
) -> inference_service_pb2.GetInferenceTableStatisticsResponse:
    """The counts of an inference table."""
    message = inference_service_pb2.GetInferenceTableStatisticsResponse(
        row_count=counts.rows,
        distinct_request_count=counts.distinct_requests,
        error_count=counts.errors,
        by_served_entity=_rows(counts),
    )
    message.lag_p50.FromTimedelta(counts.lag_p50)
    message.lag_p99.FromTimedelta(counts.lag_p99)
    message.lag_max.FromTimedelta(counts.lag_max)
    if counts.newest_request is not None:
        message.newest_request_at.CopyFrom(timestamp(counts.newest_request))
    return message


def _rows(counts: TableStatistics) -> Sequence[inference_service_pb2.ServedEntityRows]:
    return [
        inference_service_pb2.ServedEntityRows(
            served_entity=one.served_entity, model_version=one.model_version, row_count=one.rows
        )
        for one in counts.by_served_entity
    ]


def timestamp(moment: datetime) -> Timestamp:
    """An aware time as a message."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def optional_time(stamp: Timestamp) -> datetime | None:
    """The time of a message, in UTC; None for the zero time, which stands for none."""
    if not stamp.seconds and not stamp.nanos:
        return None
    return stamp.ToDatetime(tzinfo=UTC)
