"""Starts and stops a process's telemetry: logs, traces and the Prometheus door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from opentelemetry import metrics as otel_metrics
from opentelemetry import trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer
from prometheus_client import (
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from tessera_kit.config import TelemetryConfig
from tessera_kit.telemetry import exporters
from tessera_kit.telemetry.calls import ServerCalls
from tessera_kit.telemetry.logs import CountingHandler, configure_logging
from tessera_kit.telemetry.metrics import Metrics, process_metrics
from tessera_kit.telemetry.sampling import BoundedShare, ParentOrRatio

__all__ = ["Telemetry", "active_telemetry", "telemetry"]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What records this process's doings."""

    service_name: str = "tessera"
    """Name of the process in traces and logs."""
    metrics: Metrics = field(default_factory=process_metrics)
    """Its instruments."""
    tracer: Tracer | None = None
    """Makes recorded spans; None where they would go nowhere."""
    recorded: BoundedShare = field(default_factory=lambda: BoundedShare(0.0, 0.0))
    """Picks the traces begun here that are recorded, for all servers of the process."""
    metrics_address: str | None = None
    """`host:port` of the Prometheus door."""

    def server_calls(self) -> ServerCalls:
        """Return the recorder of served calls."""
        return ServerCalls(self.metrics, self.tracer, self.recorded)


_active: list[Telemetry] = []


def active_telemetry() -> Telemetry:
    """Return what `telemetry` started last; one that only counts when nothing is started."""
    return _active[-1] if _active else Telemetry()


@asynccontextmanager
async def telemetry(
    config: TelemetryConfig, service_name: str, *, metrics: Metrics | None = None
) -> AsyncIterator[Telemetry]:
    """Start logs, traces and metrics; on leaving, flush and stop them.

    Args:
        config: Where they go.
        service_name: Name of the process, as `catalog`.
        metrics: Instruments to show; this process's when None.

    Raises:
        OSError: The Prometheus door cannot be bound.
    """
    metrics = metrics or process_metrics()
    async with AsyncExitStack() as stack:
        _start_logs(stack, config, service_name, metrics)
        tracer = _start_traces(stack, config, service_name, metrics)
        address = _start_metrics(stack, config, service_name, metrics)
        started = Telemetry(
            service_name=service_name,
            metrics=metrics,
            tracer=tracer,
            recorded=BoundedShare(config.sample_ratio, config.most_traces_per_second),
            metrics_address=address,
        )
        _active.append(started)
        stack.callback(_active.remove, started)
        yield started


def _resource(service_name: str) -> Resource:
    return Resource.create({"service.name": service_name, "service.namespace": "tessera"})


def _start_logs(
    stack: AsyncExitStack, config: TelemetryConfig, service_name: str, metrics: Metrics
) -> None:
    root = logging.getLogger()
    before = list(root.handlers)
    configure_logging(service_name, config.log_level)
    root.addHandler(CountingHandler(metrics))

    def restore() -> None:
        root.handlers[:] = before

    stack.callback(restore)
    exporter = exporters.log_exporter(config, metrics)
    if exporter is not None:
        handler = exporters.LogExportHandler(exporter, _resource(service_name))
        root.addHandler(handler)
        stack.push_async_callback(asyncio.to_thread, handler.close)


def _start_traces(
    stack: AsyncExitStack, config: TelemetryConfig, service_name: str, metrics: Metrics
) -> Tracer | None:
    exporter = exporters.span_exporter(config, metrics)
    if exporter is None:
        return None
    provider = TracerProvider(
        sampler=ParentOrRatio(config.sample_ratio),
        resource=_resource(service_name),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=16_384,
            schedule_delay_millis=1000,
            max_export_batch_size=4096,
        )
    )
    stack.push_async_callback(asyncio.to_thread, provider.shutdown)
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(provider)
    return provider.get_tracer("tessera")


def _start_metrics(
    stack: AsyncExitStack, config: TelemetryConfig, service_name: str, metrics: Metrics
) -> str | None:
    if config.metrics_listen is None:
        return None
    # They double the series, and nothing reads them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = metrics.registry
    for collector in (GCCollector, PlatformCollector, ProcessCollector):
        stack.callback(registry.unregister, collector(registry=registry))
    # Libraries that measure through OpenTelemetry show on the same page.
    reader = PrometheusMetricReader(registry=registry, scope_info_enabled=False)
    meters = MeterProvider([reader], _resource(service_name), shutdown_on_exit=False)
    stack.callback(meters.shutdown)
    if not isinstance(otel_metrics.get_meter_provider(), MeterProvider):
        otel_metrics.set_meter_provider(meters)
    host, _, port = config.metrics_listen.rpartition(":")
    server, thread = start_http_server(int(port), addr=host, registry=registry)

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    stack.callback(close)
    return f"{host}:{server.server_port}"
