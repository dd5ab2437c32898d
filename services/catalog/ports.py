"""What the catalog needs from outside: a transactional store, a table engine and an object store.

Each port has a twin in memory in `adapters.memory`; one test body holds every implementation to the
constraints that the docstrings state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from services.catalog.domain.access import AccessNode
from services.catalog.domain.details import Column, PhysicalTable
from services.catalog.domain.lineage import LineageEdge, LineageNode
from services.catalog.domain.models import ModelFile, ModelVersion, Upload
from services.catalog.domain.principals import Grant, Principal, Token
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.rows import RowQuery
from services.catalog.domain.securables import Entity, SecurableKey, SecurableType
from services.catalog.domain.tables import TableDefinition
from tessera_kit.bus.event import Event

__all__ = [
    "AccessRecords",
    "CommittedChange",
    "Entities",
    "ExternalSource",
    "LineageEdges",
    "ManagedSource",
    "RequestRecord",
    "Requests",
    "RowSource",
    "Store",
    "TableEngine",
    "Transaction",
    "Versions",
]


class Entities(Protocol):
    """Governed objects of every kind."""

    async def get(self, key: SecurableKey, *, lock: bool = False) -> Entity | None:
        """The object in whatever state; `lock` keeps it as it is until the transaction ends."""

    async def add(self, entity: Entity) -> None:
        """Store a new object.

        Raises:
            SecurableExists: The kind has one of that name, in whatever state.
        """

    async def replace(self, entity: Entity) -> None:
        """Store a new version of an object that exists; its id and key do not change."""

    async def rename(self, entity: Entity, was: SecurableKey) -> None:
        """Store an object that is known as `was` under its new key; grants and aliases follow.

        Raises:
            SecurableExists: The kind has another one of the new name, in whatever state.
        """

    async def remove(self, entity: Entity) -> None:
        """Remove the object with its grants, versions, aliases and files."""

    async def children(
        self, parent: SecurableKey, kind: SecurableType, *, after: str, limit: int
    ) -> list[Entity]:
        """Active objects of a kind right below `parent` with full names above `after`, in order."""

    async def subtree(self, key: SecurableKey) -> list[Entity]:
        """Everything below the object in whatever state, deepest first; without itself."""

    async def search(
        self,
        words: Sequence[str],
        kinds: Collection[SecurableType],
        *,
        after: tuple[str, int],
        limit: int,
    ) -> list[Entity]:
        """Active objects that hold every (case-folded) word, by full name and kind, above `after`.

        Words are looked for in full name, comment, tag keys and tag values. No `kinds` means all.
        """

    async def unsettled(self) -> list[Entity]:
        """Objects being created or deleted."""

    async def owned_by(self, owner: str) -> list[Entity]:
        """Objects in whatever state that a principal owns."""


class Versions(Protocol):
    """Model versions with their files, uploads and aliases."""

    async def get(self, model_id: str, version: int, *, lock: bool = False) -> ModelVersion | None:
        """A version in whatever state; `lock` as for entities."""

    async def by_id(self, version_id: str, *, lock: bool = False) -> ModelVersion | None:
        """A version by its id; `lock` as for entities."""

    async def add(self, version: ModelVersion) -> None:
        """Store a new version."""

    async def replace(self, version: ModelVersion) -> None:
        """Store a new state of a version that exists."""

    async def rename(self, model_id: str, model_name: str) -> None:
        """Give all versions of a model, in whatever state, its new name."""

    async def remove(self, version_id: str) -> None:
        """Remove a version with its files, uploads and the aliases that point at it."""

    async def page(self, model_id: str, *, below: int | None, limit: int) -> list[ModelVersion]:
        """Active versions with numbers under `below`, the newest first."""

    async def all(self, model_id: str) -> list[ModelVersion]:
        """Every version of a model in whatever state."""

    async def deleting(self) -> list[ModelVersion]:
        """Versions being deleted."""

    async def aliases(self, model_ids: Collection[str]) -> dict[str, dict[str, int]]:
        """Aliases by model id; models without any are left out."""

    async def set_alias(self, model_id: str, alias: str, version: int) -> None:
        """Point an alias at a version, new or moved."""

    async def remove_alias(self, model_id: str, alias: str) -> bool:
        """Remove an alias; False when there was none."""

    async def files(
        self, version_id: str, *, after: str = "", limit: int | None = None
    ) -> list[ModelFile]:
        """Files with paths above `after`, in order."""

    async def file(self, version_id: str, path: str) -> ModelFile | None:
        """One file."""

    async def put_file(self, version_id: str, file: ModelFile) -> None:
        """Store a file's data, new or again."""

    async def remove_file(self, version_id: str, path: str) -> None:
        """Forget a file; one that is not known is ignored."""

    async def uploads(self, version_id: str) -> list[Upload]:
        """Uploads that run."""

    async def add_upload(self, upload: Upload) -> None:
        """Note an upload that begins."""

    async def remove_upload(self, upload_id: str) -> None:
        """Forget an upload; one that is not known is ignored."""

    async def forget_uploads(self, before: datetime) -> None:
        """Forget uploads that began before a time."""


class AccessRecords(Protocol):
    """Principals, memberships, tokens and grants."""

    async def principal(self, name: str, *, lock: bool = False) -> Principal | None:
        """A principal."""

    async def principals(self, *, after: str, limit: int) -> list[Principal]:
        """Principals with names above `after`, in order."""

    async def existing(self, names: Collection[str]) -> set[str]:
        """Those of the names that are principals."""

    async def put_principal(self, principal: Principal) -> None:
        """Store a principal, new or again."""

    async def remove_principal(self, name: str) -> None:
        """Remove a principal with its tokens, grants and memberships, as member and as group."""

    async def memberships(self) -> dict[str, set[str]]:
        """The groups that each principal is a direct member of."""

    async def members(self, group: str) -> list[str]:
        """Direct members, in order."""

    async def add_member(self, group: str, member: str) -> None:
        """Add a member; one that is a member already is ignored."""

    async def remove_member(self, group: str, member: str) -> None:
        """Remove a member; one that is none is ignored."""

    async def token(self, token_id: str) -> Token | None:
        """A token by its id."""

    async def token_by_digest(self, sha256: bytes) -> Token | None:
        """A token by the SHA-256 of its text."""

    async def tokens(self, principal: str, *, below: str | None, limit: int) -> list[Token]:
        """A principal's tokens with ids under `below`, the greatest (newest) first."""

    async def bootstrap_tokens(self, principal: str) -> list[Token]:
        """The tokens that came from files."""

    async def put_token(self, token: Token) -> None:
        """Store a token, new or again."""

    async def grants(self, key: SecurableKey) -> list[Grant]:
        """Direct grants on an object, by principal and privilege."""

    async def add_grant(self, entity: Entity, grant: Grant) -> None:
        """Grant; a privilege that is held already keeps its first data."""

    async def remove_grant(self, entity: Entity, principal: str, privilege: Privilege) -> bool:
        """Revoke; False when it was not held."""

    async def nodes(self, keys: Collection[SecurableKey]) -> dict[SecurableKey, AccessNode]:
        """What counts for decisions, of those of the objects that are not being made or deleted."""


class LineageEdges(Protocol):
    """The lineage graph."""

    async def put(self, edges: Iterable[LineageEdge]) -> None:
        """Store edges; one that is known keeps the latest time, with its principal."""

    async def touching(
        self, nodes: Collection[LineageNode], *, upstream: bool, limit: int
    ) -> list[LineageEdge]:
        """Edges into the nodes (`upstream`) or out of them, the latest first."""

    async def of_model(self, model_name: str) -> list[LineageEdge]:
        """Edges into and out of the versions of a model."""

    async def remove(self, edges: Iterable[LineageEdge]) -> None:
        """Remove edges; one that is not there is ignored."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request with an id that was done."""

    principal: str
    method: str
    request_id: str
    fingerprint: bytes
    """SHA-256 of what was asked."""
    result: str
    """What the handler needs to answer the same again."""
    created_at: datetime


class Requests(Protocol):
    """Requests that were done, by their ids."""

    async def get(self, principal: str, method: str, request_id: str) -> RequestRecord | None:
        """The record of a request."""

    async def put(self, record: RequestRecord) -> None:
        """Store a record, new or again."""

    async def forget(self, before: datetime) -> None:
        """Drop records made before a time."""


class Transaction(Protocol):
    """One view of the store; what it writes and tells is stored together or not at all."""

    entities: Entities
    versions: Versions
    access: AccessRecords
    lineage: LineageEdges
    requests: Requests

    def publish(self, event: Event) -> None:
        """Tell an event when, and only when, the transaction commits."""

    async def commit(self) -> None:
        """Store everything. Without it, leaving the block drops everything."""


@dataclass(slots=True)
class CommittedChange:
    """What a commit changed for those who decide."""

    keys: set[SecurableKey] = field(default_factory=set)
    """Objects whose existence, owner or grants changed."""
    principals: bool = False
    """Whether principals or memberships changed."""
    tokens: bool = False
    """Whether a token changed."""

    def __bool__(self) -> bool:
        return bool(self.keys or self.principals or self.tokens)

    def taken(self) -> CommittedChange:
        """Return what was noted here, and forget it."""
        taken = replace(self, keys=set(self.keys))
        self.keys.clear()
        self.principals = self.tokens = False
        return taken


class Store(Protocol):
    """The catalog's own data."""

    single_writer: bool
    """Whether no other process can be writing to it."""

    def read(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction that only reads; `publish` and `commit` are not for it."""

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction that may write; inside, open no other and await no network."""

    def on_commit(self, listener: Callable[[CommittedChange], None]) -> None:
        """Call `listener` before a `commit` returns that changed something for decisions."""

    async def revision(self) -> int:
        """Grows with every commit, of any process, that changed something for decisions."""


@dataclass(frozen=True, slots=True)
class ManagedSource:
    """Rows in ClickHouse."""

    physical: PhysicalTable
    columns: tuple[Column, ...]
    final: bool
    """Whether rows replace each other."""


@dataclass(frozen=True, slots=True)
class ExternalSource:
    """Rows in Parquet files of the object store."""

    location: str
    columns: tuple[Column, ...]


RowSource = ManagedSource | ExternalSource


class TableEngine(Protocol):
    """Where rows are kept and read. Everything it is given has been checked."""

    async def create(self, physical: PhysicalTable, definition: TableDefinition) -> None:
        """Make an empty table and its database; replaces a table of that name.

        Raises:
            StorageUnavailable: The engine does not answer; the table may be there.
        """

    async def drop(self, physical: PhysicalTable) -> None:
        """Drop a table; one that is not there is ignored.

        Raises:
            StorageUnavailable: The engine does not answer; the table may be there.
        """

    async def drop_database(self, database: str) -> None:
        """Drop a database when it holds nothing; one that is not there is ignored."""

    async def describe(self, location: str) -> tuple[Column, ...]:
        """Columns of the Parquet files at a location.

        Raises:
            FilesUnreadable: There are none, or they are not Parquet.
        """

    def read(self, source: RowSource, query: RowQuery) -> AsyncIterator[bytes]:
        """Rows as the bytes of one Arrow IPC stream; few MiB of them are in memory at once.

        Raises:
            FilesUnreadable, LimitReached, StorageUnavailable
        """

    async def count(self, source: RowSource, query: RowQuery) -> int:
        """How many rows fulfil the query's predicates. Raises as `read`."""

    async def version(self, source: RowSource) -> str:
        """32 characters that name the content: equal while nothing was written, then others.

        Merges and restarts leave it; a table that was made anew has another one.

        Raises:
            FilesUnreadable, StorageUnavailable
        """

    async def insert(
        self, physical: PhysicalTable, columns: Sequence[str], block: bytes, *, token: str
    ) -> None:
        """Append one block of rows, a whole Arrow IPC stream; once per token.

        Raises:
            SchemaMismatch, LimitReached, StorageUnavailable
        """
