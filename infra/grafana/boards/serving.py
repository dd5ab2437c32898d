"""Endpoints: requests, latency, what is captured of them, the model runtime, and the rows."""

from __future__ import annotations

from typing import Final

from infra.grafana.boards import promql
from infra.grafana.boards.model import (
    ClickHouseVariable,
    Dashboard,
    Panel,
    Prom,
    PromVariable,
    Row,
    Sql,
    stat,
    steps,
)
from infra.grafana.boards.serving_rows import ROWS
from tessera_kit.telemetry import names

__all__ = ["SERVING"]

_CHOSEN: Final = {names.ENDPOINT: '=~"$endpoint"'}
_FAILED: Final = {names.RPC_STATUS: '!="OK"'}
_SINK: Final = {names.MESSAGING_GROUP: '="inference-sink"'}


_NOW: Final = Row(
    "Now",
    (
        stat(
            "Requests",
            "Requests that the gateway answered per second.",
            Prom(promql.rate(promql.total(names.INFERENCE_REQUESTS), where=_CHOSEN)),
            unit="reqps",
            empty="0",
        ),
        stat(
            "Failed requests",
            "Share of the requests that did not end with OK, the callers' own mistakes included.",
            Prom(promql.share(promql.total(names.INFERENCE_REQUESTS), _FAILED, where=_CHOSEN)),
            unit="percentunit",
            thresholds=steps(0.01, 0.05),
            empty="0",
        ),
        stat(
            "Gateway, 99th percentile",
            "From a request's arrival at the gateway to its reply; one in a hundred is slower.",
            Prom(promql.quantile(0.99, names.INFERENCE_DURATION, where=_CHOSEN)),
            unit="s",
        ),
        stat(
            "Waiting in the spool",
            "Payload records that are on the gateway's disk and not on the bus yet. Grows while "
            "the bus is away; it must fall to 0 afterwards.",
            Prom(promql.gauge(names.SPOOL_PENDING)),
            unit="bytes",
            thresholds=steps(1 << 20, 1 << 28),
            empty="0",
        ),
        stat(
            "Table lag, 99th percentile",
            "From a response to its row being readable; one row in a hundred takes longer.",
            Prom(promql.quantile(0.99, names.TABLE_LAG, where=_CHOSEN)),
            unit="s",
            thresholds=steps(2, 10),
        ),
        stat(
            "Doubled rows",
            "Rows of the chosen inference table in the time range whose request id another row has "
            "too. Anything but 0 is a defect.",
            Sql(
                """
                SELECT count() - uniqExact(tessera_request_id) AS doubled
                FROM ${table}
                WHERE $__timeFilter(request_time)
                """
            ),
            thresholds=steps(1),
        ),
    ),
)

_TRAFFIC: Final = Row(
    "Traffic",
    (
        Panel(
            "Requests by endpoint",
            "Requests that the gateway answered per second.",
            (
                Prom(
                    promql.rate(promql.total(names.INFERENCE_REQUESTS), (names.ENDPOINT,), _CHOSEN),
                    "{{tessera_endpoint_name}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "Requests by version",
            "How the traffic is split between model versions; version 0 are requests that reached "
            "none.",
            (
                Prom(
                    promql.rate(
                        promql.total(names.INFERENCE_REQUESTS),
                        (names.ENDPOINT, names.MODEL_VERSION),
                        _CHOSEN,
                    ),
                    "{{tessera_endpoint_name}} v{{tessera_model_version}}",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Errors by status",
            "Requests per second that did not end with OK, by gRPC status.",
            (
                Prom(
                    promql.rate(
                        promql.total(names.INFERENCE_REQUESTS),
                        (names.ENDPOINT, names.RPC_STATUS),
                        {**_CHOSEN, **_FAILED},
                    ),
                    "{{tessera_endpoint_name}} {{rpc_response_status_code}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "Mirrored requests",
            "Requests per second that shadow entities were asked too, by what became of them; "
            "dropped ones were beyond the entity's bound.",
            (
                Prom(
                    promql.rate(
                        promql.total(names.INFERENCE_SHADOWS),
                        (names.ENTITY, names.OUTCOME),
                        _CHOSEN,
                    ),
                    "{{tessera_served_entity_name}} {{tessera_outcome}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "Fallbacks",
            "Requests per second that another entity was asked, by that entity and the status of "
            "the one before.",
            (
                Prom(
                    promql.rate(
                        promql.total(names.INFERENCE_FALLBACKS),
                        (names.ENTITY, names.RPC_STATUS),
                        _CHOSEN,
                    ),
                    "{{tessera_served_entity_name}} after {{rpc_response_status_code}}",
                ),
            ),
            unit="reqps",
        ),
    ),
)

_BY_VERSION: Final = (names.ENDPOINT, names.MODEL_VERSION)
_VERSION: Final = "{{tessera_endpoint_name}} v{{tessera_model_version}}"

_LATENCY: Final = Row(
    "Latency",
    (
        Panel(
            "Gateway",
            "From a request's arrival at the gateway to its reply, median and 99th percentile.",
            (
                Prom(
                    promql.quantile(0.5, names.INFERENCE_DURATION, _BY_VERSION, _CHOSEN),
                    f"{_VERSION} p50",
                ),
                Prom(
                    promql.quantile(0.99, names.INFERENCE_DURATION, _BY_VERSION, _CHOSEN),
                    f"{_VERSION} p99",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Model",
            "Time that the model runtime took as the gateway saw it, median and 99th percentile.",
            (
                Prom(
                    promql.quantile(0.5, names.INFERENCE_MODEL_DURATION, _BY_VERSION, _CHOSEN),
                    f"{_VERSION} p50",
                ),
                Prom(
                    promql.quantile(0.99, names.INFERENCE_MODEL_DURATION, _BY_VERSION, _CHOSEN),
                    f"{_VERSION} p99",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Loading of idle models",
            "How long models that were scaled to zero took to be loaded because somebody asked.",
            (
                Prom(promql.quantile(0.5, names.INFERENCE_WAKE_DURATION), "p50"),
                Prom(promql.quantile(0.99, names.INFERENCE_WAKE_DURATION), "p99"),
            ),
            unit="s",
        ),
        Panel(
            "The gateway's own time",
            "Mean time of a request without the model's part: identity, rules, routing, the spool.",
            (
                Prom(
                    f"({promql.mean(names.INFERENCE_DURATION, _BY_VERSION, _CHOSEN)})"
                    f" - ({promql.mean(names.INFERENCE_MODEL_DURATION, _BY_VERSION, _CHOSEN)})",
                    _VERSION,
                ),
            ),
            unit="s",
        ),
    ),
)

_CAPTURE: Final = Row(
    "Capture: from the reply to the row",
    (
        Panel(
            "Payload records",
            "Records appended to the gateway's spool and shipped to the bus. While the spool is "
            "full: refused, whose requests failed, and lost, whose requests were answered; neither "
            "has a row.",
            (
                Prom(
                    promql.rate(promql.total(names.SPOOL_RECORDS), (names.OUTCOME,)),
                    "{{tessera_outcome}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Waiting in the spool",
            "Bytes that are on the gateway's disk and not on the bus yet.",
            (Prom(promql.gauge(names.SPOOL_PENDING), "pending"),),
            unit="bytes",
        ),
        Panel(
            "To the bus",
            "From the arrival of a batch's first request to the batch being on the bus, median and "
            "99th percentile.",
            (
                Prom(promql.quantile(0.5, names.SPOOL_DELAY), "p50"),
                Prom(promql.quantile(0.99, names.SPOOL_DELAY), "p99"),
            ),
            unit="s",
        ),
        Panel(
            "Bodies removed",
            "Bodies that left the object store per hour because the retention of their inference "
            "table had passed and their rows were gone.",
            (Prom(f"3600 * {promql.rate(promql.total(names.BODIES_REMOVED))}", "removed"),),
        ),
        Panel(
            "Rows written",
            "Rows that the sink wrote to inference tables per second.",
            (
                Prom(
                    promql.rate(promql.total(names.SINK_ROWS), (names.ENDPOINT,), _CHOSEN),
                    "{{tessera_endpoint_name}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Table lag",
            "From a response to its row being readable, median and 99th percentile.",
            (
                Prom(
                    promql.quantile(0.5, names.TABLE_LAG, (names.ENDPOINT,), _CHOSEN),
                    "{{tessera_endpoint_name}} p50",
                ),
                Prom(
                    promql.quantile(0.99, names.TABLE_LAG, (names.ENDPOINT,), _CHOSEN),
                    "{{tessera_endpoint_name}} p99",
                ),
            ),
            unit="s",
            thresholds=steps(2),
        ),
        Panel(
            "Sink batches",
            "Time to write a batch of records, median and 99th percentile.",
            (
                Prom(promql.quantile(0.5, names.BUS_PROCESS_DURATION, where=_SINK), "p50"),
                Prom(promql.quantile(0.99, names.BUS_PROCESS_DURATION, where=_SINK), "p99"),
            ),
            unit="s",
        ),
        Panel(
            "Duplicates and dead letters",
            "Records that came again and were passed over, and records that can be no row, per "
            "second.",
            (
                Prom(promql.rate(promql.total(names.BUS_DUPLICATES), where=_SINK), "duplicates"),
                Prom(
                    promql.rate(promql.total(names.BUS_DEAD_LETTERS), where=_SINK), "dead letters"
                ),
            ),
            unit="cps",
        ),
    ),
)

_MODEL: Final = ("model",)
_OK: Final = promql.rate(promql.TRITON_SUCCESSES, _MODEL)


def _triton_time(series: promql.Series) -> Prom:
    return Prom(f"{promql.rate(series, _MODEL)} / {_OK} / 1e6", "{{model}}")


_TRITON: Final = Row(
    "Model runtime (Triton)",
    (
        Panel(
            "Requests",
            "Requests that each loaded model answered per second.",
            (Prom(_OK, "{{model}}"),),
            unit="reqps",
        ),
        Panel(
            "Failures",
            "Requests per second that failed in the runtime.",
            (Prom(promql.rate(promql.TRITON_FAILURES, _MODEL), "{{model}}"),),
            unit="reqps",
        ),
        Panel(
            "Rows per execution",
            "How many rows the runtime puts into one run of the model: dynamic batching at work.",
            (
                Prom(
                    f"{promql.rate(promql.TRITON_COUNT, _MODEL)}"
                    f" / {promql.rate(promql.TRITON_EXECUTIONS, _MODEL)}",
                    "{{model}}",
                ),
            ),
        ),
        Panel(
            "Duration",
            "Mean time of a request in the runtime, waiting included.",
            (_triton_time(promql.TRITON_REQUESTS),),
            unit="s",
        ),
        Panel(
            "Waiting",
            "Mean time that a request waits for the model to be free or for its batch to fill.",
            (_triton_time(promql.TRITON_QUEUE),),
            unit="s",
        ),
        Panel(
            "Computing",
            "Mean time that the model itself takes for a request's batch.",
            (_triton_time(promql.TRITON_COMPUTE),),
            unit="s",
        ),
    ),
)


_REQUESTS: Final = promql.total(names.INFERENCE_REQUESTS)

SERVING: Final = Dashboard(
    uid="tessera-serving",
    title="Serving",
    description="Endpoints: traffic, latency, capture, the model runtime and the inference tables.",
    variables=(
        PromVariable(
            "endpoint",
            "Endpoint",
            f"label_values({_REQUESTS.name}, {promql.label(names.ENDPOINT)})",
        ),
        ClickHouseVariable(
            "table",
            "Inference table",
            # What is put in is quoted: names may hold dashes.
            """
            SELECT
                concat('`', database, '`.`', name, '`') AS value,
                concat(database, '.', name) AS text
            FROM system.tables
            WHERE endsWith(name, '_payload')
                AND startsWith(database, concat(currentDatabase(), '_'))
            ORDER BY metadata_modification_time DESC
            """,
        ),
    ),
    rows=(_NOW, _TRAFFIC, _LATENCY, _CAPTURE, _TRITON, ROWS),
)
