"""PromQL over metrics that are declared, never typed by hand.

Names and labels come from `tessera_kit.telemetry.names`; those that other people's exporters bring
are declared here, once. A label that a metric does not have is an error when the dashboard is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tessera_kit.telemetry.names import Instrument, Metric

__all__ = [
    "CPU_SECONDS",
    "MEMORY",
    "OPEN_FILES",
    "OTHERS",
    "SERVICE",
    "START_TIME",
    "TRITON_COMPUTE",
    "TRITON_FAILURES",
    "TRITON_QUEUE",
    "TRITON_REQUESTS",
    "TRITON_SUCCESSES",
    "UP",
    "Series",
    "count",
    "gauge",
    "increase",
    "mean",
    "quantile",
    "rate",
    "share",
    "total",
]

SERVICE: Final = "service"
"""The label that names a process; `infra/prometheus/prometheus.yml` gives it."""
JOB: Final = "job"
_SCRAPED: Final = frozenset({SERVICE, JOB, "instance"})


@dataclass(frozen=True, slots=True)
class Series:
    """Time series of one name."""

    name: str
    labels: frozenset[str] = frozenset()


UP: Final = Series("up")
MEMORY: Final = Series("process_resident_memory_bytes")
CPU_SECONDS: Final = Series("process_cpu_seconds_total")
OPEN_FILES: Final = Series("process_open_fds")
START_TIME: Final = Series("process_start_time_seconds")

_MODEL: Final = frozenset({"model", "version"})
TRITON_SUCCESSES: Final = Series("nv_inference_request_success", _MODEL)
TRITON_FAILURES: Final = Series("nv_inference_request_failure", _MODEL)
TRITON_REQUESTS: Final = Series("nv_inference_request_duration_us", _MODEL)
TRITON_QUEUE: Final = Series("nv_inference_queue_duration_us", _MODEL)
TRITON_COMPUTE: Final = Series("nv_inference_compute_infer_duration_us", _MODEL)
TRITON_COUNT: Final = Series("nv_inference_count", _MODEL)
TRITON_EXECUTIONS: Final = Series("nv_inference_exec_count", _MODEL)

OTHERS: Final = (
    *(UP, MEMORY, CPU_SECONDS, OPEN_FILES, START_TIME),
    *(TRITON_SUCCESSES, TRITON_FAILURES, TRITON_REQUESTS, TRITON_QUEUE, TRITON_COMPUTE),
    *(TRITON_COUNT, TRITON_EXECUTIONS),
)
"""Series that are not ours."""

Where = Mapping[str, str]
"""Attribute or label to an operator and a text, as `{"rpc.method": '!~"grpc[.].*"'}`."""


def total(metric: Metric) -> Series:
    """The series of a counter."""
    return _series(metric, Instrument.COUNTER, "_total")


def count(metric: Metric) -> Series:
    """The series that counts a histogram's observations."""
    return _series(metric, Instrument.HISTOGRAM, "_count")


def gauge(metric: Metric, by: tuple[str, ...] = (), where: Where | None = None) -> str:
    """The sum of a gauge."""
    return _sum(_selector(_series(metric, Instrument.GAUGE, ""), by, where), by)


def rate(series: Series, by: tuple[str, ...] = (), where: Where | None = None) -> str:
    """How fast a counter grows, per second."""
    return _sum(f"rate({_selector(series, by, where)}[$__rate_interval])", by)


def increase(series: Series, by: tuple[str, ...] = (), where: Where | None = None) -> str:
    """By how much a counter grew over the whole time range."""
    return _sum(f"increase({_selector(series, by, where)}[$__range])", by)


def share(series: Series, part: Where, by: tuple[str, ...] = (), where: Where | None = None) -> str:
    """Which share of a counter's growth meets `part`, 0 to 1; 0 where nothing meets it."""
    whole = rate(series, by, where)
    met = rate(series, by, {**(where or {}), **part})
    return f"({met} or {whole} * 0) / {whole}"


def quantile(
    share_below: float, metric: Metric, by: tuple[str, ...] = (), where: Where | None = None
) -> str:
    """A quantile of a histogram."""
    buckets = _series(metric, Instrument.HISTOGRAM, "_bucket")
    buckets = Series(buckets.name, buckets.labels | {"le"})
    return f"histogram_quantile({share_below:g}, {rate(buckets, (*by, 'le'), where)})"


def mean(metric: Metric, by: tuple[str, ...] = (), where: Where | None = None) -> str:
    """The mean of a histogram."""
    sums = _series(metric, Instrument.HISTOGRAM, "_sum")
    return f"{rate(sums, by, where)} / {rate(count(metric), by, where)}"


def label(attribute: str) -> str:
    """The Prometheus label of an attribute."""
    return attribute.replace(".", "_")


def plain(
    series: Series, by: tuple[str, ...] = (), where: Where | None = None, how: str = "sum"
) -> str:
    """An aggregate of the series as they are."""
    return _sum(_selector(series, by, where), by, how)


def _series(metric: Metric, kind: Instrument, suffix: str) -> Series:
    if metric.instrument is not kind:
        raise ValueError(f"{metric.name} is a {metric.instrument.value}")
    return Series(metric.prometheus_name + suffix, frozenset(metric.labels))


def _selector(series: Series, by: tuple[str, ...], where: Where | None) -> str:
    conditions = {label(name): condition for name, condition in (where or {}).items()}
    unknown = {*map(label, by), *conditions} - series.labels - _SCRAPED
    if unknown:
        raise ValueError(f"{series.name} has no label {', '.join(sorted(unknown))}")
    inside = ", ".join(f"{name}{condition}" for name, condition in conditions.items())
    return f"{series.name}{{{inside}}}" if inside else series.name


def _sum(expression: str, by: tuple[str, ...], how: str = "sum") -> str:
    grouped = f" by ({', '.join(map(label, by))})" if by else ""
    return f"{how}{grouped} ({expression})"
