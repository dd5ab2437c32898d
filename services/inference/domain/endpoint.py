"""An endpoint and its life: a configuration answers while the next one is made ready."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from services.inference.domain.signature import Signature
from services.inference.errors import EndpointNotReady, InvalidConfig, StaleEtag, UpdateInProgress
from tessera_kit.errors import FieldViolation

__all__ = [
    "Endpoint",
    "EndpointConfig",
    "EndpointState",
    "EntityRequest",
    "InferenceTable",
    "ServedEntity",
    "UpdateState",
    "check_entities",
    "check_shares",
    "runtime_name",
]

_entity_name = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\Z").match


class EndpointState(StrEnum):
    """Whether an endpoint answers."""

    NOT_READY = "NOT_READY"
    READY = "READY"


class UpdateState(StrEnum):
    """The state of the last change of configuration."""

    NOT_UPDATING = "NOT_UPDATING"
    IN_PROGRESS = "IN_PROGRESS"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class EntityRequest:
    """A served entity as a caller asks for it."""

    name: str
    """Empty for `<model>-<version>`."""
    model_name: str
    model_version: int
    """0 when an alias is given."""
    model_alias: str
    traffic_percent: int
    instance_count: int


@dataclass(frozen=True, slots=True)
class ServedEntity:
    """A model version behind an endpoint."""

    name: str
    model_name: str
    model_version: int
    model_alias: str
    """The alias that was resolved; empty when a number was given."""
    traffic_percent: int
    instance_count: int
    runtime_name: str
    """The model's name in the runtime; unique per endpoint, configuration and entity."""
    signature: Signature


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """What an endpoint serves."""

    version: int
    """Counts the configurations of the endpoint from 1."""
    entities: tuple[ServedEntity, ...]
    created_at: datetime

    @property
    def signature(self) -> Signature:
        """The interface that all entities share."""
        return self.entities[0].signature


@dataclass(frozen=True, slots=True)
class InferenceTable:
    """Where an endpoint's requests and responses are kept."""

    full_name: str
    """`catalog.schema.table` in the catalog."""
    database: str
    """ClickHouse database of the table."""
    table: str
    """ClickHouse table."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A serving endpoint."""

    endpoint_id: str
    """Tells apart two endpoints that had one name after each other."""
    name: str
    comment: str
    table_prefix: str
    table: InferenceTable
    created_by: str
    created_at: datetime
    updated_at: datetime
    etag: str
    config: EndpointConfig | None = None
    """What answers."""
    pending: EndpointConfig | None = None
    """What is being made ready, or failed to be."""
    update_state: UpdateState = UpdateState.NOT_UPDATING
    update_message: str = ""
    last_config_version: int = field(default=0)
    """The highest configuration number given so far; numbers are not used twice."""

    @property
    def state(self) -> EndpointState:
        """Whether it answers."""
        return EndpointState.NOT_READY if self.config is None else EndpointState.READY

    def check_etag(self, etag: str) -> None:
        """Raise StaleEtag when `etag` is given and is not that of this state."""
        if etag and etag != self.etag:
            raise StaleEtag(f"endpoint {self.name!r} changed since it was read")

    def begin(self, config: EndpointConfig, now: datetime, etag: str) -> Endpoint:
        """The endpoint with a configuration that is being made ready.

        Raises:
            UpdateInProgress: Another one is.
        """
        if self.update_state is UpdateState.IN_PROGRESS:
            raise UpdateInProgress(
                f"configuration {self.last_config_version} of endpoint {self.name!r} is being made "
                "ready; wait until it is ready or has failed"
            )
        return replace(
            self,
            pending=config,
            update_state=UpdateState.IN_PROGRESS,
            update_message="",
            last_config_version=config.version,
            updated_at=now,
            etag=etag,
        )

    def finish(self, now: datetime, etag: str) -> Endpoint:
        """The endpoint with its pending configuration answering."""
        if self.pending is None:
            raise ValueError("no configuration is pending")
        return replace(
            self,
            config=self.pending,
            pending=None,
            update_state=UpdateState.NOT_UPDATING,
            update_message="",
            updated_at=now,
            etag=etag,
        )

    def fail(self, message: str, now: datetime, etag: str) -> Endpoint:
        """The endpoint after its pending configuration failed; what answered still does."""
        return replace(
            self,
            pending=None,
            update_state=UpdateState.FAILED,
            update_message=message,
            updated_at=now,
            etag=etag,
        )

    def with_shares(self, shares: Mapping[str, int], now: datetime, etag: str) -> Endpoint:
        """The endpoint with other traffic shares of what it serves.

        Raises:
            EndpointNotReady: Nothing is served yet.
            InvalidConfig: The shares do not name each entity once, or do not sum to 100.
        """
        if self.config is None:
            raise EndpointNotReady(f"endpoint {self.name!r} serves nothing yet")
        check_shares(shares, [entity.name for entity in self.config.entities])
        entities = tuple(
            replace(entity, traffic_percent=shares[entity.name]) for entity in self.config.entities
        )
        return replace(
            self, config=replace(self.config, entities=entities), updated_at=now, etag=etag
        )


def check_entities(entities: Sequence[EntityRequest]) -> None:
    """Raise InvalidConfig when entities do not fit together, before anything is looked up."""
    wrong: list[FieldViolation] = []
    names: set[str] = set()
    for index, entity in enumerate(entities):
        path = f"config.served_entities[{index}]"
        if (entity.model_version > 0) == bool(entity.model_alias):
            wrong.append(
                FieldViolation(f"{path}.model_version", "give either a version or an alias")
            )
        if entity.name and _entity_name(entity.name) is None:
            wrong.append(
                FieldViolation(f"{path}.name", "must be letters, digits, '_', '-' and '.'")
            )
        if entity.name and entity.name in names:
            wrong.append(FieldViolation(f"{path}.name", f"{entity.name!r} is given twice"))
        names.add(entity.name)
    total = sum(entity.traffic_percent for entity in entities)
    if total != 100:
        wrong.append(
            FieldViolation(
                "config.served_entities", f"traffic_percent must sum to 100, not {total}"
            )
        )
    if wrong:
        raise InvalidConfig(f"{wrong[0].field}: {wrong[0].description}", violations=wrong)


def check_shares(shares: Mapping[str, int], names: Sequence[str]) -> None:
    """Raise InvalidConfig unless every name has a share and they sum to 100."""
    wrong = [
        FieldViolation("traffic_percent", f"no served entity is named {name!r}")
        for name in shares
        if name not in names
    ]
    wrong += [
        FieldViolation("traffic_percent", f"the share of {name!r} is missing")
        for name in names
        if name not in shares
    ]
    wrong += [
        FieldViolation("traffic_percent", f"the share of {name!r} must be 0 to 100")
        for name, share in shares.items()
        if not 0 <= share <= 100
    ]
    if not wrong and sum(shares.values()) != 100:
        wrong.append(
            FieldViolation(
                "traffic_percent", f"the shares must sum to 100, not {sum(shares.values())}"
            )
        )
    if wrong:
        raise InvalidConfig(wrong[0].description, violations=wrong)


def runtime_name(endpoint_id: str, config_version: int, index: int) -> str:
    """A served entity's name in the runtime: no caller's text reaches its command line."""
    return f"tessera-{endpoint_id.replace('-', '')}-{config_version}-{index}"
