"""The events that the catalog tells, from the domain."""

from __future__ import annotations

from collections.abc import Mapping

from services.catalog.convert.lineage import edge_to_proto
from services.catalog.convert.models import version_to_proto
from services.catalog.convert.securables import key_to_proto, securable_to_proto
from services.catalog.domain.lineage import LineageEdge
from services.catalog.domain.models import ModelVersion
from services.catalog.domain.securables import Entity, SecurableKey
from tessera.catalog.v1.model_pb2 import ModelVersion as ModelVersionMessage
from tessera.catalog.v1.securable_pb2 import Securable
from tessera.events.v1 import catalog_events_pb2 as events
from tessera_kit.bus.event import Event, new_event

__all__ = [
    "access_changed",
    "alias_changed",
    "lineage_observed",
    "securable_created",
    "securable_deleted",
    "securable_renamed",
    "securable_updated",
    "tags_changed",
    "version_changed",
]

SOURCE = "tessera/catalog"
_LARGEST = 900_000


def securable_created(entity: Entity, principal: str) -> Event:
    """An object was created."""
    told = securable_to_proto(entity)
    _fit(told)
    data = events.SecurableCreated(securable=told, principal=principal)
    return new_event(data, source=SOURCE, key=entity.key.full_name)


def securable_updated(entity: Entity, principal: str) -> Event:
    """An object was changed."""
    told = securable_to_proto(entity)
    _fit(told)
    data = events.SecurableUpdated(securable=told, principal=principal)
    return new_event(data, source=SOURCE, key=entity.key.full_name)


def securable_renamed(entity: Entity, was: SecurableKey, principal: str) -> Event:
    """An object got another name."""
    told = securable_to_proto(entity)
    _fit(told)
    data = events.SecurableRenamed(
        securable=told, previous_full_name=was.full_name, principal=principal
    )
    return new_event(data, source=SOURCE, key=entity.key.full_name)


def securable_deleted(key: SecurableKey, principal: str) -> Event:
    """An object was deleted."""
    data = events.SecurableDeleted(securable=key_to_proto(key), principal=principal)
    return new_event(data, source=SOURCE, key=key.full_name)


def access_changed(principal: str = "", key: SecurableKey | None = None) -> Event:
    """Somebody's rights changed; an empty principal means anybody's."""
    data = events.AccessChanged(principal=principal)
    if key is not None:
        data.securable.CopyFrom(key_to_proto(key))
    return new_event(data, source=SOURCE, key=principal)


def version_changed(version: ModelVersion, aliases: list[str], principal: str) -> Event:
    """A model version was created or changed its status."""
    told = version_to_proto(version, aliases)
    _fit(told)
    data = events.ModelVersionStatusChanged(model_version=told, principal=principal)
    return new_event(data, source=SOURCE, key=version.model_name)


def alias_changed(model_name: str, alias: str, version: int, principal: str) -> Event:
    """An alias was set or moved, or removed when `version` is 0."""
    data = events.ModelAliasChanged(
        model_name=model_name, alias=alias, version=version, principal=principal
    )
    return new_event(data, source=SOURCE, key=model_name)


def tags_changed(
    model_name: str,
    version: int,
    before: Mapping[str, str],
    after: Mapping[str, str],
    principal: str,
) -> list[Event]:
    """Tags of a model (`version` 0) or a version were set or removed: one event for each.

    Each is one event, for all of them together may not fit into a record.
    """
    changes = [(key, value) for key, value in after.items() if before.get(key) != value]
    gone = [key for key in before if key not in after]
    told = [
        events.ModelTagChanged(
            model_name=model_name, version=version, key=key, value=value, principal=principal
        )
        for key, value in changes
    ]
    told += [
        events.ModelTagChanged(
            model_name=model_name, version=version, key=key, removed=True, principal=principal
        )
        for key in gone
    ]
    return [new_event(one, source=SOURCE, key=model_name) for one in told]


def lineage_observed(edge: LineageEdge) -> Event:
    """Something was made from something."""
    data = events.LineageObserved(edges=[edge_to_proto(edge)])
    return new_event(data, source=SOURCE, key=f"{edge.target.type.name}/{edge.target.name}")


def _fit(told: ModelVersionMessage | Securable) -> None:
    """Leave the tags out where a record of the topic could not hold them: it has 1 MiB in all."""
    if told.ByteSize() > _LARGEST:
        told.ClearField("tags")
