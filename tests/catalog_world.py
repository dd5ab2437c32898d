"""The catalog's use cases over adapters in memory, with a few principals in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from services.catalog.adapters.memory import InMemoryStore, InMemoryTableEngine
from services.catalog.domain.changes import Draft
from services.catalog.domain.details import Column, ModelDetails, TableDetails, TableType
from services.catalog.domain.principals import PrincipalKind
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import METASTORE, Entity, SecurableKey, SecurableType
from services.catalog.handlers.bootstrap import BootstrapTokens, bootstrap
from services.catalog.handlers.cases import Places, UseCases, build_use_cases
from services.catalog.handlers.grants import GrantChange
from services.catalog.handlers.requests import NO_REQUEST, RequestKey
from tessera_kit.clock import ManualClock
from tessera_kit.config import Secret
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.memory_objects import InMemoryObjectStore

ADMIN_TOKEN = "tsr_0123456789abcdef_" + "a" * 43
SERVICE_TOKEN = "tsr_fedcba9876543210_" + "b" * 43
PLACES = Places("tessera", ("external/",))
COLUMNS = (Column("id", "Int64"), Column("note", "Nullable(String)"))


def key(kind: SecurableType, name: str) -> SecurableKey:
    return SecurableKey.parse(kind, name)


def catalog(name: str) -> SecurableKey:
    return key(SecurableType.CATALOG, name)


def schema(name: str) -> SecurableKey:
    return key(SecurableType.SCHEMA, name)


def table(name: str) -> SecurableKey:
    return key(SecurableType.TABLE, name)


def model(name: str) -> SecurableKey:
    return key(SecurableType.MODEL, name)


def volume(name: str) -> SecurableKey:
    return key(SecurableType.VOLUME, name)


async def bytes_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@dataclass
class World:
    """Everything that a test may want to look at or to break."""

    store: InMemoryStore = field(default_factory=InMemoryStore)
    engine: InMemoryTableEngine = field(default_factory=InMemoryTableEngine)
    objects: InMemoryObjectStore = field(default_factory=InMemoryObjectStore)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Build the use cases anew over the same data, as a new process would."""
        self.cases: UseCases = build_use_cases(
            self.store, self.engine, self.objects, PLACES, self.clock
        )

    async def begin(self) -> None:
        tokens = BootstrapTokens(Secret(ADMIN_TOKEN), {"inference": Secret(SERVICE_TOKEN)})
        await bootstrap(self.store, tokens, self.clock)

    async def caller(self, name: str) -> Principal:
        """The principal as a call of its would show it."""
        found = await self.cases.cache.caller(name)
        assert found is not None
        return found

    async def admin(self) -> Principal:
        return await self.caller("admin")

    async def service(self) -> Principal:
        return await self.caller("inference")

    async def user(self, name: str, kind: PrincipalKind = PrincipalKind.USER) -> Principal:
        """A new principal."""
        admin = await self.admin()
        await self.cases.principals.create(admin, name, kind, False, NO_REQUEST)
        return await self.caller(name)

    async def group(self, name: str, *members: str) -> None:
        await self.user(name, PrincipalKind.GROUP)
        await self.cases.principals.update_members(await self.admin(), name, members, [])

    async def grant(self, to: str, on: SecurableKey, *privileges: Privilege) -> None:
        changes = [GrantChange(to, privilege) for privilege in privileges]
        await self.cases.grants.update(await self.admin(), on, changes, [])

    async def revoke(self, of: str, on: SecurableKey, *privileges: Privilege) -> None:
        changes = [GrantChange(of, privilege) for privilege in privileges]
        await self.cases.grants.update(await self.admin(), on, [], changes)

    async def make(
        self, new: SecurableKey, by: Principal | None = None, request: RequestKey = NO_REQUEST
    ) -> Entity:
        """A new object of any kind of the tree."""
        by = by or await self.admin()
        if new.type is SecurableType.TABLE:
            details = TableDetails(TableType.MANAGED, COLUMNS)
            return await self.cases.tables.create(by, new, Draft(), details, request)
        details = ModelDetails() if new.type is SecurableType.MODEL else None
        return await self.cases.tree.create(by, new, Draft(), request, details)

    def told(self) -> list[str]:
        """Short names of the events so far."""
        return [event.type.rpartition(".")[2] for event in self.store.events]


async def let_pass(world: World, name: str, privileges: Iterable[Privilege] = ()) -> None:
    """Give a principal USE of everything, and more where named."""
    await world.grant(name, METASTORE, Privilege.USE_CATALOG, Privilege.USE_SCHEMA, *privileges)
