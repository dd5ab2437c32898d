"""The catalog's authority as other services see it: over gRPC, cached, dropped on grant events."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from devstack import Stack
from tessera.catalog.v1 import authorization_service_pb2 as pb
from tessera.catalog.v1 import authorization_service_pb2_grpc as rpc
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import catalog_events_pb2
from tessera_kit.bus.event import new_event
from tessera_kit.bus.producer import EventProducer
from tessera_kit.clock import ManualClock
from tessera_kit.config import KafkaConfig, RpcConfig, Secret
from tessera_kit.errors import PermissionDenied, Unauthenticated
from tessera_kit.rpc.authority import AccessDenied, InMemoryAuthority
from tessera_kit.rpc.catalog_authority import AuthorityUnavailable, CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.identity import (
    InvalidCredentials,
    Principal,
    PrincipalKind,
    current_principal,
)
from tessera_kit.rpc.server import Binding, RpcServer, build_server
from tessera_kit.rpc.watcher import GrantWatcher
from tessera_kit.telemetry.metrics import Metrics
from tests.helpers import eventually

ENDPOINT, EXECUTE = securable_pb2.SECURABLE_TYPE_ENDPOINT, securable_pb2.PRIVILEGE_EXECUTE
ALICE = Principal("alice", groups=frozenset({"team"}))
BOT = Principal("inference", PrincipalKind.SERVICE)


class Catalog(rpc.AuthorizationServiceServicer):
    """Answers the calls that services make, from an in-memory authority, and counts them."""

    def __init__(self) -> None:
        self.authority = InMemoryAuthority()
        self.tokens: dict[bytes, Principal] = {}
        self.expires_at: datetime | None = None
        self.calls: list[str] = []
        self.revision = 1

    def token(self, principal: Principal, token: str) -> None:
        self.tokens[hashlib.sha256(token.encode()).digest()] = principal

    async def Authenticate(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append("Authenticate")
        assert current_principal() == BOT
        principal = self.tokens.get(request.token_sha256)
        if principal is None:
            raise Unauthenticated("unknown token")
        kind = "PRINCIPAL_KIND_" + principal.kind.name
        return pb.AuthenticateResponse(
            expires_at=self.expires_at,
            principal=pb.Principal(
                name=principal.name,
                kind=kind,
                is_admin=principal.is_admin,
                groups=principal.groups,
            ),
        )

    async def Decide(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append("Decide")
        answers = []
        for question in request.questions:
            securable = question.securable
            try:
                await self.authority.require(
                    Principal(request.principal),
                    question.privilege,
                    securable.type,
                    securable.full_name,
                )
                answers.append(pb.AccessAnswer(allowed=True))
            except PermissionDenied:
                answers.append(pb.AccessAnswer(missing="EXECUTE on endpoint delays"))
        return pb.DecideResponse(answers=answers)

    async def GetAccessRevision(self, request: Any, context: Any) -> Any:  # noqa: N802
        assert current_principal() == BOT
        return pb.GetAccessRevisionResponse(revision=self.revision)

    async def RegisterSecurable(self, request: Any, context: Any) -> Any:  # noqa: N802
        securable = request.securable
        await self.authority.register(securable.type, securable.full_name, request.owner)
        return pb.RegisterSecurableResponse()

    async def UnregisterSecurable(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.authority.unregister(request.securable.type, request.securable.full_name)
        return pb.UnregisterSecurableResponse()


class Setting:
    def __init__(self, catalog: Catalog, server: RpcServer, authority: CatalogAuthority) -> None:
        self.catalog, self.server, self.authority = catalog, server, authority
        self.clock = ManualClock()


@asynccontextmanager
async def setting() -> AsyncIterator[Setting]:
    catalog, own = Catalog(), InMemoryAuthority()
    own.add_principal(BOT, "tsr_bot")
    # Methods that services do not call are left out on purpose.
    bound = Binding(
        rpc.add_AuthorizationServiceServicer_to_server,
        catalog,
        "tessera.catalog.v1.AuthorizationService",
    )
    server = build_server(
        RpcConfig(listen="127.0.0.1:0", drain_seconds=0), [bound], authenticator=own
    )
    await server.start()
    clock, metrics = ManualClock(), Metrics()
    async with open_channel(server.address, token=Secret("tsr_bot"), retry=False) as channel:
        made = Setting(catalog, server, CatalogAuthority(channel, clock=clock, metrics=metrics))
        made.clock = clock
        yield made
    await server.stop()


async def test_a_token_that_expires_is_not_taken_from_memory() -> None:
    async with setting() as made:
        made.catalog.token(ALICE, "tsr_alice")
        made.catalog.expires_at = made.clock.now() + timedelta(seconds=2)
        assert await made.authority.authenticate("tsr_alice") == ALICE
        made.catalog.tokens.clear()
        made.clock.advance(1)
        assert await made.authority.authenticate("tsr_alice") == ALICE
        made.clock.advance(1)
        with pytest.raises(InvalidCredentials):
            await made.authority.authenticate("tsr_alice")


async def test_a_token_is_told_by_its_hash_and_kept() -> None:
    async with setting() as made:
        made.catalog.token(ALICE, "tsr_alice")
        made.catalog.token(BOT, "tsr_bot")
        for _ in range(3):
            assert await made.authority.authenticate("tsr_alice") == ALICE
        assert await made.authority.authenticate("tsr_bot") == BOT
        assert made.catalog.calls == ["Authenticate", "Authenticate"]
        with pytest.raises(InvalidCredentials):
            await made.authority.authenticate("tsr_mallory")


async def test_a_decision_says_what_is_missing_and_is_dropped_on_a_change() -> None:
    async with setting() as made:
        with pytest.raises(AccessDenied) as caught:
            await made.authority.require(ALICE, EXECUTE, ENDPOINT, "delays")
        assert caught.value.message == "alice needs EXECUTE on endpoint delays"
        assert caught.value.metadata["securable"] == "delays"
        made.catalog.authority.grant("alice", [EXECUTE], ENDPOINT, "delays")
        with pytest.raises(AccessDenied):
            await made.authority.require(ALICE, EXECUTE, ENDPOINT, "delays")
        generations = [made.authority.generation]
        made.authority.invalidate_all()
        generations.append(made.authority.generation)
        for _ in range(3):
            await made.authority.require(ALICE, EXECUTE, ENDPOINT, "delays")
        assert made.catalog.calls == ["Decide", "Decide"]
        made.catalog.authority.revoke("alice", [EXECUTE], ENDPOINT, "delays")
        made.authority.invalidate("alice")
        generations.append(made.authority.generation)
        assert len(set(generations)) == 3
        with pytest.raises(AccessDenied):
            await made.authority.require(ALICE, EXECUTE, ENDPOINT, "delays")


async def test_administrators_are_not_asked_about() -> None:
    async with setting() as made:
        root = Principal("root", is_admin=True)
        await made.authority.require(root, EXECUTE, ENDPOINT, "delays")
        assert made.catalog.calls == []


async def test_an_owner_may_use_what_was_just_registered() -> None:
    async with setting() as made:
        with pytest.raises(AccessDenied):
            await made.authority.require(ALICE, EXECUTE, ENDPOINT, "delays")
        await made.authority.register(ENDPOINT, "delays", "alice")
        await made.authority.require(ALICE, EXECUTE, ENDPOINT, "delays")
        await made.authority.unregister(ENDPOINT, "delays")
        with pytest.raises(AccessDenied):
            await made.authority.require(ALICE, EXECUTE, ENDPOINT, "delays")


async def test_while_the_catalog_is_away() -> None:
    async with setting() as made:
        made.catalog.token(ALICE, "tsr_alice")
        await made.authority.authenticate("tsr_alice")
        await made.server.stop()
        made.clock.advance(45)
        assert await made.authority.authenticate("tsr_alice") == ALICE
        with pytest.raises(AuthorityUnavailable):
            await made.authority.authenticate("tsr_unknown")
        made.clock.advance(60)
        with pytest.raises(AuthorityUnavailable):
            await made.authority.authenticate("tsr_alice")


async def test_answers_go_when_the_catalog_tells_another_revision() -> None:
    async with setting() as made:
        made.catalog.authority.grant("alice", [EXECUTE], ENDPOINT, "delays")
        following = asyncio.create_task(made.authority.follow(0.01))
        try:
            # What was known before it began to follow is not known to be of this revision.
            await eventually(lambda: made.authority.generation >= 2)
            await made.authority.require(ALICE, EXECUTE, ENDPOINT, "delays")
            await made.authority.require(ALICE, EXECUTE, ENDPOINT, "delays")
            assert made.catalog.calls == ["Decide"]
            made.catalog.authority.revoke("alice", [EXECUTE], ENDPOINT, "delays")
            made.catalog.revision += 1

            async def denied() -> bool:
                try:
                    await made.authority.require(ALICE, EXECUTE, ENDPOINT, "delays")
                except AccessDenied:
                    return True
                return False

            await eventually(denied)
            generation = made.authority.generation
            await made.server.stop()
            made.catalog.revision += 1
            # Nothing is dropped because the catalog is away, and it is looked for again.
            await eventually(lambda: made.authority.generation == generation)
            assert not following.done()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_grant_events_reach_every_watcher(stack: Stack) -> None:
    kafka = KafkaConfig.from_env(stack.environment)

    class Kept:
        def __init__(self) -> None:
            self.dropped = 0

        def invalidate_all(self) -> None:
            self.dropped += 1

    watched = [Kept(), Kept()]
    watchers = [
        asyncio.create_task(GrantWatcher(kept, kafka, metrics=Metrics()).run()) for kept in watched
    ]
    try:
        async with EventProducer(kafka) as producer:
            change = catalog_events_pb2.AccessChanged(principal="alice")
            await producer.publish(new_event(change, source="test", key="alice"))
            await eventually(lambda: all(kept.dropped > 1 for kept in watched), timeout=20)
            for _ in range(3):
                before = [kept.dropped for kept in watched]
                await producer.publish(new_event(change, source="test", key="alice"))
                await eventually(
                    lambda before=before: all(
                        kept.dropped > was for kept, was in zip(watched, before, strict=True)
                    )
                )
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
