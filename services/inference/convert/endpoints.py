"""Between the contract's endpoints and the domain's; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from services.inference.convert.canary import canary_message
from services.inference.convert.runtime import runtime_message, runtime_options
from services.inference.domain.endpoint import (
    Device,
    Endpoint,
    EndpointConfig,
    EndpointState,
    EntityRequest,
    InstanceGroup,
    ServedEntity,
    UpdateState,
    WorkloadSize,
)
from services.inference.domain.limits import RateLimit, RateScope, check_limits
from services.inference.domain.runtime_options import RuntimeOptions
from services.inference.domain.settings import EndpointSettings, WhenSpoolFull
from services.inference.domain.traffic import TrafficPolicy, check_policy
from services.inference.errors import InvalidConfig
from services.inference.ports import TableStatistics
from tessera.inference.v1 import endpoint_pb2, inference_service_pb2
from tessera_kit.errors import FieldViolation

__all__ = [
    "config_message",
    "endpoint_fields",
    "endpoint_message",
    "endpoint_settings",
    "entity_requests",
    "optional_time",
    "statistics_message",
    "timestamp",
    "traffic_policy",
    "with_states",
]

_TABLE: Final = "inference_table."
_CHANGEABLE: Final = frozenset(
    {
        *("comment", "tags", "rate_limits"),
        *(f"{_TABLE}sampling_fraction", f"{_TABLE}when_spool_full"),
    }
)
_POLICIES: Final = {
    endpoint_pb2.WHEN_SPOOL_FULL_UNSPECIFIED: WhenSpoolFull.REFUSE,
    endpoint_pb2.WHEN_SPOOL_FULL_REFUSE: WhenSpoolFull.REFUSE,
    endpoint_pb2.WHEN_SPOOL_FULL_COUNT: WhenSpoolFull.COUNT,
}
_POLICY_OF: Final = {policy: number for number, policy in _POLICIES.items()}
_SCOPES: Final = {
    endpoint_pb2.RATE_LIMIT_SCOPE_ENDPOINT: RateScope.ENDPOINT,
    endpoint_pb2.RATE_LIMIT_SCOPE_USER: RateScope.USER,
    endpoint_pb2.RATE_LIMIT_SCOPE_GROUP: RateScope.GROUP,
    endpoint_pb2.RATE_LIMIT_SCOPE_TOKEN: RateScope.TOKEN,
}
_SCOPE_OF: Final = {scope: number for number, scope in _SCOPES.items()}
_PERIODS: Final = {
    endpoint_pb2.RATE_LIMIT_PERIOD_MINUTE: 60,
    endpoint_pb2.RATE_LIMIT_PERIOD_HOUR: 3600,
}
_PERIOD_OF: Final = {seconds: number for number, seconds in _PERIODS.items()}
_STATES: Final = {
    EndpointState.NOT_READY: endpoint_pb2.ENDPOINT_STATE_NOT_READY,
    EndpointState.READY: endpoint_pb2.ENDPOINT_STATE_READY,
}
_UPDATES: Final = {
    UpdateState.NOT_UPDATING: endpoint_pb2.UPDATE_STATE_NOT_UPDATING,
    UpdateState.IN_PROGRESS: endpoint_pb2.UPDATE_STATE_IN_PROGRESS,
    UpdateState.FAILED: endpoint_pb2.UPDATE_STATE_FAILED,
    UpdateState.CANCELED: endpoint_pb2.UPDATE_STATE_CANCELED,
}
_DEVICES: Final = {
    Device.AUTO: endpoint_pb2.DEVICE_KIND_UNSPECIFIED,
    Device.CPU: endpoint_pb2.DEVICE_KIND_CPU,
    Device.GPU: endpoint_pb2.DEVICE_KIND_GPU,
}
_SIZES: Final = {
    endpoint_pb2.WORKLOAD_SIZE_UNSPECIFIED: WorkloadSize.CUSTOM,
    endpoint_pb2.WORKLOAD_SIZE_SMALL: WorkloadSize.SMALL,
    endpoint_pb2.WORKLOAD_SIZE_MEDIUM: WorkloadSize.MEDIUM,
    endpoint_pb2.WORKLOAD_SIZE_LARGE: WorkloadSize.LARGE,
}
_SIZE_OF: Final = {size: number for number, size in _SIZES.items()}
_LONGEST_IDLE_SECONDS: Final = 7 * 24 * 3600
_DEVICE_OF: Final = {number: device for device, number in _DEVICES.items()}


def entity_requests(config: endpoint_pb2.EndpointConfig) -> list[EntityRequest]:
    """The served entities that a caller asks for.

    Raises:
        InvalidConfig: A time of theirs is out of bounds.
    """
    return [
        EntityRequest(
            name=entity.name,
            model_name=entity.model_name,
            model_version=entity.model_version,
            model_alias=entity.model_alias,
            traffic_percent=entity.traffic_percent,
            instance_count=entity.instance_count,
            instance_groups=tuple(
                InstanceGroup(_DEVICE_OF[group.device], group.count or 1, tuple(group.gpus))
                for group in entity.instance_groups
            ),
            max_concurrency=entity.max_concurrency,
            max_queue=entity.max_queue,
            shadow_percent=entity.shadow_percent,
            workload_size=_SIZES[entity.workload_size],
            min_concurrency=entity.min_concurrency,
            scale_to_zero=entity.scale_to_zero,
            idle_seconds=_idle_seconds(entity),
            allow_code=entity.allow_code,
            environment=dict(entity.environment),
            runtime=runtime_options(entity.runtime, f"config.served_entities[{index}].runtime"),
        )
        for index, entity in enumerate(config.served_entities)
    ]


def _idle_seconds(entity: endpoint_pb2.ServedEntity) -> float:
    if not entity.HasField("scale_to_zero_after"):
        return 0.0
    seconds = entity.scale_to_zero_after.ToTimedelta().total_seconds()
    if not 1.0 <= seconds <= _LONGEST_IDLE_SECONDS:
        text = f"must be 1 second to {_LONGEST_IDLE_SECONDS} seconds"
        path = "config.served_entities.scale_to_zero_after"
        raise InvalidConfig(f"{path}: {text}", violations=[FieldViolation(path, text)])
    return seconds


def endpoint_message(endpoint: Endpoint) -> endpoint_pb2.Endpoint:
    """An endpoint as callers see it."""
    schema, _, _ = endpoint.table.full_name.rpartition(".")
    settings = endpoint.settings
    message = endpoint_pb2.Endpoint(
        name=endpoint.name,
        comment=endpoint.comment,
        state=_STATES[endpoint.state],
        update_state=_UPDATES[endpoint.update_state],
        update_message=endpoint.update_message,
        inference_table=endpoint_pb2.InferenceTableConfig(
            schema_full_name=schema,
            table_name_prefix=endpoint.table_prefix,
            sampling_fraction=settings.sampling_fraction,
            retention_days=settings.retention_days,
            when_spool_full=_POLICY_OF[settings.when_spool_full],
        ),
        inference_table_full_name=endpoint.table.full_name,
        created_by=endpoint.created_by,
        created_at=timestamp(endpoint.created_at),
        updated_at=timestamp(endpoint.updated_at),
        etag=endpoint.etag,
        tags=dict(settings.tags),
        rate_limits=[_limit_message(limit) for limit in settings.rate_limits],
    )
    if endpoint.config is not None:
        message.config.CopyFrom(config_message(endpoint.config))
    if endpoint.pending is not None:
        message.pending_config.CopyFrom(config_message(endpoint.pending))
    if endpoint.canary is not None:
        message.canary.CopyFrom(canary_message(endpoint.canary))
    return message


def endpoint_settings(
    told: endpoint_pb2.Endpoint | inference_service_pb2.CreateEndpointRequest,
) -> EndpointSettings:
    """The settings that a caller asks for.

    Raises:
        InvalidConfig: Rate limits do not fit together.
    """
    limits = tuple(
        RateLimit(_SCOPES[one.scope], one.subject, _PERIODS[one.period], one.calls)
        for one in told.rate_limits
    )
    check_limits(limits)
    table = told.inference_table
    sampled = table.HasField("sampling_fraction")
    return EndpointSettings(
        tags=dict(told.tags),
        rate_limits=limits,
        sampling_fraction=table.sampling_fraction if sampled else 1.0,
        retention_days=table.retention_days,
        when_spool_full=_POLICIES[table.when_spool_full],
    )


def _limit_message(limit: RateLimit) -> endpoint_pb2.RateLimit:
    return endpoint_pb2.RateLimit(
        scope=_SCOPE_OF[limit.scope],
        subject=limit.subject,
        period=_PERIOD_OF[limit.period_seconds],
        calls=limit.calls,
    )


def endpoint_fields(mask: FieldMask) -> frozenset[str]:
    """The fields that a caller changes.

    Raises:
        InvalidConfig: One of them cannot be changed so.
    """
    unknown = sorted(set(mask.paths) - _CHANGEABLE)
    if unknown:
        text = f"{unknown[0]!r} is none of {', '.join(sorted(_CHANGEABLE))}"
        raise InvalidConfig(text, violations=[FieldViolation("update_mask", text)])
    return frozenset(path.removeprefix(_TABLE) for path in mask.paths)


def config_message(config: EndpointConfig) -> endpoint_pb2.EndpointConfig:
    """A configuration as callers see it."""
    message = endpoint_pb2.EndpointConfig(
        served_entities=[_entity_message(entity) for entity in config.entities],
        config_version=config.version,
        created_at=timestamp(config.created_at),
        rollback_of=config.rollback_of,
    )
    if config.traffic != TrafficPolicy():
        message.traffic.CopyFrom(_policy_message(config.traffic))
    if config.ready_at is not None:
        message.ready_at.CopyFrom(timestamp(config.ready_at))
    return message


def traffic_policy(told: endpoint_pb2.TrafficPolicy) -> TrafficPolicy:
    """The traffic rules that a caller asks for.

    Raises:
        InvalidConfig: They cannot be followed.
    """
    policy = TrafficPolicy(told.sticky, frozenset(told.fallback_codes), told.fallback_attempts or 1)
    check_policy(policy)
    return policy


def _policy_message(policy: TrafficPolicy) -> endpoint_pb2.TrafficPolicy:
    return endpoint_pb2.TrafficPolicy(
        sticky=policy.sticky,
        fallback_codes=sorted(policy.fallback_codes),
        fallback_attempts=policy.fallback_attempts if policy.fallback_codes else 0,
    )


def _entity_message(entity: ServedEntity) -> endpoint_pb2.ServedEntity:
    message = endpoint_pb2.ServedEntity(
        name=entity.name,
        model_name=entity.model_name,
        model_version=entity.model_version,
        model_alias=entity.model_alias,
        traffic_percent=entity.traffic_percent,
        instance_count=0 if entity.instance_groups else entity.instance_count,
        instance_groups=[
            endpoint_pb2.InstanceGroup(
                device=_DEVICES[group.device], count=group.count, gpus=group.gpus
            )
            for group in entity.instance_groups
        ],
        max_concurrency=entity.max_concurrency,
        max_queue=entity.max_queue,
        shadow_percent=entity.shadow_percent,
        workload_size=_SIZE_OF[entity.workload_size],
        min_concurrency=entity.min_concurrency,
        scale_to_zero=entity.scale_to_zero,
        allow_code=entity.allow_code,
        environment=entity.environment,
        steps=[
            endpoint_pb2.PipelineStep(model_name=step.model_name, model_version=step.model_version)
            for step in entity.signature.steps
        ],
    )
    if entity.runtime != RuntimeOptions():
        message.runtime.CopyFrom(runtime_message(entity.runtime))
    if entity.idle_seconds:
        message.scale_to_zero_after.FromTimedelta(timedelta(seconds=entity.idle_seconds))
    return message


def with_states(message: endpoint_pb2.Endpoint, states: Mapping[str, str]) -> endpoint_pb2.Endpoint:
    """The message with what its entities that scale to zero do now, by their names."""
    for entity in message.config.served_entities if states else ():
        state = states.get(entity.name)
        if state is not None:
            entity.state = endpoint_pb2.ServedEntityState.Value(f"SERVED_ENTITY_STATE_{state}")
    return message


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
