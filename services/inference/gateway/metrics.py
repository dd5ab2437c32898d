"""What the gateway counts; labels are looked up once per endpoint, version and status."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

from services.inference.gateway.records import Exchange
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics

__all__ = ["GatewayMetrics"]

_UNKNOWN = "_unknown"


class GatewayMetrics:
    """Counters and histograms of inference requests.

    Args:
        metrics: The process's instruments.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter(names.INFERENCE_REQUESTS)
        self._durations = metrics.histogram(names.INFERENCE_DURATION)
        self._model_durations = metrics.histogram(names.INFERENCE_MODEL_DURATION)
        self._children: dict[tuple[str, int, str], tuple[Any, Any, Any]] = {}
        self._shadows = metrics.counter(names.INFERENCE_SHADOWS)
        self._wakes = metrics.histogram(names.INFERENCE_WAKE_DURATION)
        self._fallbacks = metrics.counter(names.INFERENCE_FALLBACKS)
        self.unlogged = metrics.counter(names.SPOOL_RECORDS).labels("refused")
        self.lost = metrics.counter(names.SPOOL_RECORDS).labels("lost")
        self.sampled_out = metrics.counter(names.SPOOL_RECORDS).labels("sampled out")
        self._appended = metrics.counter(names.SPOOL_RECORDS).labels("appended")

    def observe(self, exchange: Exchange, code: str) -> None:
        """Count a request that has ended with the gRPC status `code`, and its record."""
        self.count_kept(exchange)
        served = exchange.served
        # A name that is no endpoint's is the caller's own text: it must not become a label.
        endpoint = exchange.endpoint if exchange.route is not None else _UNKNOWN
        key = (endpoint, served.model_version if served is not None else 0, code)
        children = self._children.get(key)
        if children is None:
            version = str(key[1])
            children = self._children[key] = (
                self._requests.labels(endpoint, version, code),
                self._durations.labels(endpoint, version),
                self._model_durations.labels(endpoint, version),
            )
        requests, durations, model_durations = children
        requests.inc()
        durations.observe((perf_counter_ns() - exchange.began) / 1e9)
        if served is not None:
            model_durations.observe(exchange.execution_us / 1e6)

    def count_kept(self, exchange: Exchange) -> None:
        """Count an exchange's record, if there is one; its reply does not wait for that."""
        if exchange.spool_ended:
            self._appended.inc()

    def count_shadow(self, endpoint: str, entity: str, outcome: str) -> None:
        """Count a mirrored request: answered, failed, or dropped because of the bound."""
        self._shadows.labels(endpoint, entity, outcome).inc()

    def observe_wake(self, seconds: float) -> None:
        """Note how long a served entity took to be loaded because it was asked for."""
        self._wakes.observe(seconds)

    def count_fallback(self, endpoint: str, entity: str, code: str) -> None:
        """Count a request that is asked of another entity because of a gRPC status."""
        self._fallbacks.labels(endpoint, entity, code).inc()
