"""Endpoints as rows of SQL, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.inference.adapters.sql.canary_rows import canary_json, canary_value
from services.inference.domain.endpoint import (
    Device,
    Endpoint,
    EndpointConfig,
    InferenceTable,
    InstanceGroup,
    ServedEntity,
    UpdateState,
    WorkloadSize,
)
from services.inference.domain.limits import RateLimit, RateScope
from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions
from services.inference.domain.settings import EndpointSettings, WhenSpoolFull
from services.inference.domain.signature import Flavor, Role, Signature, TensorSpec
from services.inference.domain.steps import PipelineStep
from services.inference.domain.traffic import TrafficPolicy

__all__ = ["config_row", "config_value", "endpoint_row", "endpoint_value"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def endpoint_row(endpoint: Endpoint) -> dict[str, Any]:
    """The columns of an endpoint."""
    return {
        "endpoint_id": endpoint.endpoint_id,
        "name": endpoint.name,
        "comment": endpoint.comment,
        "table_prefix": endpoint.table_prefix,
        "table_full_name": endpoint.table.full_name,
        "table_database": endpoint.table.database,
        "table_name": endpoint.table.table,
        "created_by": endpoint.created_by,
        "created_at": _micros(endpoint.created_at),
        "updated_at": _micros(endpoint.updated_at),
        "etag": endpoint.etag,
        "config_version": None if endpoint.config is None else endpoint.config.version,
        "pending_version": None if endpoint.pending is None else endpoint.pending.version,
        "last_config_version": endpoint.last_config_version,
        "update_state": endpoint.update_state.value,
        "update_message": endpoint.update_message,
        "canary": None if endpoint.canary is None else canary_json(endpoint.canary),
        "settings": json.dumps(_settings_json(endpoint.settings)),
    }


def endpoint_value(row: Mapping[Any, Any], configs: Mapping[int, EndpointConfig]) -> Endpoint:
    """The endpoint of a row, with those of its configurations that it names."""
    return Endpoint(
        endpoint_id=row["endpoint_id"],
        name=row["name"],
        comment=row["comment"],
        table_prefix=row["table_prefix"],
        table=InferenceTable(row["table_full_name"], row["table_database"], row["table_name"]),
        created_by=row["created_by"],
        created_at=_moment(row["created_at"]),
        updated_at=_moment(row["updated_at"]),
        etag=row["etag"],
        config=configs.get(row["config_version"]),
        pending=configs.get(row["pending_version"]),
        update_state=UpdateState(row["update_state"]),
        update_message=row["update_message"],
        last_config_version=row["last_config_version"],
        settings=_settings(json.loads(row["settings"])),
        canary=None if row["canary"] is None else canary_value(row["canary"]),
    )


def config_row(endpoint_id: str, config: EndpointConfig) -> dict[str, Any]:
    """The columns of a configuration."""
    return {
        "endpoint_id": endpoint_id,
        "version": config.version,
        "created_at": _micros(config.created_at),
        "entities": json.dumps([_entity(entity) for entity in config.entities]),
        "traffic": json.dumps(_policy(config.traffic)),
        "rollback_of": config.rollback_of,
        "ready_at": None if config.ready_at is None else _micros(config.ready_at),
    }


def config_value(row: Mapping[Any, Any]) -> EndpointConfig:
    """The configuration of a row."""
    return EndpointConfig(
        version=row["version"],
        entities=tuple(_entity_value(entry) for entry in json.loads(row["entities"])),
        created_at=_moment(row["created_at"]),
        traffic=_policy_value(json.loads(row["traffic"])),
        rollback_of=row["rollback_of"],
        ready_at=None if row["ready_at"] is None else _moment(row["ready_at"]),
    )


def _policy(policy: TrafficPolicy) -> dict[str, Any]:
    return {
        "sticky": policy.sticky,
        "fallback_codes": sorted(policy.fallback_codes),
        "fallback_attempts": policy.fallback_attempts,
    }


def _policy_value(told: dict[str, Any]) -> TrafficPolicy:
    codes = frozenset(told.pop("fallback_codes", ()))
    return TrafficPolicy(**told, fallback_codes=codes)


def _settings_json(settings: EndpointSettings) -> dict[str, Any]:
    return {
        "tags": dict(settings.tags),
        "rate_limits": [
            [limit.scope.value, limit.subject, limit.period_seconds, limit.calls]
            for limit in settings.rate_limits
        ],
        "sampling_fraction": settings.sampling_fraction,
        "retention_days": settings.retention_days,
        "when_spool_full": settings.when_spool_full.value,
    }


def _settings(told: dict[str, Any]) -> EndpointSettings:
    return EndpointSettings(
        tags=told.get("tags", {}),
        rate_limits=tuple(
            RateLimit(RateScope(scope), subject, seconds, calls)
            for scope, subject, seconds, calls in told.get("rate_limits", ())
        ),
        sampling_fraction=told.get("sampling_fraction", 1.0),
        retention_days=told.get("retention_days", 0),
        when_spool_full=WhenSpoolFull(told.get("when_spool_full", WhenSpoolFull.REFUSE)),
    )


def _entity(entity: ServedEntity) -> dict[str, Any]:
    return {
        "name": entity.name,
        "model_name": entity.model_name,
        "model_version": entity.model_version,
        "model_alias": entity.model_alias,
        "traffic_percent": entity.traffic_percent,
        "instance_count": entity.instance_count,
        "runtime_name": entity.runtime_name,
        "signature": _signature(entity.signature),
        "steps": [_signature(step) for step in entity.steps],
        "instance_groups": [
            {"device": group.device.value, "count": group.count, "gpus": list(group.gpus)}
            for group in entity.instance_groups
        ],
        "max_concurrency": entity.max_concurrency,
        "max_queue": entity.max_queue,
        "shadow_percent": entity.shadow_percent,
        "workload_size": entity.workload_size.value,
        "min_concurrency": entity.min_concurrency,
        "scale_to_zero": entity.scale_to_zero,
        "idle_seconds": entity.idle_seconds,
        "environment": dict(entity.environment),
        "allow_code": entity.allow_code,
        "runtime": asdict(entity.runtime),
    }


def _entity_value(entry: dict[str, Any]) -> ServedEntity:
    signature = _signature_value(entry.pop("signature"))
    steps = tuple(_signature_value(step) for step in entry.pop("steps", ()))
    groups = tuple(
        InstanceGroup(Device(group["device"]), group["count"], tuple(group["gpus"]))
        for group in entry.pop("instance_groups", ())
    )
    size = WorkloadSize(entry.pop("workload_size", WorkloadSize.CUSTOM))
    runtime = _options_value(entry.pop("runtime", {}))
    return ServedEntity(
        **entry,
        signature=signature,
        steps=steps,
        instance_groups=groups,
        workload_size=size,
        runtime=runtime,
    )


def _signature(signature: Signature) -> dict[str, Any]:
    return {
        "flavor": signature.flavor.value,
        "file": signature.file,
        "inputs": [_spec(spec) for spec in signature.inputs],
        "outputs": [_spec(spec) for spec in signature.outputs],
        "streams": signature.streams,
        "entry": signature.entry,
        "arguments": signature.arguments,
        "stateful": signature.stateful,
        "timeout_seconds": signature.timeout_seconds,
        "steps": [
            [step.model_name, step.model_version, dict(step.inputs), dict(step.outputs)]
            for step in signature.steps
        ],
    }


def _signature_value(told: dict[str, Any]) -> Signature:
    return Signature(
        Flavor(told["flavor"]),
        told["file"],
        tuple(_spec_value(spec) for spec in told["inputs"]),
        tuple(_spec_value(spec) for spec in told["outputs"]),
        streams=told.get("streams", False),
        entry=told.get("entry", ""),
        arguments=told.get("arguments", "{}"),
        stateful=told.get("stateful", False),
        timeout_seconds=told.get("timeout_seconds", 60.0),
        steps=tuple(
            PipelineStep(model, version, tuple(inputs.items()), tuple(outputs.items()))
            for model, version, inputs, outputs in told.get("steps", ())
        ),
    )


def _options_value(told: dict[str, Any]) -> RuntimeOptions:
    sequences = told.pop("sequences", None)
    sizes = tuple(told.pop("preferred_batch_sizes", ()))
    return RuntimeOptions(
        **told,
        preferred_batch_sizes=sizes,
        sequences=None if sequences is None else SequenceOptions(**sequences),
    )


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": list(spec.shape),
        "role": spec.role.value,
        "vocabulary": None if spec.vocabulary is None else list(spec.vocabulary),
    }


def _spec_value(entry: dict[str, Any]) -> TensorSpec:
    words = entry["vocabulary"]
    return TensorSpec(
        entry["name"],
        entry["datatype"],
        tuple(entry["shape"]),
        Role(entry["role"]),
        None if words is None else tuple(words),
    )


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND
