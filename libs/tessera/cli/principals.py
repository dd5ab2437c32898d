"""The verbs of principals: users, groups and services, and the tokens that stand for them."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.cli.messages import age, enum_word, rows, when
from tessera.cli.output import Column, JsonOption, print_rows, print_success
from tessera.client.sync.client import Client

_PANEL = "The catalog"


class PrincipalKind(StrEnum):
    """What a principal is."""

    USER = "user"
    GROUP = "group"
    SERVICE = "service"


Name = Annotated[str, typer.Argument(help="A principal's name.")]
Whose = Annotated[str, typer.Argument(help="Whose; your own when left out.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    group = typer.Typer(no_args_is_help=True, help="Users, groups, services, and their tokens.")
    group.command("list")(principals)
    group.command("create")(create)
    group.command("delete")(delete)
    group.command("members")(members)
    group.command("token")(token)
    group.command("tokens")(tokens)
    group.command("revoke-token")(revoke_token)
    app.add_typer(group, name="principals", rich_help_panel=_PANEL)
    app.command("token", rich_help_panel=_PANEL)(token)


def principals(as_json: JsonOption = False) -> None:
    """List principals by name."""
    with Client() as client:
        found = rows(client.access.list_principals())
    columns = [
        Column("name", "Name"),
        Column("kind", "Kind", enum_word),
        Column("is_admin", "Administrator", lambda value: "yes" if value else ""),
        Column("groups", "Groups", ", ".join),
        Column("created_at", "Created", age),
    ]
    print_rows(found, columns, as_json=as_json)


def create(
    name: Name,
    kind: Annotated[PrincipalKind, typer.Option(help="What it is.")] = PrincipalKind.USER,
    admin: Annotated[bool, typer.Option("--admin", help="It passes every check.")] = False,
) -> None:
    """Create a user, group or service. For administrators."""
    value = auth.PrincipalKind.Value(f"PRINCIPAL_KIND_{kind.name}")
    with Client() as client:
        made = client.access.create_principal(name, value, is_admin=admin)
    print_success(f"{kind} {made.name} is there; `tessera principals token {made.name}` lets it in")


def delete(name: Name) -> None:
    """Delete a principal with its tokens and grants. For administrators."""
    with Client() as client:
        client.access.delete_principal(name)
    print_success(f"{name} is gone")


def members(
    group: Annotated[str, typer.Argument(help="A group's name.")],
    add: Annotated[list[str] | None, typer.Option(help="A principal to add.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A principal to remove.")] = None,
) -> None:
    """Add and remove members of a group, and print who they are then."""
    with Client() as client:
        found = client.access.update_group(group, add=add or (), remove=remove or ())
    for name in found:
        typer.echo(name)


def token(
    principal: Whose = "",
    days: Annotated[int, typer.Option(help="How long it is good for.", min=1, max=730)] = 90,
    comment: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Make a token and print its secret, this once."""
    with Client() as client:
        made = client.access.create_token(principal, comment=comment, lifetime=timedelta(days=days))
    print_success(f"token {made.token.token_id} of {made.token.principal}; keep the secret:")
    typer.echo(made.secret)


def tokens(principal: Whose = "", as_json: JsonOption = False) -> None:
    """List the tokens of a principal, the newest first; never their secrets."""
    with Client() as client:
        found = rows(client.access.list_tokens(principal))
    columns = [
        Column("token_id", "Token"),
        Column("principal", "Principal"),
        Column("comment", "Comment", style="dim"),
        Column("created_at", "Made", age),
        Column("expires_at", "Ends", when),
        Column("revoked", "Revoked", lambda value: "yes" if value else ""),
    ]
    print_rows(found, columns, as_json=as_json, empty="no token")


def revoke_token(token_id: Annotated[str, typer.Argument(help="A token's id.")]) -> None:
    """Make a token useless at once."""
    with Client() as client:
        client.access.revoke_token(token_id)
    print_success(f"token {token_id} lets nobody in any more")
