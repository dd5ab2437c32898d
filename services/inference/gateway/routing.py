"""Where requests go: a table of routes that is replaced at once when a configuration changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from services.inference.domain.endpoint import Endpoint, ServedEntity
from services.inference.domain.fields import text_field
from services.inference.domain.settings import WhenSpoolFull
from services.inference.domain.signature import Signature
from services.inference.domain.splitter import TrafficSplitter
from services.inference.domain.sticky import StickyChooser
from services.inference.errors import EndpointNotFound, EndpointNotReady
from services.inference.gateway.admission import Gate
from services.inference.gateway.gathering import Gathering
from services.inference.gateway.nap import Nap, Naps
from services.inference.gateway.sequences import sequence_field
from services.inference.gateway.validation import RequestRules
from tessera.events.v1 import inference_events_pb2

__all__ = ["Route", "RouteTable", "Served", "Shadow"]

_SHADOWS = 16
_MODEL_NAME = 1
_MODEL_VERSION = 2


class Served:
    """A served entity as the gateway sees it."""

    __slots__ = (
        "_idle",
        "_in_flight",
        "answered",
        "answered_ns",
        "failed",
        "failed_ns",
        "gate",
        "gathering",
        "model_name",
        "model_version",
        "name",
        "nap",
        "record_fields",
        "reply_suffix",
        "request_suffix",
        "runtime_name",
        "shadow_bound",
        "streams",
    )

    def __init__(self, endpoint: Endpoint, entity: ServedEntity, naps: Naps) -> None:
        self.name = entity.name
        self.model_name = entity.model_name
        self.model_version = entity.model_version
        self.runtime_name = entity.runtime_name
        self.request_suffix = text_field(_MODEL_NAME, entity.runtime_name) + text_field(
            _MODEL_VERSION, ""
        )
        """What turns a caller's request into the runtime's, outside of sequences."""
        self.reply_suffix = text_field(_MODEL_NAME, endpoint.name) + text_field(
            _MODEL_VERSION, str(entity.model_version)
        )
        """What turns the runtime's response into the caller's."""
        self.record_fields = inference_events_pb2.PayloadRecord(
            served_entity=entity.name,
            model_name=entity.model_name,
            model_version=entity.model_version,
        ).SerializeToString()
        """What the record of each request says of it."""
        most = entity.max_concurrency
        self.shadow_bound = most or _SHADOWS
        """Most mirrored requests at once, where the entity is a shadow."""
        self.gate = Gate(entity.name, most, entity.max_queue) if most else None
        """Who may be in the runtime at once; None for everybody."""
        self.streams = entity.signature.streams
        """Whether a request has any number of responses."""
        self.gathering = (
            Gathering(entity.instances, entity.runtime.max_rows, self.request_suffix)
            if entity.joins_requests
            else None
        )
        """What lets requests leave together; None where each leaves alone."""
        self.nap = Nap(entity, endpoint.created_by, naps) if entity.scale_to_zero else None
        """Whether it is loaded now; None for what always is."""
        self.answered = self.answered_ns = 0
        """Requests that the runtime answered, and how long it took for all of them."""
        self.failed = self.failed_ns = 0
        """Those that it did not answer."""
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def suffix(self, sequence: str) -> bytes:
        """What turns a caller's request into the runtime's, behind its own bytes."""
        return sequence_field(sequence) + self.request_suffix if sequence else self.request_suffix

    @property
    def in_flight(self) -> int:
        """Requests on their way to the runtime."""
        return self._in_flight

    def enter(self) -> None:
        """Note that a request is on its way to the runtime."""
        self._in_flight += 1
        if self._in_flight == 1:
            self._idle.clear()

    def leave(self) -> None:
        """Note that it has returned."""
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()

    def count(self, answered: bool, ns: int) -> None:
        """Count a request that the runtime took `ns` nanoseconds for."""
        if answered:
            self.answered += 1
            self.answered_ns += ns
        else:
            self.failed += 1
            self.failed_ns += ns

    async def drained(self) -> None:
        """Return when no request is on its way."""
        await self._idle.wait()


class Shadow:
    """An entity that a share of the requests is mirrored to."""

    __slots__ = ("_turns", "most", "served")

    def __init__(self, served: Served, percent: int) -> None:
        self.served = served
        self.most = served.shadow_bound
        self._turns = TrafficSplitter([percent, 100 - percent])

    def takes_this(self) -> bool:
        """Whether this request is one of its share."""
        return self._turns.next() == 0


class Route:
    """What answers an endpoint's requests.

    Args:
        endpoint: With a configuration.
        naps: Told when an entity must be loaded.
        keep: The route before, whose counts of requests in flight go on for what both serve.

    Raises:
        ValueError: It has no configuration.
    """

    __slots__ = (
        "_by_version",
        "_others",
        "_splitter",
        "_sticky",
        "config_version",
        "counts_losses",
        "endpoint",
        "entities",
        "fallback_codes",
        "has_sequences",
        "is_sticky",
        "limits",
        "max_rows",
        "record_fields",
        "rules",
        "sampled",
        "shadows",
    )

    def __init__(self, endpoint: Endpoint, naps: Naps, keep: Route | None = None) -> None:
        if endpoint.config is None:
            raise ValueError(f"endpoint {endpoint.name!r} has no configuration")
        kept = {served.runtime_name: served for served in keep.entities} if keep else {}
        self.endpoint = endpoint
        self.config_version = endpoint.config.version
        self.entities: tuple[Served, ...] = tuple(
            kept.get(entity.runtime_name) or Served(endpoint, entity, naps)
            for entity in endpoint.config.entities
        )
        self.max_rows = endpoint.config.max_rows
        """Most rows of a request, where rows can be put together."""
        self.has_sequences = endpoint.config.has_sequences
        """Whether requests belong to sequences."""
        self.rules = RequestRules(
            endpoint.config.signature, self.max_rows, sequences=self.has_sequences
        )
        settings = endpoint.settings
        self.sampled = settings.sampling_fraction
        """Share of the requests that are kept."""
        self.record_fields = _record_fields(endpoint, self.config_version)
        """What the record of each request says of it."""
        self.counts_losses = settings.when_spool_full is WhenSpoolFull.COUNT
        """Whether requests are answered that cannot be kept."""
        self.limits = settings.rate_limits
        """How many calls are answered; empty for all."""
        asked = endpoint.config.entities
        shares = [entity.traffic_percent for entity in asked]
        policy = endpoint.config.traffic
        self._splitter = TrafficSplitter(shares)
        self.is_sticky = policy.sticky
        """Whether a caller's key decides."""
        self._sticky = StickyChooser([entity.name for entity in asked], shares)
        self.fallback_codes = policy.fallback_codes
        """gRPC codes on which others are asked; empty for none."""
        self.shadows = tuple(
            Shadow(served, entity.shadow_percent)
            for served, entity in zip(self.entities, asked, strict=True)
            if entity.shadow_percent
        )
        """Who gets mirrored requests."""
        mirrors = [shadow.served for shadow in self.shadows]
        answering = [served for served in self.entities if served not in mirrors]
        self._others = {
            served: tuple(other for other in answering if other is not served)[
                : policy.fallback_attempts
            ]
            for served in self.entities
        }
        self._by_version = {
            str(served.model_version): served for served in (*mirrors, *reversed(answering))
        }

    @property
    def signature(self) -> Signature:
        """The interface that the entities share."""
        config = self.endpoint.config
        if config is None:
            raise ValueError("a route has a configuration")
        return config.signature

    def choose(self, model_version: str) -> Served:
        """The entity that gets a request: by the shares, or the one that the caller names.

        Raises:
            EndpointNotFound: No entity serves the version that the caller names.
        """
        if not model_version:
            return self.entities[self._splitter.next()]
        served = self._by_version.get(model_version)
        if served is None:
            raise EndpointNotFound(
                f"endpoint {self.endpoint.name!r} does not serve version {model_version[:32]!r}"
            )
        return served

    def choose_by_key(self, key: bytes) -> Served:
        """The entity that a caller's key belongs to."""
        return self.entities[self._sticky.choose(key)]

    def others(self, served: Served) -> tuple[Served, ...]:
        """Who is asked when an entity failed, in their order."""
        return self._others[served]


class RouteTable:
    """The routes of every endpoint that answers, by name."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._starting: set[str] = set()
        self.naps = Naps()
        """Where it is told that an entity must be loaded."""

    @property
    def routes(self) -> Mapping[str, Route]:
        """Every route."""
        return MappingProxyType(self._routes)

    @property
    def starting(self) -> frozenset[str]:
        """Names of the endpoints whose first configuration is still being made ready."""
        return frozenset(self._starting)

    def knows(self, name: str) -> bool:
        """Whether there is an endpoint of that name, ready or not; each has a table."""
        return name in self._routes or name in self._starting

    def get(self, name: str) -> Route | None:
        """The route of an endpoint; None when none answers by that name."""
        return self._routes.get(name)

    def find(self, name: str) -> Route:
        """The route of an endpoint.

        Raises:
            EndpointNotReady: Its first configuration is still being made ready.
            EndpointNotFound: There is no endpoint of that name.
        """
        route = self._routes.get(name)
        if route is not None:
            return route
        if name in self._starting:
            raise EndpointNotReady(f"endpoint {name!r} is not ready yet")
        raise EndpointNotFound(f"there is no endpoint {name[:128]!r}")

    def put(self, endpoint: Endpoint) -> tuple[Served, ...]:
        """Route an endpoint's requests as it is now; returns the entities that get none now."""
        if endpoint.config is None:
            self._starting.add(endpoint.name)
            return ()
        before = self._routes.get(endpoint.name)
        route = Route(endpoint, self.naps, before)
        self._routes[endpoint.name] = route
        self._starting.discard(endpoint.name)
        if before is None:
            return ()
        return tuple(served for served in before.entities if served not in route.entities)

    def remove(self, name: str) -> tuple[Served, ...]:
        """Route no more requests to an endpoint; returns the entities that got them."""
        self._starting.discard(name)
        route = self._routes.pop(name, None)
        return () if route is None else route.entities


def _record_fields(endpoint: Endpoint, config_version: int) -> bytes:
    return inference_events_pb2.PayloadRecord(
        config_version=config_version,
        endpoint_id=endpoint.endpoint_id,
        sampling_fraction=endpoint.settings.sampling_fraction,
    ).SerializeToString()
