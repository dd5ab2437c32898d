"""The verbs of serving and monitoring: endpoints, monitors, windows, alerts."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from tessera.cli.arguments import LARGEST, whole_number
from tessera.cli.messages import age, enum_word, rows, when
from tessera.cli.output import Column, JsonOption, print_rows
from tessera.client.sync.client import Client
from tessera.inference.v1.endpoint_pb2 import (
    CanaryGuards,
    CanaryPlan,
    CanaryStep,
    Endpoint,
    RateLimit,
    RateLimitPeriod,
    RateLimitScope,
)

_limit = re.compile(r"(endpoint|user|group|token)(?::(.+))?=([0-9]+)/(minute|hour)").fullmatch
_LONGEST_SECONDS = 10_000 * 365 * 86_400
_SERVING, _MONITORING = "Serving", "Monitoring"


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    serving = (
        *(endpoints, endpoint_configs, cancel_update, rollback, traffic),
        *(canary, canary_end, limits),
    )
    for verb in (*serving, monitors, windows, alerts):
        panel = _SERVING if verb in serving else _MONITORING
        app.command(verb.__name__.replace("_", "-"), rich_help_panel=panel)(verb)


def endpoints(as_json: JsonOption = False) -> None:
    """List serving endpoints."""
    with Client() as client:
        found = rows(client.inference.list_endpoints())
    columns = [
        *_ENDPOINT_COLUMNS,
        Column("inference_table_full_name", "Inference table"),
        Column("updated_at", "Changed", age),
    ]
    print_rows(found, columns, as_json=as_json)


def endpoint_configs(
    endpoint: Annotated[str, typer.Argument(help="An endpoint's name.")],
    as_json: JsonOption = False,
) -> None:
    """List every configuration that an endpoint had, the newest first."""
    with Client() as client:
        found = rows(client.inference.endpoint_configs(endpoint))
    columns = [
        Column("config_version", "Version", justify="right"),
        Column("served_entities", "Serves", _entities),
        Column("rollback_of", "Repeats", lambda value: str(value) if int(value) else ""),
        Column("created_at", "Made", age),
        Column("ready_at", "Ready", age),
    ]
    print_rows(found, columns, as_json=as_json)


def cancel_update(
    endpoint: Annotated[str, typer.Argument(help="An endpoint's name.")],
    as_json: JsonOption = False,
) -> None:
    """Give up the configuration that is being made ready; what answered goes on."""
    with Client() as client:
        print_endpoint(client.inference.cancel_update(endpoint), as_json)


def rollback(
    endpoint: Annotated[str, typer.Argument(help="An endpoint's name.")],
    config_version: Annotated[
        int,
        typer.Argument(
            help="A configuration's number; 0 for the one that answered before.",
            min=0,
            max=LARGEST,
        ),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Serve what an earlier configuration served, and wait until it answers."""
    with Client() as client:
        client.inference.rollback(endpoint, config_version)
        print_endpoint(client.inference.wait_ready(endpoint), as_json)


def traffic(
    endpoint: Annotated[str, typer.Argument(help="An endpoint's name.")],
    shares: Annotated[list[str], typer.Argument(help="Shares in percent: champion=90 new=10")],
    as_json: JsonOption = False,
) -> None:
    """Change the traffic shares of what an endpoint serves, at once."""
    percents: dict[str, int] = {}
    for share in shares:
        name, _, percent = share.rpartition("=")
        given = whole_number(percent, 100)
        if not name or given is None:
            raise typer.BadParameter(f"{share!r} is not like champion=90, a share of 0 to 100")
        percents[name] = given
    with Client() as client:
        print_endpoint(client.inference.update_traffic(endpoint, percents), as_json)


def canary(
    endpoint: Annotated[str, typer.Argument(help="An endpoint's name.")],
    entity: Annotated[str, typer.Argument(help="The served entity that gets growing shares.")],
    steps: Annotated[
        list[str], typer.Argument(help="percent:seconds:requests of each: 1:60:100 10:300 100")
    ],
    max_error_rate: Annotated[
        float | None, typer.Option(help="Share of its requests that may fail, 0 to 1.")
    ] = None,
    max_p99_ratio: Annotated[
        float | None, typer.Option(help="Its p99 as a multiple of the others'.")
    ] = None,
    on_alert: Annotated[bool, typer.Option(help="Take it back when an alert fires.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give a served entity growing shares of the traffic, taken back when a guard does not hold."""
    plan = CanaryPlan(
        served_entity=entity,
        steps=[_canary_step(step) for step in steps],
        guards=CanaryGuards(
            max_error_rate=max_error_rate, max_p99_ratio=max_p99_ratio, on_alert=on_alert
        ),
    )
    with Client() as client:
        print_endpoint(client.inference.start_canary(endpoint, plan), as_json)


def canary_end(
    endpoint: Annotated[str, typer.Argument(help="An endpoint's name.")],
    promote: Annotated[
        bool, typer.Option("--promote/--roll-back", help="All traffic for it, or what it had.")
    ],
    as_json: JsonOption = False,
) -> None:
    """End a canary before its time."""
    with Client() as client:
        print_endpoint(client.inference.end_canary(endpoint, promote=promote), as_json)


def limits(
    endpoint: Annotated[str, typer.Argument(help="An endpoint's name.")],
    new: Annotated[
        list[str] | None,
        typer.Argument(help="scope[:subject]=calls/period: endpoint=1000/minute group:ds=9/hour"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Set an endpoint's rate limits; none to lift all."""
    found = [_rate_limit(text) for text in new or ()]
    with Client() as client:
        print_endpoint(client.inference.update_endpoint(endpoint, rate_limits=found), as_json)


def monitors(as_json: JsonOption = False) -> None:
    """List monitors."""
    with Client() as client:
        found = rows(client.monitoring.list_monitors())
    columns = [
        Column("name", "Name"),
        Column("table_full_name", "Watches"),
        Column("alert_rules", "Rules", lambda value: str(len(value)), "right"),
        Column("drift_table_full_name", "Drift table"),
        Column("created_at", "Created", age),
    ]
    print_rows(found, columns, as_json=as_json)


def windows(
    monitor: Annotated[str, typer.Argument(help="A monitor's name.")], as_json: JsonOption = False
) -> None:
    """List a monitor's windows, the earliest first."""
    with Client() as client:
        found = rows(client.monitoring.windows(monitor))
    columns = [
        Column("start", "From", when),
        Column("end", "Until", when),
        Column("state", "State", enum_word),
        Column("row_count", "Rows", justify="right"),
        Column("label_count", "Labels", justify="right"),
        Column("revision", "Revision", justify="right"),
    ]
    print_rows(found, columns, as_json=as_json)


def alerts(
    monitor: Annotated[str, typer.Argument(help="Only of this monitor.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List alerts, the newest first."""
    with Client() as client:
        found = rows(client.monitoring.alerts(monitor))
    columns = [
        Column("monitor", "Monitor"),
        Column("rule", "Rule"),
        Column("state", "State", enum_word),
        Column("message", "What happened"),
        Column("fired_at", "Fired", age),
    ]
    print_rows(found, columns, as_json=as_json, empty="no alert has fired")


def _served(config: dict[str, Any]) -> str:
    return _entities(config["served_entities"])


def _entities(entities: list[dict[str, Any]]) -> str:
    return ", ".join(f"{entity['name']} {entity['traffic_percent']} %" for entity in entities)


def _canary_step(text: str) -> CanaryStep:
    given = text.split(":")
    percent, seconds, requests = (
        whole_number(part, most)
        for part, most in zip([*given, "0", "0"][:3], (100, _LONGEST_SECONDS, LARGEST), strict=True)
    )
    if len(given) > 3 or percent is None or seconds is None or requests is None:
        raise typer.BadParameter(f"{text!r} is not percent:seconds:requests, as 10:300:100")
    step = CanaryStep(percent=percent, request_count=requests)
    step.duration.FromSeconds(seconds)
    return step


def _rate_limit(text: str) -> RateLimit:
    found = _limit(text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is not scope[:subject]=calls/period, as user:ada=100/minute"
        )
    scope, subject, calls, period = found.groups()
    if whole_number(calls) is None:
        raise typer.BadParameter(f"{calls} calls are more than can be counted")
    return RateLimit(
        scope=RateLimitScope.Value(f"RATE_LIMIT_SCOPE_{scope.upper()}"),
        subject=subject or "",
        calls=int(calls),
        period=RateLimitPeriod.Value(f"RATE_LIMIT_PERIOD_{period.upper()}"),
    )


_ENDPOINT_COLUMNS = (
    Column("name", "Name"),
    Column("state", "State", enum_word),
    Column("update_state", "Update", enum_word),
    Column("config", "Serves", _served),
)


def print_endpoint(endpoint: Endpoint, as_json: bool) -> None:
    """Prints an endpoint as a listing of one."""
    print_rows(rows([endpoint]), [*_ENDPOINT_COLUMNS], as_json=as_json)
