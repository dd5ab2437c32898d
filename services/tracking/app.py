"""Puts the tracking service together; the only module that names concrete adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.tracking.adapters.catalog import CatalogLineage, CatalogRegistry
from services.tracking.adapters.clickhouse.points import ClickHousePoints
from services.tracking.adapters.clickhouse.spans import ClickHouseSpans
from services.tracking.adapters.objects import ObjectArtifacts
from services.tracking.adapters.secret_box import FernetBox
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.adapters.webhook_http import HttpHookSender
from services.tracking.config import Config
from services.tracking.consumers import MetricConsumer, RegistryConsumer, watch_grants
from services.tracking.handlers.access import Access
from services.tracking.handlers.artifacts import Artifacts
from services.tracking.handlers.assessments import Assessments
from services.tracking.handlers.cases import UseCases
from services.tracking.handlers.deliveries import Deliveries
from services.tracking.handlers.evaluation import EvaluationDatasets
from services.tracking.handlers.experiments import Experiments
from services.tracking.handlers.issues import Issues
from services.tracking.handlers.label_schemas import LabelSchemas
from services.tracking.handlers.log import RunLog
from services.tracking.handlers.metrics import Metrics
from services.tracking.handlers.models import LoggedModels
from services.tracking.handlers.registry import Registry
from services.tracking.handlers.registry_news import RegistryNews
from services.tracking.handlers.review_desk import ReviewDesk
from services.tracking.handlers.review_queues import ReviewQueues
from services.tracking.handlers.runs import Runs
from services.tracking.handlers.scorers import Scorers
from services.tracking.handlers.search import Search
from services.tracking.handlers.trace_correlation import TraceCorrelation
from services.tracking.handlers.trace_metrics import TraceMetrics
from services.tracking.handlers.trace_search import TraceSearch
from services.tracking.handlers.traces import Traces
from services.tracking.handlers.transfers import Transfers
from services.tracking.handlers.upload_sweep import UploadSweep
from services.tracking.handlers.version_files import VersionFiles
from services.tracking.handlers.webhooks import Webhooks
from services.tracking.mlflow.errors import mlflow_error
from services.tracking.mlflow.routes import mlflow_routes
from services.tracking.ports.artifacts import ArtifactStore
from services.tracking.ports.models import ModelRegistry
from services.tracking.ports.store import Store
from services.tracking.ports.traces import SpanStore
from services.tracking.ports.webhooks import Hooks
from services.tracking.run_pages import page_routes
from services.tracking.servicers import TrackingServicer
from tessera.tracking.v1 import tracking_service_pb2, tracking_service_pb2_grpc
from tessera_kit.bus.outbox import OutboxRelay
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import Clock, SystemClock
from tessera_kit.http.server import build_http_server
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.server import BackgroundTask, Binding, build_server
from tessera_kit.rpc.serving import Server
from tessera_kit.store.clickhouse import ClickHouse
from tessera_kit.store.migrate import migrate
from tessera_kit.store.s3 import S3ObjectStore
from tessera_kit.store.sql import Database

__all__ = ["App", "binding", "build_app", "use_cases"]

SERVICE_NAME: Final = tracking_service_pb2.DESCRIPTOR.services_by_name["TrackingService"].full_name


@dataclass(frozen=True, slots=True)
class App:
    """What runs: bound servers, and the work beside them."""

    servers: Sequence[Server]
    background: Sequence[BackgroundTask]


def use_cases(
    store: Store,
    files: ArtifactStore,
    spans: SpanStore,
    authority: Authority,
    *,
    artifact_root: str,
    clock: Clock | None = None,
    registry: ModelRegistry | None = None,
    default_schema: str = "main.default",
    hooks: Hooks | None = None,
) -> UseCases:
    """Return the use cases over any adapters.

    Args:
        store: Where entities and points are kept.
        files: Where artifacts are kept.
        spans: Where spans are kept.
        authority: Who may do what.
        artifact_root: URL below which artifacts are kept.
        clock: Where time comes from; the system's when None.
        registry: The catalog's models; nothing is registered when None.
        default_schema: Where registered models with plain names land.
        hooks: What webhooks need of the outside; there are none when None.
    """
    clock = clock or SystemClock()
    access = Access(authority, store)
    traces = Traces(store, spans, access, clock)
    search = Search(store, access)
    artifacts = Artifacts(store, files, access)
    models = LoggedModels(store, access, clock)
    reviews = ReviewDesk(store, access, clock)
    return UseCases(
        experiments=Experiments(store, access, clock, artifact_root=artifact_root),
        runs=Runs(store, access, clock),
        log=RunLog(store, access, clock),
        metrics=Metrics(store, access, search),
        search=search,
        traces=traces,
        trace_search=TraceSearch(store, spans, access),
        trace_metrics=TraceMetrics(store, spans, access),
        trace_correlation=TraceCorrelation(store, spans, access),
        assessments=Assessments(store, traces, clock),
        evaluation=EvaluationDatasets(store, access, clock),
        scorers=Scorers(store, access, clock),
        reviews=reviews,
        label_schemas=LabelSchemas(reviews),
        review_queues=ReviewQueues(reviews),
        issues=Issues(reviews),
        artifacts=artifacts,
        transfers=Transfers(artifacts, files),
        models=models,
        webhooks=None if hooks is None else Webhooks(store, access, hooks, clock),
        registry=(
            None
            if registry is None
            else Registry(
                registry,
                VersionFiles(registry, artifacts, models, default_schema=default_schema),
                default_schema=default_schema,
            )
        ),
    )


def binding(cases: UseCases) -> Binding:
    """Return the gRPC service over use cases."""
    return Binding(
        tracking_service_pb2_grpc.add_TrackingServiceServicer_to_server,
        TrackingServicer(cases),
        SERVICE_NAME,
    )


@asynccontextmanager
async def build_app(config: Config) -> AsyncIterator[App]:
    """Migrate the database, open what is needed, bind the server; close everything on leaving."""
    await migrate(config.database.url, "tracking")
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(config.database))
        clickhouse = await stack.enter_async_context(ClickHouse(config.clickhouse))
        objects = await stack.enter_async_context(S3ObjectStore(config.s3))
        producer = await stack.enter_async_context(EventProducer(config.kafka))
        channel = open_channel(config.targets.catalog, token=config.token, tls=config.tls)
        authority = CatalogAuthority(await stack.enter_async_context(channel))
        # Calls for others bring those others' tokens.
        bare = await stack.enter_async_context(open_channel(config.targets.catalog, tls=config.tls))
        store = SqlStore(database, ClickHousePoints(clickhouse))
        hooks = Hooks(
            await stack.enter_async_context(HttpHookSender(config.webhook_urls)),
            FernetBox(config.webhook_key),
            config.webhook_urls,
        )
        models = CatalogRegistry(bare)
        files = ObjectArtifacts(objects)
        cases = use_cases(
            store,
            files,
            await stack.enter_async_context(ClickHouseSpans(clickhouse)),
            authority,
            artifact_root=f"s3://{config.s3.bucket}/{ObjectArtifacts.ROOT}",
            registry=models,
            default_schema=config.default_schema,
            hooks=hooks,
        )
        news = RegistryNews(
            Webhooks(store, Access(authority, store), hooks, SystemClock()),
            partial(models.get_model, config.token.reveal()),
            default_schema=config.default_schema,
        )
        await cases.experiments.ensure_default()
        stack.push_async_callback(cases.log.close)
        stack.push_async_callback(cases.runs.close)
        if cases.registry is not None:
            stack.push_async_callback(cases.registry.files.close)
        yield App(
            servers=(
                build_server(config.rpc, [binding(cases)], authenticator=authority),
                build_http_server(
                    config.http,
                    [
                        *mlflow_routes(cases, uploads_in_parts=bool(config.s3.public_endpoint)),
                        *page_routes(cases, CatalogLineage(bare)),
                    ],
                    authenticator=authority,
                    render=mlflow_error,
                ),
            ),
            background=(
                BackgroundTask("outbox-relay", OutboxRelay(database, producer).run),
                BackgroundTask("point-carrier", store.carrier.run),
                BackgroundTask("webhooks", Deliveries(store, hooks, SystemClock()).run),
                BackgroundTask(
                    "upload-sweep", UploadSweep(files, SystemClock(), config.upload_age).run
                ),
                BackgroundTask("registry-news", RegistryConsumer(config.kafka, news, producer).run),
                BackgroundTask("metrics", MetricConsumer(config.kafka, cases.log, producer).run),
                BackgroundTask("default-experiment", cases.experiments.register_default),
                watch_grants(authority, config.kafka),
            ),
        )
