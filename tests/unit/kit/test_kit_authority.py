"""Cached answers of an authority, and the in-memory one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan

from tessera.catalog.v1 import securable_pb2 as pb
from tessera_kit.clock import ManualClock
from tessera_kit.errors import Unavailable
from tessera_kit.rpc import deadline
from tessera_kit.rpc.answers import Answer, Answers, Freshness
from tessera_kit.rpc.authority import AccessDenied, InMemoryAuthority
from tessera_kit.rpc.deadline import time_remaining
from tessera_kit.rpc.identity import InvalidCredentials, Principal
from tessera_kit.telemetry.propagation import current_trace_id, new_span_context


class Remote:
    """Answers with a count of how often it was asked; can be made to fail, refuse or wait."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = False
        self.positive = True
        self.lifetime = math.inf
        self.gate = asyncio.Event()
        self.gate.set()
        self.observed: list[str] = []
        self.clock = ManualClock()
        self.answers = Answers(
            self.ask,
            freshness=Freshness(positive=30, negative=1, stale=60, most=3),
            clock=self.clock,
            observe=self.observed.append,
        )

    async def ask(self, key: str) -> Answer[int]:
        self.asked.append(key)
        number = len(self.asked)
        await self.gate.wait()
        if self.down:
            raise Unavailable("down")
        return Answer(number, positive=self.positive, lifetime=self.lifetime)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_answer_is_kept_and_then_asked_again() -> None:
    remote = Remote()
    assert [await remote.answers.get("a") for _ in range(3)] == [1, 1, 1]
    remote.clock.advance(30)
    assert await remote.answers.get("a") == 2
    assert remote.observed == ["remote", "cache", "cache", "remote"]


async def test_a_refusal_is_kept_for_a_shorter_time() -> None:
    remote = Remote()
    remote.positive = False
    assert [await remote.answers.get("a") for _ in range(2)] == [1, 1]
    remote.clock.advance(1)
    assert await remote.answers.get("a") == 2


async def test_one_question_is_asked_once_at_a_time() -> None:
    remote = Remote()
    remote.gate.clear()
    waiting = [asyncio.create_task(remote.answers.get("a")) for _ in range(10)]
    await settle()
    waiting[0].cancel()
    remote.gate.set()
    assert await asyncio.gather(*waiting[1:]) == [1] * 9
    assert remote.asked == ["a"]


async def test_an_answer_in_use_is_refreshed_before_it_ends() -> None:
    remote = Remote()
    await remote.answers.get("a")
    remote.clock.advance(16)
    assert await remote.answers.get("a") == 1
    await settle()
    assert remote.asked == ["a", "a"]
    remote.clock.advance(16)
    assert await remote.answers.get("a") == 2


async def test_a_good_answer_serves_longer_while_nobody_answers() -> None:
    remote = Remote()
    await remote.answers.get("a")
    remote.down = True
    remote.clock.advance(60)
    assert await remote.answers.get("a") == 1
    assert remote.observed[-1] == "stale"
    remote.clock.advance(30)
    with pytest.raises(Unavailable):
        await remote.answers.get("a")
    with pytest.raises(Unavailable):
        await remote.answers.get("never asked")


async def test_an_answer_that_ends_is_neither_fresh_nor_stale_after_its_end() -> None:
    remote = Remote()
    remote.lifetime = 5
    await remote.answers.get("a")
    remote.clock.advance(4)
    assert await remote.answers.get("a") == 1
    remote.clock.advance(1)
    assert await remote.answers.get("a") == 2
    remote.down = True
    remote.clock.advance(5)
    with pytest.raises(Unavailable):
        await remote.answers.get("a")


async def test_a_refusal_never_serves_longer() -> None:
    remote = Remote()
    remote.positive = False
    await remote.answers.get("a")
    remote.down = True
    remote.clock.advance(2)
    with pytest.raises(Unavailable):
        await remote.answers.get("a")


async def test_a_drop_forgets_at_once_even_what_is_being_asked() -> None:
    remote = Remote()
    remote.gate.clear()
    early = asyncio.create_task(remote.answers.get("a"))
    await settle()
    remote.answers.drop()
    late = asyncio.create_task(remote.answers.get("a"))
    await settle()
    remote.gate.set()
    assert (await early, await late) == (1, 2)
    assert await remote.answers.get("a") == 2
    remote.answers.drop(lambda key: key == "b")
    assert await remote.answers.get("a") == 2
    remote.answers.drop(lambda key: key == "a")
    assert await remote.answers.get("a") == 3


async def test_after_a_drop_nothing_stale_is_served() -> None:
    remote = Remote()
    await remote.answers.get("a")
    remote.clock.advance(40)
    remote.down = True
    remote.gate.clear()
    waiting = asyncio.create_task(remote.answers.get("a"))
    await settle()
    remote.answers.drop()
    remote.gate.set()
    with pytest.raises(Unavailable):
        await waiting


async def test_the_number_of_answers_is_bounded() -> None:
    remote = Remote()
    for key in "abcd":
        await remote.answers.get(key)
    await remote.answers.get("d")
    assert remote.asked == list("abcd")
    await remote.answers.get("a")
    assert remote.asked == list("abcda")


async def test_neither_deadline_nor_trace_of_one_caller_binds_the_answer_for_all() -> None:
    seen: list[tuple[float | None, str | None]] = []

    async def ask(key: str) -> Answer[int]:
        seen.append((time_remaining(), current_trace_id()))
        return Answer(1)

    async def call() -> int:
        deadline.enter_call(0.0)
        with trace.use_span(NonRecordingSpan(new_span_context(sampled=True))):
            return await Answers(ask).get("a")

    assert await asyncio.create_task(call()) == 1
    assert seen == [(None, None)]


ALICE = Principal("alice", groups=frozenset({"team"}))
ROOT = Principal("root", is_admin=True)
ENDPOINT, EXECUTE = pb.SECURABLE_TYPE_ENDPOINT, pb.PRIVILEGE_EXECUTE
METASTORE = (pb.SECURABLE_TYPE_METASTORE, "metastore")


async def allowed(authority: InMemoryAuthority, privilege: int = EXECUTE) -> bool:
    try:
        await authority.require(ALICE, privilege, ENDPOINT, "delays")
    except AccessDenied as error:
        assert error.message.startswith("alice needs ")
        assert error.message.endswith(" on endpoint delays")
        return False
    return True


GRANTS: list[Callable[[InMemoryAuthority], Awaitable[None] | None]] = [
    lambda authority: authority.grant("alice", [EXECUTE], ENDPOINT, "delays"),
    lambda authority: authority.grant("team", [EXECUTE], ENDPOINT, "delays"),
    lambda authority: authority.grant("team", [EXECUTE], *METASTORE),
    lambda authority: authority.grant("alice", [pb.PRIVILEGE_ALL_PRIVILEGES], *METASTORE),
    lambda authority: authority.register(ENDPOINT, "delays", "alice"),
    lambda authority: authority.register(ENDPOINT, "delays", "team"),
]


@pytest.mark.parametrize("give", GRANTS)
async def test_what_gives_access(
    give: Callable[[InMemoryAuthority], Awaitable[None] | None],
) -> None:
    authority = InMemoryAuthority()
    assert not await allowed(authority)
    given = give(authority)
    if given is not None:
        await given
    assert await allowed(authority)


async def test_what_does_not() -> None:
    authority = InMemoryAuthority()
    authority.grant("bob", [EXECUTE], ENDPOINT, "delays")
    authority.grant("alice", [EXECUTE], ENDPOINT, "other")
    authority.grant("alice", [pb.PRIVILEGE_SELECT], ENDPOINT, "delays")
    authority.grant("alice", [EXECUTE], pb.SECURABLE_TYPE_MODEL, "delays")
    assert not await allowed(authority)
    authority.grant("alice", [pb.PRIVILEGE_ALL_PRIVILEGES], ENDPOINT, "delays")
    assert await allowed(authority)
    assert not await allowed(authority, pb.PRIVILEGE_MANAGE)
    await authority.require(ROOT, pb.PRIVILEGE_MANAGE, ENDPOINT, "delays")


async def test_grants_and_tokens_end() -> None:
    authority = InMemoryAuthority()
    authority.add_principal(ALICE, "token")
    assert await authority.authenticate("token") is ALICE
    authority.remove_token("token")
    with pytest.raises(InvalidCredentials):
        await authority.authenticate("token")
    await authority.register(ENDPOINT, "delays", "alice")
    assert authority.owner_of(ENDPOINT, "delays") == "alice"
    authority.grant("team", [EXECUTE], ENDPOINT, "delays")
    await authority.unregister(ENDPOINT, "delays")
    await authority.unregister(ENDPOINT, "delays")
    assert not await allowed(authority)
