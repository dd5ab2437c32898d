"""Between SQL rows and the domain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.catalog.adapters.memory.entities import haystack
from services.catalog.domain.details import (
    Column,
    Details,
    ModelDetails,
    PhysicalTable,
    TableDetails,
    TableLayout,
    TableType,
    VolumeDetails,
)
from services.catalog.domain.models import ModelVersion, VersionStatus
from services.catalog.domain.principals import Principal, PrincipalKind, Token
from services.catalog.domain.securables import Entity, EntityState, SecurableKey, SecurableType

__all__ = [
    "entity_of",
    "entity_row",
    "micros",
    "moment",
    "principal_of",
    "token_of",
    "token_row",
    "version_of",
    "version_row",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
Row = Mapping[str, Any]


def micros(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    """The time that `micros` was given."""
    return _EPOCH + timedelta(microseconds=value)


def entity_row(entity: Entity) -> dict[str, Any]:
    """A governed object's row."""
    parent = entity.key.parent
    return {
        "id": entity.id,
        "type": int(entity.key.type),
        "full_name": entity.key.full_name,
        "parent_type": None if parent is None else int(parent.type),
        "parent_name": None if parent is None else parent.full_name,
        "owner": entity.owner,
        "comment": entity.comment,
        "tags": json.dumps(dict(entity.tags), ensure_ascii=False),
        "details": json.dumps(_details_json(entity.details), ensure_ascii=False),
        "haystack": haystack(entity),
        "state": int(entity.state),
        "etag": entity.etag,
        "created_at": micros(entity.created_at),
        "updated_at": micros(entity.updated_at),
    }


def entity_of(row: Row) -> Entity:
    """The object of a row."""
    kind = SecurableType(row["type"])
    return Entity(
        id=row["id"],
        key=SecurableKey(kind, row["full_name"]),
        owner=row["owner"],
        comment=row["comment"],
        etag=row["etag"],
        created_at=moment(row["created_at"]),
        updated_at=moment(row["updated_at"]),
        tags=json.loads(row["tags"]),
        state=EntityState(row["state"]),
        details=_details_of(kind, json.loads(row["details"])),
    )


def _details_json(details: Details) -> dict[str, Any]:
    match details:
        case TableDetails():
            layout = details.layout
            physical = details.physical
            return {
                "type": int(details.type),
                "columns": [[c.name, c.data_type, c.comment] for c in details.columns],
                "order_by": list(layout.order_by),
                "partition_by_month_of": layout.partition_by_month_of,
                "replacing_version_column": layout.replacing_version_column,
                "retention_days": layout.retention_days,
                "physical": None if physical is None else [physical.database, physical.table],
                "storage_location": details.storage_location,
            }
        case VolumeDetails():
            return {"storage_location": details.storage_location}
        case ModelDetails():
            return {"next_version": details.next_version}
        case None:
            return {}


def _details_of(kind: SecurableType, data: dict[str, Any]) -> Details:
    if kind is SecurableType.TABLE:
        physical = data["physical"]
        return TableDetails(
            type=TableType(data["type"]),
            columns=tuple(Column(*column) for column in data["columns"]),
            layout=TableLayout(
                tuple(data["order_by"]),
                data["partition_by_month_of"],
                data["replacing_version_column"],
                data["retention_days"],
            ),
            physical=None if physical is None else PhysicalTable(*physical),
            storage_location=data["storage_location"],
        )
    if kind is SecurableType.VOLUME:
        return VolumeDetails(data["storage_location"])
    if kind is SecurableType.MODEL:
        return ModelDetails(data["next_version"])
    return None


def version_row(version: ModelVersion) -> dict[str, Any]:
    """A model version's row."""
    return {
        "id": version.id,
        "model_id": version.model_id,
        "model_name": version.model_name,
        "version": version.version,
        "status": int(version.status),
        "status_message": version.status_message,
        "run_id": version.run_id,
        "storage_location": version.storage_location,
        "comment": version.comment,
        "tags": json.dumps(dict(version.tags), ensure_ascii=False),
        "created_by": version.created_by,
        "size_bytes": version.size_bytes,
        "state": int(version.state),
        "etag": version.etag,
        "created_at": micros(version.created_at),
        "updated_at": micros(version.updated_at),
    }


def version_of(row: Row) -> ModelVersion:
    """The version of a row."""
    values = dict(row)
    values["status"] = VersionStatus(values["status"])
    values["state"] = EntityState(values["state"])
    values["tags"] = json.loads(values["tags"])
    values["created_at"] = moment(values["created_at"])
    values["updated_at"] = moment(values["updated_at"])
    return ModelVersion(**values)


def principal_of(row: Row) -> Principal:
    """The principal of a row."""
    return Principal(
        name=row["name"],
        kind=PrincipalKind(row["kind"]),
        created_at=moment(row["created_at"]),
        is_admin=row["is_admin"],
        protected=row["protected"],
    )


def token_row(token: Token) -> dict[str, Any]:
    """A token's row."""
    return {
        "token_id": token.token_id,
        "principal": token.principal,
        "sha256": token.sha256,
        "comment": token.comment,
        "created_at": micros(token.created_at),
        "expires_at": None if token.expires_at is None else micros(token.expires_at),
        "revoked": token.revoked,
        "bootstrap": token.bootstrap,
    }


def token_of(row: Row) -> Token:
    """The token of a row."""
    expires_at = row["expires_at"]
    return Token(
        token_id=row["token_id"],
        principal=row["principal"],
        sha256=bytes(row["sha256"]),
        comment=row["comment"],
        created_at=moment(row["created_at"]),
        expires_at=None if expires_at is None else moment(expires_at),
        revoked=row["revoked"],
        bootstrap=row["bootstrap"],
    )
