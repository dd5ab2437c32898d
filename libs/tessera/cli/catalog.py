"""The verbs of the catalog: catalogs, schemas, tables, models, search, lineage, grants."""

from __future__ import annotations

from typing import Annotated

import typer

from tessera.catalog.v1 import lineage_service_pb2 as lineage_pb2
from tessera.catalog.v1 import securable_pb2
from tessera.cli.arguments import LARGEST
from tessera.cli.messages import age, enum_word, pairs, rows
from tessera.cli.output import (
    Column,
    JsonOption,
    print_json,
    print_rows,
    print_success,
)
from tessera.client.sync.client import Client
from tessera_kit.units import human_bytes

PANEL = "The catalog"

Name = Annotated[str, typer.Argument(help="A full name such as main.flights.departures.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    listings = (catalogs, schemas, tables, models, versions, search, rows_verb, lineage, grants)
    for verb in (*listings, grant, revoke):
        app.command(verb.__name__.removesuffix("_verb"), rich_help_panel=PANEL)(verb)


def complete_kind(incomplete: str) -> list[str]:
    """Kinds of governed objects, for the shell."""
    kinds = [enum_word(kind) for kind in securable_pb2.SecurableType.keys()[1:]]
    return [kind for kind in kinds if kind.startswith(incomplete)]


def complete_privilege(incomplete: str) -> list[str]:
    """Privileges, for the shell."""
    names = [name.removeprefix("PRIVILEGE_").lower() for name in securable_pb2.Privilege.keys()[1:]]
    return [name for name in names if name.startswith(incomplete.lower())]


Kind = Annotated[
    str, typer.Argument(help="A kind such as table or model.", autocompletion=complete_kind)
]


def complete_node(incomplete: str) -> list[str]:
    """Kinds of things that lineage tells of, for the shell."""
    kinds = [enum_word(kind) for kind in lineage_pb2.LineageNodeType.keys()[1:]]
    return [kind for kind in kinds if kind.startswith(incomplete)]


NodeKind = Annotated[
    str, typer.Argument(help="A kind such as table or model version.", autocompletion=complete_node)
]


def catalogs(as_json: JsonOption = False) -> None:
    """List the catalogs that you may see."""
    with Client() as client:
        found = rows(client.catalog.list_catalogs())
    print_rows(found, [Column("name", "Name"), *_ABOUT], as_json=as_json)


def schemas(
    catalog: Annotated[str, typer.Argument(help="A catalog's name.")], as_json: JsonOption = False
) -> None:
    """List the schemas of a catalog."""
    with Client() as client:
        found = rows(client.catalog.list_schemas(catalog))
    print_rows(found, [Column("full_name", "Name"), *_ABOUT], as_json=as_json)


def tables(
    schema: Annotated[str, typer.Argument(help="A schema, as main.flights.")],
    as_json: JsonOption = False,
) -> None:
    """List the tables of a schema."""
    with Client() as client:
        found = rows(client.catalog.list_tables(schema))
    columns = [
        Column("full_name", "Name"),
        Column("type", "Type", enum_word),
        Column("columns", "Columns", lambda value: str(len(value)), "right"),
        *_ABOUT,
    ]
    print_rows(found, columns, as_json=as_json)


def models(
    schema: Annotated[str, typer.Argument(help="A schema, as main.flights.")],
    as_json: JsonOption = False,
) -> None:
    """List the registered models of a schema."""
    with Client() as client:
        found = rows(client.models.list_models(schema))
    columns = [Column("full_name", "Name"), Column("aliases", "Aliases", pairs), *_ABOUT]
    print_rows(found, columns, as_json=as_json)


def versions(model: Name, as_json: JsonOption = False) -> None:
    """List the versions of a registered model, the newest first."""
    with Client() as client:
        found = rows(client.models.list_versions(model))
    columns = [
        Column("version", "Version", justify="right"),
        Column("status", "Status", enum_word),
        Column("aliases", "Aliases", ", ".join),
        Column("size_bytes", "Size", lambda value: human_bytes(float(value)), "right"),
        Column("run_id", "Run"),
        Column("created_at", "Created", age),
    ]
    print_rows(found, columns, as_json=as_json)


def search(
    words: Annotated[list[str] | None, typer.Argument(help="Words that must all occur.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find governed objects of any kind by name, comment or tags."""
    with Client() as client:
        found = rows(client.catalog.search(" ".join(words or ())))
    columns = [Column("type", "Kind", enum_word), Column("full_name", "Name"), *_ABOUT]
    print_rows(found, columns, as_json=as_json, empty="nothing matches")


def rows_verb(
    table: Name,
    limit: Annotated[int, typer.Option(help="How many rows at most.", min=1, max=LARGEST)] = 20,
    columns: Annotated[list[str] | None, typer.Option("--column", help="Only this one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show rows of a table."""
    with Client() as client:
        found = client.tables.read(table, columns=columns or (), limit=limit)
    shown = [Column(name, name) for name in found.column_names]
    print_rows(found.to_pylist(), shown, as_json=as_json, empty="no rows")


def lineage(kind: NodeKind, name: Name, as_json: JsonOption = False) -> None:
    """Show what a thing was made from, and what was made from it."""
    node = _node_kind(kind)
    with Client() as client:
        found = rows(client.lineage.get(node, name))
    if as_json:
        print_json(found)
        return
    flat = [
        {
            "from": _node(edge["source"]),
            "version": edge["source_version"],
            "to": _node(edge["target"]),
            "at": edge.get("observed_at"),
        }
        for edge in found
    ]
    columns = [
        Column("from", "From"),
        Column("version", "Version", style="dim"),
        Column("to", "Made"),
        Column("at", "Seen", age),
    ]
    print_rows(flat, columns, as_json=False, empty="no lineage is known")


def grants(kind: Kind, name: Name = "metastore", as_json: JsonOption = False) -> None:
    """List the privileges granted directly on an object."""
    chosen = _kind(kind)
    with Client() as client:
        found = rows(client.access.grants(chosen, name))
    columns = [
        Column("principal", "Principal"),
        Column("privilege", "Privilege", enum_word),
        Column("granted_by", "By"),
        Column("granted_at", "Granted", age),
    ]
    print_rows(found, columns, as_json=as_json, empty="nothing is granted directly")


Privileges = Annotated[
    list[str],
    typer.Argument(help="Privileges such as select, execute.", autocompletion=complete_privilege),
]
On = Annotated[str, typer.Option("--on", help="The object's kind.", autocompletion=complete_kind)]
Object = Annotated[str, typer.Option("--name", help="The object's full name.")]


def grant(principal: str, privileges: Privileges, on: On, name: Object = "metastore") -> None:
    """Grant privileges on an object to a user, group or service."""
    chosen, kind = _privileges(privileges), _kind(on)
    with Client() as client:
        client.access.grant(principal, chosen, kind, name)
    print_success(f"{principal} holds {', '.join(privileges)} on {on} {name}")


def revoke(principal: str, privileges: Privileges, on: On, name: Object = "metastore") -> None:
    """Revoke privileges on an object."""
    chosen, kind = _privileges(privileges), _kind(on)
    with Client() as client:
        client.access.revoke(principal, chosen, kind, name)
    print_success(f"{principal} holds {', '.join(privileges)} no more on {on} {name}")


_ABOUT = (
    Column("owner", "Owner"),
    Column("comment", "Comment", style="dim"),
    Column("created_at", "Created", age),
)


def _node(node: dict[str, str]) -> str:
    return f"{enum_word(node['type'])} {node['name']}"


def _constant(prefix: str, word: str) -> str:
    return f"{prefix}_{word.strip().upper().replace(' ', '_').replace('-', '_')}"


def _node_kind(word: str) -> lineage_pb2.LineageNodeType.ValueType:
    try:
        return lineage_pb2.LineageNodeType.Value(_constant("LINEAGE_NODE_TYPE", word))
    except ValueError:
        known = ", ".join(complete_node(""))
        raise typer.BadParameter(f"{word!r} has no lineage; these have: {known}") from None


def _kind(word: str) -> securable_pb2.SecurableType.ValueType:
    try:
        return securable_pb2.SecurableType.Value(_constant("SECURABLE_TYPE", word))
    except ValueError:
        known = ", ".join(complete_kind(""))
        raise typer.BadParameter(f"{word!r} is no kind of object; there are {known}") from None


def _privileges(words: list[str]) -> list[securable_pb2.Privilege.ValueType]:
    try:
        return [securable_pb2.Privilege.Value(_constant("PRIVILEGE", word)) for word in words]
    except ValueError:
        known = ", ".join(complete_privilege(""))
        raise typer.BadParameter(f"{words} are not all privileges; there are {known}") from None
