"""Registered models, versions and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.catalog.convert.numbers import number
from services.catalog.convert.securables import timestamp
from services.catalog.domain.models import ModelFile, ModelVersion
from services.catalog.domain.securables import Entity
from tessera.catalog.v1 import model_pb2

__all__ = ["file_to_proto", "model_to_proto", "version_to_proto"]


def model_to_proto(entity: Entity, aliases: Mapping[str, int]) -> model_pb2.RegisteredModel:
    """A registered model."""
    return model_pb2.RegisteredModel(
        full_name=entity.key.full_name,
        comment=entity.comment,
        owner=entity.owner,
        tags=entity.tags,
        aliases=aliases,
        created_at=timestamp(entity.created_at),
        updated_at=timestamp(entity.updated_at),
        etag=entity.etag,
    )


def version_to_proto(version: ModelVersion, aliases: Sequence[str]) -> model_pb2.ModelVersion:
    """A model version."""
    return model_pb2.ModelVersion(
        model_name=version.model_name,
        version=version.version,
        status=number(version.status),
        status_message=version.status_message,
        run_id=version.run_id,
        storage_location=version.storage_location,
        comment=version.comment,
        tags=version.tags,
        aliases=sorted(aliases),
        created_by=version.created_by,
        created_at=timestamp(version.created_at),
        updated_at=timestamp(version.updated_at),
        etag=version.etag,
        size_bytes=version.size_bytes,
    )


def file_to_proto(file: ModelFile) -> model_pb2.FileInfo:
    """A stored file."""
    return model_pb2.FileInfo(
        path=file.path,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        modified_at=timestamp(file.modified_at),
    )
