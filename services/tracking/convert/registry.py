"""Registered models between the catalog's messages and the domain."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.registry import RegisteredModel, RegistryVersion
from tessera.catalog.v1 import model_pb2, securable_pb2

__all__ = ["model", "securable_model", "version"]


def model(message: model_pb2.RegisteredModel) -> RegisteredModel:
    """Return a registered model, with its aliases."""
    return RegisteredModel(
        full_name=message.full_name,
        description=message.comment,
        owner=message.owner,
        created_at=_micros(message.created_at),
        updated_at=_micros(message.updated_at),
        tags=dict(message.tags),
        aliases=dict(message.aliases),
    )


def version(message: model_pb2.ModelVersion) -> RegistryVersion:
    """Return a version."""
    return RegistryVersion(
        full_name=message.model_name,
        version=message.version,
        is_ready=message.status == model_pb2.MODEL_VERSION_STATUS_READY,
        failed=message.status == model_pb2.MODEL_VERSION_STATUS_FAILED_REGISTRATION,
        status_message=message.status_message,
        run_id=message.run_id,
        comment=message.comment,
        created_by=message.created_by,
        created_at=_micros(message.created_at),
        updated_at=_micros(message.updated_at),
        tags=dict(message.tags),
        aliases=tuple(sorted(message.aliases)),
    )


def securable_model(message: securable_pb2.Securable) -> RegisteredModel:
    """Return a registered model as listings and events tell it: without its aliases."""
    return RegisteredModel(
        full_name=message.full_name,
        description=message.comment,
        owner=message.owner,
        created_at=_micros(message.created_at),
        updated_at=_micros(message.created_at),
        tags=dict(message.tags),
    )


def _micros(timestamp: Timestamp) -> Micros:
    return timestamp.seconds * 1_000_000 + timestamp.nanos // 1000
