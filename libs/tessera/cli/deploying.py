"""The verbs that make endpoints and take them away."""

from __future__ import annotations

from typing import Annotated

import typer

from tessera.cli.arguments import whole_number
from tessera.cli.output import JsonOption, print_success
from tessera.cli.serving import print_endpoint
from tessera.client.sync.client import Client
from tessera.inference.v1.endpoint_pb2 import ServedEntity

_PANEL = "Serving"


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    for verb in (deploy, undeploy):
        app.command(verb.__name__, rich_help_panel=_PANEL)(verb)


def deploy(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name; made where there is none.")],
    versions: Annotated[
        list[str],
        typer.Argument(
            help="Model versions or aliases, with their shares in percent where there are several: "
            "main.default.m/3, or main.default.m@champion=90 main.default.m/4=10"
        ),
    ],
    schema: Annotated[
        str, typer.Option(help="Schema of a new endpoint's inference table; the first model's.")
    ] = "",
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run code that the models bring.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", min=1, max=86_400)] = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Serve model versions at an endpoint and wait until they answer; the old ones go on till then.

    What else a served entity may have (sizes, devices, environment, batching) is as by default; the
    client's inference.deploy sets it.
    """
    entities = [_entity(text, alone=len(versions) == 1) for text in versions]
    if sum(entity.traffic_percent for entity in entities) != 100:
        raise typer.BadParameter("the shares must sum to 100, as main.default.m/3=90 …=10")
    for entity in entities:
        entity.allow_code = allow_code
    table_schema = schema or entities[0].model_name.rpartition(".")[0]
    with Client() as client:
        found = client.inference.deploy(
            endpoint, entities, table_schema=table_schema, timeout=timeout
        )
    print_endpoint(found, as_json)


def undeploy(
    endpoint: Annotated[str, typer.Argument(help="An endpoint's name.")],
) -> None:
    """Delete an endpoint; its inference table stays."""
    with Client() as client:
        client.inference.delete_endpoint(endpoint)
    print_success(f"endpoint {endpoint} is gone; its inference table stays")


def _entity(text: str, *, alone: bool) -> ServedEntity:
    """A served entity as it is written: `model/version`, `model@alias`, with `=share`."""
    named, separator, share = text.partition("=")
    percent = whole_number(share, 100) if separator else 100 if alone else None
    model, at, alias = named.partition("@")
    model, slash, version = model.partition("/")
    number = whole_number(version) if slash else 0
    if percent is None or number is None or bool(slash) == bool(at) or (at and not alias):
        raise typer.BadParameter(
            f"{text!r} is not like main.default.m/3 or main.default.m@champion"
            + ("" if alone else ", with its share of the traffic behind it: =90")
        )
    return ServedEntity(
        model_name=model, model_version=number, model_alias=alias, traffic_percent=percent
    )
