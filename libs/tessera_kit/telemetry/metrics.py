"""Instruments of the metrics that `names` declares, on one Prometheus registry per process.

Code on a hot path keeps the child that `labels(...)` returns: to observe it costs under 1 µs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from tessera_kit.telemetry.names import Instrument, Metric

__all__ = ["Metrics", "counter", "gauge", "histogram", "process_metrics"]

K = TypeVar("K", bound=MetricWrapperBase)


class Metrics:
    """The instruments of one registry; asking twice for a metric gives the same instrument.

    Args:
        registry: Where they are collected; a new one when None.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=True) if registry is None else registry
        self._instruments: dict[str, MetricWrapperBase] = {}
        self._lock = threading.Lock()

    def counter(self, metric: Metric) -> Counter:
        """Return the counter; `.labels(...)` takes one value per attribute, in order."""
        return self._instrument(
            metric,
            Instrument.COUNTER,
            lambda: Counter(
                metric.prometheus_name, metric.description, metric.labels, registry=self.registry
            ),
        )

    def gauge(self, metric: Metric) -> Gauge:
        """Return the gauge; `set_function` costs nothing until it is read."""
        return self._instrument(
            metric,
            Instrument.GAUGE,
            lambda: Gauge(
                metric.prometheus_name, metric.description, metric.labels, registry=self.registry
            ),
        )

    def histogram(self, metric: Metric) -> Histogram:
        """Return the histogram."""
        return self._instrument(
            metric,
            Instrument.HISTOGRAM,
            lambda: Histogram(
                metric.prometheus_name,
                metric.description,
                metric.labels,
                registry=self.registry,
                buckets=metric.buckets,
            ),
        )

    def _instrument(self, metric: Metric, kind: Instrument, make: Callable[[], K]) -> K:
        if metric.instrument is not kind:
            raise TypeError(f"{metric.name} is a {metric.instrument.value}")
        with self._lock:
            found = self._instruments.get(metric.name)
            if found is None:
                found = self._instruments[metric.name] = make()
        return found  # type: ignore[return-value]  # one name is one kind, checked above


@cache
def process_metrics() -> Metrics:
    """Return the instruments of this process, which its `/metrics` door shows."""
    return Metrics()


def counter(metric: Metric) -> Counter:
    """Return this process's counter of the metric."""
    return process_metrics().counter(metric)


def gauge(metric: Metric) -> Gauge:
    """Return this process's gauge of the metric."""
    return process_metrics().gauge(metric)


def histogram(metric: Metric) -> Histogram:
    """Return this process's histogram of the metric."""
    return process_metrics().histogram(metric)
