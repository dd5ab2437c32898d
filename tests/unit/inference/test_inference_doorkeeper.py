"""Whom the gateway has let in, and for how long it knows so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from services.inference.gateway import doorkeeper
from services.inference.gateway.doorkeeper import Doorkeeper
from services.inference.gateway.records import Exchange
from services.inference.gateway.routing import RouteTable
from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import PermissionDenied, Unauthenticated
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal

Make = Callable[..., Any]

ENDPOINT = securable_pb2.SECURABLE_TYPE_ENDPOINT
MAY = [securable_pb2.PRIVILEGE_BROWSE, securable_pb2.PRIVILEGE_EXECUTE]
SENT = (("authorization", "Bearer alice-token"), ("x-other", "1"))


class CountingAuthority(InMemoryAuthority):
    """Counts what it is asked, and lets something happen meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.meanwhile: Callable[[], None] = lambda: None
        self.add_principal(Principal("alice"), "alice-token")
        self.grant("alice", MAY, ENDPOINT, "flights")
        self.grant("alice", MAY[:1], ENDPOINT, "arrivals")

    async def authenticate(self, token: str) -> Principal:
        self.asked += 1
        principal = await super().authenticate(token)
        self.meanwhile()
        return principal


class Door:
    """A doorkeeper and the clock that it looks at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, endpoint: Any) -> None:
        self.now = 1_000_000_000
        monkeypatch.setattr(doorkeeper, "perf_counter_ns", lambda: self.now)
        self.authority = CountingAuthority()
        routes = RouteTable()
        routes.put(endpoint)
        self.keeper = Doorkeeper(self.authority, routes)

    async def let_in(self, metadata: Any = SENT, name: str = "flights") -> bool:
        """Let a request in; whether its caller was known."""
        exchange = Exchange("id", b"")
        exchange.endpoint = name
        known = self.keeper.known(exchange, metadata)
        given = known or await self.keeper.admit(exchange, metadata)
        assert (given.principal.name, exchange.requester) == ("alice", "alice")
        assert given.token == "alice-token"
        return known is not None


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, make_endpoint: Make) -> Door:
    return Door(monkeypatch, make_endpoint())


async def test_a_caller_is_known_for_half_a_second(door: Door) -> None:
    assert [await door.let_in() for _ in range(3)] == [False, True, True]
    door.now += 500_000_000
    assert await door.let_in()
    door.now += 1
    assert not await door.let_in()
    assert door.authority.asked == 2


async def test_what_else_it_sends_does_not_matter(door: Door) -> None:
    await door.let_in()
    assert await door.let_in((("traceparent", "x"), SENT[0]))


@pytest.mark.parametrize("name", ["arrivals", "nowhere"])
async def test_it_is_known_for_the_endpoint_alone(door: Door, name: str) -> None:
    await door.let_in()
    with pytest.raises(Exception, match="EXECUTE on endpoint"):
        await door.let_in(name=name)


async def test_a_revoke_holds_for_the_next_request(door: Door) -> None:
    await door.let_in()
    door.authority.revoke("alice", MAY[1:], ENDPOINT, "flights")
    with pytest.raises(PermissionDenied):
        await door.let_in()


async def test_so_does_the_end_of_a_token(door: Door) -> None:
    await door.let_in()
    door.authority.remove_token("alice-token")
    with pytest.raises(Unauthenticated):
        await door.let_in()


async def test_what_was_answered_amid_a_change_is_not_kept(door: Door) -> None:
    door.authority.meanwhile = lambda: door.authority.grant("bob", MAY, ENDPOINT, "flights")
    await door.let_in()
    assert not await door.let_in()


async def test_nobody_is_known_without_a_token(door: Door) -> None:
    await door.let_in()
    for metadata in ((), (("authorization", ""),), (("authorization", b"Bearer alice-token"),)):
        with pytest.raises(Unauthenticated):
            await door.let_in(metadata)


async def test_passes_are_bounded(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorkeeper, "_MOST_PASSES", 8)
    for number in range(20):
        door.authority.add_principal(Principal("alice"), f"token-{number}")
    for number in range(20):
        exchange = Exchange("id", b"")
        exchange.endpoint = "flights"
        await door.keeper.admit(exchange, (("authorization", f"Bearer token-{number}"),))
    known = 0
    for number in range(20):
        exchange = Exchange("id", b"")
        exchange.endpoint = "flights"
        sent = (("authorization", f"Bearer token-{number}"),)
        known += door.keeper.known(exchange, sent) is not None
    assert 0 < known <= 8
