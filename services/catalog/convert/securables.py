"""Governed objects and their common fields."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.catalog.convert.numbers import number
from services.catalog.domain.changes import Changes
from services.catalog.domain.details import (
    Column,
    TableDetails,
    TableLayout,
    TableType,
    VolumeDetails,
)
from services.catalog.domain.securables import Entity, SecurableKey
from services.catalog.errors import InvalidMask, of_field
from tessera.catalog.v1 import catalog_pb2, securable_pb2

__all__ = [
    "catalog_to_proto",
    "changes_of",
    "key_from_proto",
    "key_to_proto",
    "schema_to_proto",
    "securable_to_proto",
    "table_details_from_proto",
    "table_to_proto",
    "timestamp",
    "volume_to_proto",
]


def timestamp(moment: datetime) -> Timestamp:
    """An aware time as a proto timestamp."""
    found = Timestamp()
    found.FromDatetime(moment)
    return found


def moment(stamp: Timestamp) -> datetime:
    """A proto timestamp as an aware time in UTC."""
    return stamp.ToDatetime(UTC)


def key_from_proto(reference: securable_pb2.SecurableReference, field: str) -> SecurableKey:
    """Check a reference.

    Raises:
        InvalidSecurable, tessera_kit.names.InvalidName: Kind and name do not go together.
    """
    return SecurableKey.parse(reference.type, reference.full_name, field)


def key_to_proto(key: SecurableKey) -> securable_pb2.SecurableReference:
    """A reference to an object."""
    return securable_pb2.SecurableReference(type=number(key.type), full_name=key.full_name)


def securable_to_proto(entity: Entity) -> securable_pb2.Securable:
    """An object as discovery shows it."""
    return securable_pb2.Securable(
        type=number(entity.key.type),
        full_name=entity.key.full_name,
        owner=entity.owner,
        comment=entity.comment,
        created_at=timestamp(entity.created_at),
        tags=entity.tags,
    )


def catalog_to_proto(entity: Entity) -> catalog_pb2.Catalog:
    """A catalog."""
    return catalog_pb2.Catalog(
        name=entity.key.full_name,
        comment=entity.comment,
        owner=entity.owner,
        tags=entity.tags,
        created_at=timestamp(entity.created_at),
        updated_at=timestamp(entity.updated_at),
        etag=entity.etag,
    )


def schema_to_proto(entity: Entity) -> catalog_pb2.Schema:
    """A schema."""
    return catalog_pb2.Schema(
        full_name=entity.key.full_name,
        comment=entity.comment,
        owner=entity.owner,
        tags=entity.tags,
        created_at=timestamp(entity.created_at),
        updated_at=timestamp(entity.updated_at),
        etag=entity.etag,
    )


def volume_to_proto(entity: Entity) -> catalog_pb2.Volume:
    """A volume."""
    details = cast("VolumeDetails", entity.details)
    return catalog_pb2.Volume(
        full_name=entity.key.full_name,
        comment=entity.comment,
        storage_location=details.storage_location,
        owner=entity.owner,
        tags=entity.tags,
        created_at=timestamp(entity.created_at),
        updated_at=timestamp(entity.updated_at),
        etag=entity.etag,
    )


def table_to_proto(entity: Entity) -> catalog_pb2.Table:
    """A table."""
    details = cast("TableDetails", entity.details)
    found = catalog_pb2.Table(
        full_name=entity.key.full_name,
        type=number(details.type),
        columns=[
            catalog_pb2.Column(name=c.name, data_type=c.data_type, comment=c.comment)
            for c in details.columns
        ],
        storage_location=details.storage_location,
        comment=entity.comment,
        owner=entity.owner,
        tags=entity.tags,
        created_at=timestamp(entity.created_at),
        updated_at=timestamp(entity.updated_at),
        etag=entity.etag,
    )
    if details.physical is not None:
        layout = details.layout
        found.layout.CopyFrom(
            catalog_pb2.TableLayout(
                order_by=layout.order_by,
                partition_by_month_of=layout.partition_by_month_of,
                replacing_version_column=layout.replacing_version_column,
                retention_days=layout.retention_days,
            )
        )
        found.physical.CopyFrom(
            catalog_pb2.PhysicalTable(
                database=details.physical.database, table=details.physical.table
            )
        )
    return found


def table_details_from_proto(table: catalog_pb2.Table) -> TableDetails:
    """What a caller says of a table; nothing of it is checked yet."""
    layout = table.layout
    return TableDetails(
        type=TableType(table.type),
        columns=tuple(Column(c.name, c.data_type, c.comment) for c in table.columns),
        layout=TableLayout(
            order_by=tuple(layout.order_by),
            partition_by_month_of=layout.partition_by_month_of,
            replacing_version_column=layout.replacing_version_column,
            retention_days=layout.retention_days,
        ),
        storage_location=table.storage_location,
    )


def changes_of(resource: Message, mask: FieldMask) -> Changes:
    """What an update asks to change; the paths "comment" and "owner" are known.

    Raises:
        InvalidMask: Another path, or none.
    """
    if not mask.paths:
        raise of_field(InvalidMask, "update_mask", "must name at least one field")
    for path in mask.paths:
        if path not in ("comment", "owner"):
            text = f'may name "comment" and "owner", not {path[:80]!r}'
            raise of_field(InvalidMask, "update_mask", text)
    return Changes(
        comment=getattr(resource, "comment") if "comment" in mask.paths else None,  # noqa: B009
        owner=getattr(resource, "owner") if "owner" in mask.paths else None,  # noqa: B009
        etag=getattr(resource, "etag"),  # noqa: B009
    )
