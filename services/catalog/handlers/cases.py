"""All use cases, put together over whatever implements the ports."""

from __future__ import annotations

from dataclasses import dataclass

from services.catalog.handlers.access_cache import AccessCache
from services.catalog.handlers.context import Context
from services.catalog.handlers.decisions import Decisions
from services.catalog.handlers.external_tables import ExternalTables
from services.catalog.handlers.files import Files
from services.catalog.handlers.grants import Grants
from services.catalog.handlers.guard import Guard
from services.catalog.handlers.lineage import Lineage
from services.catalog.handlers.models import Aliases
from services.catalog.handlers.principals import Principals
from services.catalog.handlers.reconcile import Reconciler
from services.catalog.handlers.removal import Removal
from services.catalog.handlers.renaming import Renaming
from services.catalog.handlers.storage import Storage
from services.catalog.handlers.table_data import TableData
from services.catalog.handlers.tables import Tables
from services.catalog.handlers.tokens import Tokens
from services.catalog.handlers.tree import Tree
from services.catalog.handlers.versions import Versions
from services.catalog.ports import Store, TableEngine
from tessera_kit.clock import Clock
from tessera_kit.store.objects import ObjectStore

__all__ = ["Places", "UseCases", "build_use_cases"]


@dataclass(frozen=True, slots=True)
class Places:
    """Where tables may lie."""

    database_prefix: str
    """What the names of all ClickHouse databases of managed tables start with."""
    external_prefixes: tuple[str, ...]
    """Prefixes of the bucket that external tables may read, beside volumes."""


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the service can do."""

    tree: Tree
    tables: Tables
    removal: Removal
    renaming: Renaming
    aliases: Aliases
    versions: Versions
    files: Files
    principals: Principals
    tokens: Tokens
    grants: Grants
    decisions: Decisions
    lineage: Lineage
    table_data: TableData
    reconciler: Reconciler
    cache: AccessCache


def build_use_cases(
    store: Store, engine: TableEngine, objects: ObjectStore, places: Places, clock: Clock
) -> UseCases:
    """Put the use cases together."""
    cache = AccessCache(store)
    context = Context(store, Guard(cache), clock)
    storage = Storage(store, engine, objects, places.database_prefix)
    external = ExternalTables(context, engine, places.external_prefixes)
    return UseCases(
        tree=Tree(context),
        tables=Tables(context, engine, external, places.database_prefix, storage.locks),
        removal=Removal(context, storage),
        renaming=Renaming(context),
        aliases=Aliases(context),
        versions=Versions(context, storage, objects),
        files=Files(context, objects),
        principals=Principals(context, cache),
        tokens=Tokens(context, cache),
        grants=Grants(context, cache),
        decisions=Decisions(context, cache),
        lineage=Lineage(context),
        table_data=TableData(context, engine),
        reconciler=Reconciler(context, storage),
        cache=cache,
    )
