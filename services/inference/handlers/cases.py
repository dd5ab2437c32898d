"""All use cases of the control plane, put together over whatever implements the ports."""

from __future__ import annotations

from dataclasses import dataclass

from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.routing import RouteTable
from services.inference.handlers.body_sweep import BodySweep
from services.inference.handlers.canaries import Canaries
from services.inference.handlers.changes import Changes
from services.inference.handlers.deployment import Deployer
from services.inference.handlers.elastic import Elastic
from services.inference.handlers.endpoints import EndpointHandlers
from services.inference.handlers.explanations import Explanations
from services.inference.handlers.payloads import Payloads
from services.inference.handlers.resolution import Resolver
from services.inference.ports import (
    Bundles,
    Capture,
    Endpoints,
    Lineage,
    ModelRegistry,
    RateBudgets,
    Replacements,
    Runs,
    Runtime,
    RuntimeModels,
    RuntimeProcess,
    Secrets,
    TableCatalog,
    TableReader,
    Tables,
)
from tessera_kit.clock import Clock
from tessera_kit.rpc.authority import Authority
from tessera_kit.store.objects import ObjectStore
from tessera_kit.telemetry.metrics import Metrics

__all__ = ["Outside", "Pace", "UseCases", "build_use_cases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What the service deals with: control plane and gateway."""

    endpoints: Endpoints
    models: ModelRegistry
    tables: TableCatalog
    places: Tables
    reader: TableReader
    lineage: Lineage
    runs: Runs
    budgets: RateBudgets
    replacements: Replacements
    process: RuntimeProcess
    runtime: Runtime
    runtime_models: RuntimeModels
    bundles: Bundles
    secrets: Secrets
    capture: Capture
    objects: ObjectStore
    authority: Authority
    clock: Clock
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the passage of time is looked at; seconds."""

    reconcile_seconds: float
    """Between looks at the runtime's models without a cause."""
    idle_seconds: float
    """Without a request until an entity that scales to zero is unloaded, where it does not say."""
    body_sweep_seconds: float
    """Between looks for bodies whose rows are no longer kept."""


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the control plane can do, and what the gateway shares with it."""

    endpoints: EndpointHandlers
    canaries: Canaries
    elastic: Elastic
    payloads: Payloads
    explanations: Explanations
    bodies: BodySweep
    deployer: Deployer
    """Keeps the runtime in order; `start` it before the doors open."""
    routes: RouteTable
    """What the gateway answers by; the deployer keeps it."""
    metrics: GatewayMetrics


def build_use_cases(outside: Outside, pace: Pace) -> UseCases:
    """Put the use cases together."""
    routes, changes = RouteTable(), Changes()
    metrics = GatewayMetrics(outside.metrics)
    deployer = _deployer(outside, pace, routes, changes)
    endpoints = EndpointHandlers(
        endpoints=outside.endpoints,
        tables=outside.tables,
        reader=outside.reader,
        resolver=Resolver(outside.models, outside.authority),
        deployer=deployer,
        authority=outside.authority,
        changes=changes,
        clock=outside.clock,
    )
    return UseCases(
        endpoints=endpoints,
        canaries=Canaries(
            handlers=endpoints,
            endpoints=outside.endpoints,
            reader=outside.reader,
            deployer=deployer,
            clock=outside.clock,
        ),
        elastic=Elastic(
            routes=routes,
            models=outside.runtime_models,
            deployer=deployer,
            metrics=metrics,
            idle_seconds=pace.idle_seconds,
        ),
        payloads=_payloads(outside),
        explanations=_explanations(outside),
        bodies=_body_sweep(outside, pace),
        deployer=deployer,
        routes=routes,
        metrics=metrics,
    )


def _deployer(outside: Outside, pace: Pace, routes: RouteTable, changes: Changes) -> Deployer:
    return Deployer(
        endpoints=outside.endpoints,
        models=outside.models,
        runtime=outside.runtime_models,
        bundles=outside.bundles,
        secrets=outside.secrets,
        routes=routes,
        changes=changes,
        clock=outside.clock,
        interval_seconds=pace.reconcile_seconds,
    )


def _payloads(outside: Outside) -> Payloads:
    return Payloads(
        tables=outside.places,
        reader=outside.reader,
        objects=outside.objects,
        authority=outside.authority,
    )


def _body_sweep(outside: Outside, pace: Pace) -> BodySweep:
    return BodySweep(
        tables=outside.places,
        reader=outside.reader,
        objects=outside.objects,
        clock=outside.clock,
        metrics=outside.metrics,
        interval_seconds=pace.body_sweep_seconds,
    )


def _explanations(outside: Outside) -> Explanations:
    return Explanations(
        tables=outside.places,
        endpoints=outside.endpoints,
        reader=outside.reader,
        models=outside.models,
        lineage=outside.lineage,
        runs=outside.runs,
        authority=outside.authority,
        clock=outside.clock,
    )
