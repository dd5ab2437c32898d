"""The health of every process: calls, the bus, stores, memory, and what went wrong lately."""

from __future__ import annotations

from typing import Final

from infra.grafana.boards import promql
from infra.grafana.boards.model import Dashboard, Kind, Panel, Prom, PromVariable, Row, stat, steps
from infra.grafana.boards.platform_trail import TRAIL
from infra.grafana.boards.promql import SERVICE
from tessera_kit.telemetry import names

__all__ = ["PLATFORM"]

_CHOSEN: Final = {SERVICE: '=~"$service"'}
# Health checks and reflection are not what anybody came for.
_CALLS: Final = {**_CHOSEN, names.RPC_METHOD: '!~"grpc[.].*"'}
_FAILED: Final = {
    names.RPC_STATUS: '=~"UNKNOWN|DEADLINE_EXCEEDED|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS"'
}
_TOPIC_AND_GROUP: Final = (names.MESSAGING_DESTINATION, names.MESSAGING_GROUP)
_LEGEND_TOPIC_GROUP: Final = "{{messaging_destination_name}} → {{messaging_consumer_group_name}}"

_NOW: Final = Row(
    "Now",
    (
        stat(
            "Processes up",
            "Processes of the platform whose metrics Prometheus could read; the embedded stack and "
            "docker-compose.yml run six. Fewer: see `status` or `docker compose ps`.",
            Prom(promql.plain(promql.UP, where={promql.JOB: '="tessera"', **_CHOSEN})),
            thresholds=steps(6, 5),
            empty="0",
        ),
        stat(
            "Calls",
            "gRPC calls that ended, without health checks.",
            Prom(promql.rate(promql.count(names.RPC_SERVER_DURATION), where=_CALLS)),
            unit="reqps",
            empty="0",
        ),
        stat(
            "Failed calls",
            "Share of the calls that ended with a status that is the server's fault: INTERNAL, "
            "UNAVAILABLE, DEADLINE_EXCEEDED, UNKNOWN, UNIMPLEMENTED, DATA_LOSS.",
            Prom(promql.share(promql.count(names.RPC_SERVER_DURATION), _FAILED, where=_CALLS)),
            unit="percentunit",
            thresholds=steps(0.001, 0.01),
            empty="0",
        ),
        stat(
            "Dead letters",
            "Messages that could not be handled, over the time range. Each is kept with its reason "
            "in the topic `<topic>.dead-letter`.",
            Prom(promql.increase(promql.total(names.BUS_DEAD_LETTERS), where=_CHOSEN)),
            thresholds=steps(1),
            empty="0",
        ),
        stat(
            "Webhooks given up",
            "Events that a webhook's receiver did not take, over the time range. Each is kept with "
            "its reason: `ListGivenUpDeliveries` of the tracking service.",
            Prom(promql.increase(promql.total(names.TRACKING_WEBHOOKS_GIVEN_UP), where=_CHOSEN)),
            thresholds=steps(1),
            empty="0",
        ),
        stat(
            "Outbox",
            "Facts that are stored and not yet told. Grows while the bus is away; it must fall to "
            "0 afterwards.",
            Prom(promql.gauge(names.OUTBOX_PENDING, where=_CHOSEN)),
            thresholds=steps(100, 10_000),
            empty="0",
        ),
        stat(
            "Background failures",
            "Failures of background work that it recovered from by itself, over the time range.",
            Prom(promql.increase(promql.total(names.BACKGROUND_FAILURES), where=_CHOSEN)),
            thresholds=steps(1, 100),
            empty="0",
        ),
    ),
)

_CALL_ROW: Final = Row(
    "Calls",
    (
        Panel(
            "Calls by method",
            "How many calls of each method end per second.",
            (
                Prom(
                    promql.rate(
                        promql.count(names.RPC_SERVER_DURATION), (names.RPC_METHOD,), _CALLS
                    ),
                    "{{rpc_method}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "Failed share by method",
            "Share of each method's calls that ended with a status that is the server's fault.",
            (
                Prom(
                    promql.share(
                        promql.count(names.RPC_SERVER_DURATION),
                        _FAILED,
                        (names.RPC_METHOD,),
                        _CALLS,
                    ),
                    "{{rpc_method}}",
                ),
            ),
            unit="percentunit",
            maximum=1,
            thresholds=steps(0.01),
        ),
        Panel(
            "Refused calls by status",
            "Calls that did not end with OK, by service and status. Most are the callers' own: "
            "NOT_FOUND, INVALID_ARGUMENT, UNAUTHENTICATED.",
            (
                Prom(
                    promql.rate(
                        promql.count(names.RPC_SERVER_DURATION),
                        (SERVICE, names.RPC_STATUS),
                        {**_CALLS, names.RPC_STATUS: '!="OK"'},
                    ),
                    "{{service}} {{rpc_response_status_code}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "Duration, median",
            "Half of each method's calls are faster. Streams count until they end.",
            (
                Prom(
                    promql.quantile(0.5, names.RPC_SERVER_DURATION, (names.RPC_METHOD,), _CALLS),
                    "{{rpc_method}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Duration, 99th percentile",
            "One in a hundred of each method's calls is slower. Streams count until they end.",
            (
                Prom(
                    promql.quantile(0.99, names.RPC_SERVER_DURATION, (names.RPC_METHOD,), _CALLS),
                    "{{rpc_method}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Duration of calls made, 99th percentile",
            "One in a hundred of the calls that a process makes to another one is slower, its "
            "retries included.",
            (
                Prom(
                    promql.quantile(
                        0.99, names.RPC_CLIENT_DURATION, (SERVICE, names.RPC_METHOD), _CHOSEN
                    ),
                    "{{service}} {{rpc_method}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Calls in flight",
            "Calls that run now, by process and door.",
            (
                Prom(
                    promql.gauge(names.RPC_SERVER_ACTIVE, (SERVICE, names.SERVER_ADDRESS), _CHOSEN),
                    "{{service}} {{server_address}}",
                ),
            ),
        ),
        Panel(
            "Questions to the authority",
            "Who asks whether a caller may do something, and what answered: the cache, the "
            "catalog, or a stale answer while the catalog was away.",
            (
                Prom(
                    promql.rate(
                        promql.total(names.AUTHORITY_REQUESTS), (SERVICE, names.OUTCOME), _CHOSEN
                    ),
                    "{{service}} {{tessera_outcome}}",
                ),
            ),
            unit="reqps",
        ),
    ),
)

_BUS: Final = Row(
    "Bus",
    (
        Panel(
            "Sent",
            "Messages that the broker acknowledged, or that failed to be, by topic.",
            (
                Prom(
                    promql.rate(
                        promql.total(names.BUS_SENT),
                        (names.MESSAGING_DESTINATION, names.OUTCOME),
                        _CHOSEN,
                    ),
                    "{{messaging_destination_name}} {{tessera_outcome}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Consumed",
            "Messages fetched, by topic and consumer group.",
            (
                Prom(
                    promql.rate(promql.total(names.BUS_CONSUMED), _TOPIC_AND_GROUP, _CHOSEN),
                    _LEGEND_TOPIC_GROUP,
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Delay, 99th percentile",
            "From an event's making to the start of its handling. Grows when a consumer cannot "
            "keep up or was away.",
            (
                Prom(
                    promql.quantile(0.99, names.BUS_DELIVERY_DELAY, _TOPIC_AND_GROUP, _CHOSEN),
                    _LEGEND_TOPIC_GROUP,
                ),
            ),
            unit="s",
        ),
        Panel(
            "Send, 99th percentile",
            "From a send to its acknowledgement.",
            (
                Prom(
                    promql.quantile(
                        0.99, names.BUS_SEND_DURATION, (names.MESSAGING_DESTINATION,), _CHOSEN
                    ),
                    "{{messaging_destination_name}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Handling, 99th percentile",
            "Time to handle an event, or a batch of records where a sink takes batches.",
            (
                Prom(
                    promql.quantile(0.99, names.BUS_PROCESS_DURATION, _TOPIC_AND_GROUP, _CHOSEN),
                    _LEGEND_TOPIC_GROUP,
                ),
            ),
            unit="s",
        ),
        Panel(
            "Failed handling",
            "Attempts to handle that failed; each is tried again, or becomes a dead letter.",
            (
                Prom(
                    promql.rate(
                        promql.count(names.BUS_PROCESS_DURATION),
                        _TOPIC_AND_GROUP,
                        {**_CHOSEN, names.OUTCOME: '!="ok"'},
                    ),
                    _LEGEND_TOPIC_GROUP,
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Dead letters",
            "Messages that could not be handled, per second, by topic and consumer group.",
            (
                Prom(
                    promql.rate(promql.total(names.BUS_DEAD_LETTERS), _TOPIC_AND_GROUP, _CHOSEN),
                    _LEGEND_TOPIC_GROUP,
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Duplicates",
            "Messages that came again and were passed over: after a crash they are what keeps each "
            "effect single.",
            (
                Prom(
                    promql.rate(promql.total(names.BUS_DUPLICATES), _TOPIC_AND_GROUP, _CHOSEN),
                    _LEGEND_TOPIC_GROUP,
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Outbox",
            "Facts that wait in each service's database to be told, and those told per second.",
            (
                Prom(promql.gauge(names.OUTBOX_PENDING, (SERVICE,), _CHOSEN), "{{service}} waits"),
                Prom(
                    promql.rate(promql.total(names.OUTBOX_PUBLISHED), (SERVICE,), _CHOSEN),
                    "{{service}} told/s",
                ),
            ),
        ),
    ),
)

_WORK: Final = Row(
    "Stores and jobs",
    (
        Panel(
            "ClickHouse, 99th percentile",
            "Time of the services' operations on ClickHouse.",
            (
                Prom(
                    promql.quantile(
                        0.99, names.CLICKHOUSE_DURATION, (SERVICE, names.DB_OPERATION), _CHOSEN
                    ),
                    "{{service}} {{db_operation_name}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Rows written in batches",
            "Rows that batch writers wrote, or gave up on, by table.",
            (
                Prom(
                    promql.rate(
                        promql.total(names.WRITER_ROWS),
                        (names.DB_COLLECTION, names.OUTCOME),
                        _CHOSEN,
                    ),
                    "{{db_collection_name}} {{tessera_outcome}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Rows that wait to be written",
            "Rows in the queues of batch writers, and the mean size of a batch.",
            (
                Prom(
                    promql.gauge(names.WRITER_PENDING, (names.DB_COLLECTION,), _CHOSEN),
                    "{{db_collection_name}} waits",
                ),
                Prom(
                    promql.mean(names.WRITER_BATCH_ROWS, (names.DB_COLLECTION,), _CHOSEN),
                    "{{db_collection_name}} batch",
                ),
            ),
        ),
        Panel(
            "Points that runs logged",
            "Points that tracking stored per second, and that left its log for ClickHouse.",
            (
                Prom(promql.rate(promql.total(names.TRACKING_METRICS_LOGGED)), "logged"),
                Prom(promql.rate(promql.total(names.TRACKING_POINTS_CARRIED)), "carried"),
            ),
            unit="cps",
        ),
        Panel(
            "Purged for good",
            "Deleted experiments, runs and logged models that were removed, over the time range.",
            (
                Prom(
                    promql.increase(promql.total(names.TRACKING_PURGED), (names.KIND,)),
                    "{{tessera_kind}}",
                ),
            ),
            kind=Kind.STAT,
            empty="0",
        ),
        Panel(
            "Training jobs",
            "Jobs that run now.",
            (Prom(promql.gauge(names.TRAINING_ACTIVE), "running"),),
        ),
        Panel(
            "Training jobs that ended",
            "Jobs that ended over the time range, by how.",
            (
                Prom(
                    promql.increase(promql.total(names.TRAINING_JOBS), (names.OUTCOME,)),
                    "{{tessera_outcome}}",
                ),
            ),
            kind=Kind.STAT,
            empty="0",
        ),
    ),
)

_PROCESSES: Final = Row(
    "Processes",
    (
        Panel(
            "Memory",
            "Resident memory of each process.",
            (Prom(promql.plain(promql.MEMORY, (SERVICE,), _CHOSEN), "{{service}}"),),
            unit="bytes",
        ),
        Panel(
            "Processor",
            "Cores that each process keeps busy.",
            (Prom(promql.rate(promql.CPU_SECONDS, (SERVICE,), _CHOSEN), "{{service}}"),),
        ),
        Panel(
            "Open files",
            "Files and sockets that each process holds open.",
            (Prom(promql.plain(promql.OPEN_FILES, (SERVICE,), _CHOSEN), "{{service}}"),),
        ),
        Panel(
            "Background failures",
            "Failures of background work that it recovered from by itself, by task.",
            (
                Prom(
                    promql.rate(
                        promql.total(names.BACKGROUND_FAILURES), (SERVICE, names.TASK), _CHOSEN
                    ),
                    "{{service}} {{tessera_task_name}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Warnings and errors logged",
            "Log records per second of severity WARNING and above.",
            (
                Prom(
                    promql.rate(
                        promql.total(names.LOG_RECORDS),
                        (SERVICE, names.LOG_LEVEL),
                        {**_CHOSEN, names.LOG_LEVEL: '=~"WARNING|ERROR|CRITICAL"'},
                    ),
                    "{{service}} {{log_level}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Telemetry that was dropped",
            "Spans and log records that were given up because their store was away or too slow.",
            (
                Prom(
                    promql.rate(
                        promql.total(names.TELEMETRY_DROPPED), (SERVICE, names.TASK), _CHOSEN
                    ),
                    "{{service}} {{tessera_task_name}}",
                ),
            ),
            unit="cps",
        ),
    ),
)


PLATFORM: Final = Dashboard(
    uid="tessera-platform",
    title="Platform",
    description="The health of Tessera's processes, its bus and its stores.",
    variables=(
        PromVariable(
            SERVICE, "Service", f'label_values({promql.UP.name}{{job="tessera"}}, {SERVICE})'
        ),
    ),
    rows=(_NOW, _CALL_ROW, _BUS, _WORK, _PROCESSES, TRAIL),
)
