"""An endpoint and its life: a configuration answers while the next one is made ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from services.inference.domain.canary import Canary, CanaryPlan, CanaryState, check_plan
from services.inference.domain.runtime_options import RuntimeOptions
from services.inference.domain.settings import EndpointSettings
from services.inference.domain.signature import Flavor, Signature
from services.inference.domain.traffic import TrafficPolicy
from services.inference.errors import (
    CanaryRuns,
    EndpointNotReady,
    InvalidConfig,
    NoUpdateInProgress,
    StaleEtag,
    UpdateInProgress,
)
from tessera_kit.errors import FieldViolation

__all__ = [
    "Device",
    "Endpoint",
    "EndpointConfig",
    "EndpointState",
    "EntityRequest",
    "InferenceTable",
    "InstanceGroup",
    "ServedEntity",
    "UpdateState",
    "WorkloadSize",
    "check_shadows",
    "check_shares",
    "runtime_name",
]


class EndpointState(StrEnum):
    """Whether an endpoint answers."""

    NOT_READY = "NOT_READY"
    READY = "READY"


class UpdateState(StrEnum):
    """The state of the last change of configuration."""

    NOT_UPDATING = "NOT_UPDATING"
    IN_PROGRESS = "IN_PROGRESS"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class Device(StrEnum):
    """What an instance of a model runs on."""

    AUTO = "AUTO"
    """A GPU where the runtime has one."""
    CPU = "CPU"
    GPU = "GPU"


class WorkloadSize(StrEnum):
    """How many requests at once an entity is made for."""

    CUSTOM = "CUSTOM"
    """As its own numbers say."""
    SMALL = "SMALL"
    MEDIUM = "MEDIUM"
    LARGE = "LARGE"


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Instances of a model on one kind of device."""

    device: Device
    count: int
    gpus: tuple[int, ...] = ()
    """Numbers of the GPUs; all that there are when empty."""


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
    """0 for as many as `domain.sizing` finds."""
    instance_groups: tuple[InstanceGroup, ...] = ()
    max_concurrency: int = 0
    """Most requests in the runtime at once; 0 for no bound."""
    max_queue: int = 0
    """Most requests that wait beyond them."""
    shadow_percent: int = 0
    """Share of the requests that are mirrored to it."""
    workload_size: WorkloadSize = WorkloadSize.CUSTOM
    min_concurrency: int = 0
    """Requests that run at once in what is kept loaded; 0 for what the size says."""
    scale_to_zero: bool = False
    """Whether it is unloaded while nobody asks."""
    idle_seconds: float = 0.0
    """After how long; 0 for the service's default."""
    allow_code: bool = False
    """Whether the model's author's code may run."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of its process; secrets by their names."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)

    @property
    def least_concurrency(self) -> int:
        """How many requests the loaded instances run at once, at the least."""
        groups = self.instance_groups
        return sum(group.count for group in groups) if groups else self.instance_count or 1


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
    instance_groups: tuple[InstanceGroup, ...] = ()
    """By device; empty for `instance_count` of them wherever the runtime places them."""
    max_concurrency: int = 0
    max_queue: int = 0
    shadow_percent: int = 0
    workload_size: WorkloadSize = WorkloadSize.CUSTOM
    min_concurrency: int = 0
    scale_to_zero: bool = False
    idle_seconds: float = 0.0
    allow_code: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """How the runtime runs it."""
    steps: tuple[Signature, ...] = ()
    """What the steps of a pipeline take and give, each by `signature.steps`."""

    @property
    def code_flavors(self) -> list[Flavor]:
        """Its flavor, or those of its steps, that bring code of their authors."""
        flavors = [one.flavor for one in (self.signature, *self.steps)]
        return [flavor for flavor in flavors if flavor.runs_code]

    @property
    def instances(self) -> int:
        """How many of it the runtime has; each answers one request, or batch, at a time."""
        groups = self.instance_groups
        if not groups:
            return self.instance_count
        return sum(group.count * max(1, len(group.gpus)) for group in groups)

    @property
    def joins_requests(self) -> bool:
        """Whether requests for it may leave for the runtime as one.

        Not where the runtime's own gathering is tuned, where it answers from memory or keeps
        state, nor where authors' code runs: of that the runtime knows whether one request hangs.
        """
        tuned = self.runtime.preferred_batch_sizes or self.runtime.max_queue_delay_us
        alone = self.signature.streams or self.signature.stateful or self.runtime.sequences
        return (
            self.signature.batched
            and not (tuned or alone or self.runtime.response_cache)
            and not self.code_flavors
        )

    def asked_again(self) -> EntityRequest:
        """The request for the same entity; its alias stays resolved to what it was."""
        return EntityRequest(
            name=self.name,
            model_name=self.model_name,
            model_version=self.model_version,
            model_alias="",
            traffic_percent=self.traffic_percent,
            instance_count=self.instance_count,
            instance_groups=self.instance_groups,
            max_concurrency=self.max_concurrency,
            max_queue=self.max_queue,
            shadow_percent=self.shadow_percent,
            workload_size=self.workload_size,
            min_concurrency=self.min_concurrency,
            scale_to_zero=self.scale_to_zero,
            idle_seconds=self.idle_seconds,
            allow_code=self.allow_code,
            environment=self.environment,
            runtime=self.runtime,
        )


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """What an endpoint serves."""

    version: int
    """Counts the configurations of the endpoint from 1."""
    entities: tuple[ServedEntity, ...]
    created_at: datetime
    rollback_of: int = 0
    """The configuration that it repeats; 0 for none."""
    ready_at: datetime | None = None
    """When it began to answer; None when it never did."""
    traffic: TrafficPolicy = field(default_factory=TrafficPolicy)

    @property
    def signature(self) -> Signature:
        """The interface that all entities share."""
        return self.entities[0].signature

    @property
    def max_rows(self) -> int:
        """The most rows of a request that every entity takes."""
        return min(entity.runtime.max_rows for entity in self.entities)

    @property
    def has_sequences(self) -> bool:
        """Whether requests belong to sequences."""
        return self.entities[0].runtime.sequences is not None


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
    settings: EndpointSettings = field(default_factory=EndpointSettings)
    canary: Canary | None = None
    """The one that runs, or the last one that did."""

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
            canary=self._canary_left(now),
            updated_at=now,
            etag=etag,
        )

    def finish(self, now: datetime, etag: str) -> Endpoint:
        """The endpoint with its pending configuration answering."""
        if self.pending is None:
            raise ValueError("no configuration is pending")
        return replace(
            self,
            config=replace(self.pending, ready_at=now),
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

    def cancel(self, now: datetime, etag: str) -> Endpoint:
        """The endpoint without its pending configuration.

        Raises:
            NoUpdateInProgress: None is pending.
        """
        if self.pending is None:
            raise NoUpdateInProgress(
                f"no configuration of endpoint {self.name!r} is being made ready"
            )
        return replace(
            self,
            pending=None,
            update_state=UpdateState.CANCELED,
            update_message=f"configuration {self.pending.version} was canceled",
            updated_at=now,
            etag=etag,
        )

    def with_settings(
        self, comment: str, settings: EndpointSettings, now: datetime, etag: str
    ) -> Endpoint:
        """The endpoint with another comment and other settings."""
        return replace(self, comment=comment, settings=settings, updated_at=now, etag=etag)

    def with_shares(
        self,
        shares: Mapping[str, int],
        now: datetime,
        etag: str,
        *,
        shadows: Mapping[str, int] | None = None,
        traffic: TrafficPolicy | None = None,
    ) -> Endpoint:
        """The endpoint with other traffic shares of what it serves.

        Args:
            shares: Percent of each entity, by name.
            now: When.
            etag: Of the new state.
            shadows: Shadow percent of the entities that get another one.
            traffic: The new rules beside them; None for those that there are.

        Raises:
            EndpointNotReady: Nothing is served yet.
            InvalidConfig: The shares do not name each entity once, or do not sum to 100.
        """
        if self.config is None:
            raise EndpointNotReady(f"endpoint {self.name!r} serves nothing yet")
        names = [entity.name for entity in self.config.entities]
        check_shares(shares, names)
        mirrored = {entity.name: entity.shadow_percent for entity in self.config.entities}
        mirrored.update(shadows or {})
        check_shadows(shares, mirrored, names)
        entities = tuple(
            replace(
                entity,
                traffic_percent=shares[entity.name],
                shadow_percent=mirrored[entity.name],
            )
            for entity in self.config.entities
        )
        config = replace(self.config, entities=entities, traffic=traffic or self.config.traffic)
        return replace(
            self, config=config, canary=self._canary_left(now), updated_at=now, etag=etag
        )

    def start_canary(self, plan: CanaryPlan, now: datetime, etag: str) -> Endpoint:
        """The endpoint with a canary in its first step.

        Raises:
            CanaryRuns: Another one does.
            EndpointNotReady: Nothing is served yet.
            InvalidConfig: The plan does not fit what is served.
        """
        if self.canary is not None and self.canary.state is CanaryState.RUNNING:
            raise CanaryRuns(
                f"canary {self.canary.plan.entity!r} of endpoint {self.name!r} runs; end it first"
            )
        if self.config is None:
            raise EndpointNotReady(f"endpoint {self.name!r} serves nothing yet")
        shares = {entity.name: entity.traffic_percent for entity in self.config.entities}
        check_plan(plan, shares)
        return self.move_canary(Canary(plan, shares, now, now), now, etag)

    def move_canary(self, canary: Canary, now: datetime, etag: str) -> Endpoint:
        """The endpoint with its canary in another step, or ended, and the shares of that."""
        # What answers requests does not mirror them at the same time.
        shadows = {canary.plan.entity: 0}
        moved = self.with_shares(canary.shares, now, etag, shadows=shadows)
        return replace(moved, canary=canary)

    def _canary_left(self, now: datetime) -> Canary | None:
        """The canary after somebody changed the traffic by hand."""
        if self.canary is None or self.canary.state is not CanaryState.RUNNING:
            return self.canary
        return self.canary.end(CanaryState.CANCELED, "the traffic was changed meanwhile", now)


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


def check_shadows(
    shares: Mapping[str, int], shadows: Mapping[str, int], names: Sequence[str]
) -> None:
    """Raise InvalidConfig when an entity would answer requests and mirror them too."""
    wrong = [
        FieldViolation("shadow_percent", f"no served entity is named {name!r}")
        for name in shadows
        if name not in names
    ]
    wrong += [
        FieldViolation("shadow_percent", f"that of {name!r} must be 0 to 100")
        for name, percent in shadows.items()
        if not 0 <= percent <= 100
    ]
    wrong += [
        FieldViolation("shadow_percent", f"{name!r} has a share of {shares[name]} %; only 0 fits")
        for name, percent in shadows.items()
        if percent and shares.get(name)
    ]
    if wrong:
        raise InvalidConfig(wrong[0].description, violations=wrong)


def runtime_name(endpoint_id: str, config_version: int, index: int) -> str:
    """A served entity's name in the runtime: no caller's text reaches its command line."""
    return f"tessera-{endpoint_id.replace('-', '')}-{config_version}-{index}"
