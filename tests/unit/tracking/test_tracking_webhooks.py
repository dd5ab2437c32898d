"""Webhooks: which URLs may be told, how deliveries are tried, and what becomes of secrets."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from services.tracking.adapters.memory import InMemoryStore
from services.tracking.adapters.secret_box import FernetBox
from services.tracking.adapters.webhook_http import HttpHookSender
from services.tracking.domain.webhooks import (
    EVENTS,
    HookEvent,
    HookUrls,
    check_events,
    check_webhook_name,
    is_public,
    signed_headers,
)
from services.tracking.errors import InvalidValue, SecretLost, WebhookNotFound
from services.tracking.handlers.access import Access
from services.tracking.handlers.deliveries import Deliveries
from services.tracking.handlers.webhooks import Webhooks
from services.tracking.webhook_ports import HookAnswer, Hooks
from tessera_kit.clock import ManualClock
from tessera_kit.config import Secret
from tessera_kit.errors import PermissionDenied
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal

ADMIN, BOB = Principal("admin", is_admin=True), Principal("bob")
CREATED, TAGGED = HookEvent("model_version", "created"), HookEvent("model_version_tag", "set")
LOCAL = HookUrls(("http",), ("127.0.0.1", "localhost"))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "ftp://example.com",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user:word@example.com",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://10.0.0.8",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]",
        "https://[64:ff9b::7f00:1]",
        "https://100.64.0.1",
        "https://127.1",
        "https://2130706433",
        "https://exam ple.com",
        "https://example.com:99999",
        "https://[::1",
        "https://example.com/" + "x" * 500,
    ],
)
def test_urls_that_could_reach_neighbours_are_refused(url: str) -> None:
    with pytest.raises(InvalidValue):
        HookUrls().check(url)


def test_urls_that_may_be_told() -> None:
    assert HookUrls().check("https://example.com:8443/a?b=c") == "https://example.com:8443/a?b=c"
    assert HookUrls().check("https://8.8.8.8/")
    assert LOCAL.check("http://127.0.0.1:5000/")
    assert is_public(ipaddress.ip_address("2001:4860:4860::8888"))
    for inner in ("224.0.0.1", "0.0.0.1", "fe80::1", "fc00::1", "2002:0a00:0001::"):
        assert not is_public(ipaddress.ip_address(inner))


def test_names_and_events_have_rules() -> None:
    for name in ("a", "A.b_c-1", "x" * 63):
        assert check_webhook_name(name) == name
    for name in ("", "-a", "a-", "a b", "x" * 64, "a\n"):
        with pytest.raises(InvalidValue):
            check_webhook_name(name)
    assert check_events([CREATED, CREATED, TAGGED]) == (CREATED, TAGGED)
    for events in ([], [HookEvent("model_version", "deleted")], [HookEvent("x", "created")]):
        with pytest.raises(InvalidValue):
            check_events(events)


def test_a_delivery_without_a_secret_is_not_signed() -> None:
    assert signed_headers("id", 5, "{}", "") == {
        "Content-Type": "application/json",
        "X-MLflow-Delivery-Id": "id",
        "X-MLflow-Timestamp": "5",
    }


def test_a_secret_opens_with_its_key_only() -> None:
    box = FernetBox(Secret("key"))
    sealed = box.seal("hush ü")
    assert "hush" not in sealed
    assert (box.open(sealed), box.open(""), box.seal("")) == ("hush ü", "", "")
    with pytest.raises(SecretLost):
        FernetBox(Secret("other")).open(sealed)


@dataclass
class Receiver:
    """A sender whose answers are set, and what was sent with it."""

    answers: list[HookAnswer] = field(default_factory=list)
    sent: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    async def send(self, url: str, body: str, headers: Mapping[str, str]) -> HookAnswer:
        self.sent.append((body, headers))
        return self.answers.pop(0) if self.answers else HookAnswer(200)


class Desk:
    """The use cases in memory."""

    def __init__(self) -> None:
        self.store, self.clock, self.receiver = InMemoryStore(), ManualClock(), Receiver()
        access = Access(InMemoryAuthority(), self.store)
        hooks = Hooks(self.receiver, FernetBox(Secret("key")), HookUrls())
        self.webhooks = Webhooks(self.store, access, hooks, self.clock)
        self.deliveries = Deliveries(self.store, hooks, self.clock)

    async def hook(self, **fields: Any) -> str:
        made = await self.webhooks.create(
            ADMIN,
            **{
                **{"name": "hook", "url": "https://example.com", "events": [CREATED]},
                **{"description": "", "secret": "hush", "is_active": True},
                **fields,
            },
        )
        return made.webhook_id

    async def waiting(self, webhook_id: str) -> int:
        async with self.store.read() as view:
            return await view.webhooks.waiting(webhook_id)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_only_who_manages_everything_may(desk: Desk) -> None:
    webhook_id = await desk.hook()
    for call in (
        desk.webhooks.all(BOB),
        desk.webhooks.get(BOB, webhook_id),
        desk.webhooks.update(BOB, webhook_id, name="x"),
        desk.webhooks.test(BOB, webhook_id, None),
        desk.webhooks.delete(BOB, webhook_id),
    ):
        with pytest.raises(PermissionDenied):
            await call
    with pytest.raises(WebhookNotFound):
        await desk.webhooks.get(ADMIN, "none")


async def test_who_wants_to_hear_is_told_once(desk: Desk) -> None:
    webhook_id = await desk.hook()
    other = await desk.hook(events=[TAGGED])
    quiet = await desk.hook(is_active=False)
    await desk.webhooks.tell(CREATED, {"name": "net", "version": "1"})
    assert [await desk.waiting(one) for one in (webhook_id, other, quiet)] == [1, 0, 0]
    assert await desk.deliveries.step() == 1
    assert await desk.deliveries.step() == 0
    [(body, headers)] = desk.receiver.sent
    told = json.loads(body)
    assert (told["entity"], told["action"]) == CREATED
    assert told["data"] == {"name": "net", "version": "1"}
    assert headers["X-MLflow-Signature"].startswith("v1,")


async def test_what_passes_is_tried_again_with_the_same_id(desk: Desk) -> None:
    webhook_id = await desk.hook()
    desk.receiver.answers = [HookAnswer(0, error="no route"), HookAnswer(429, retry_after=50.0)]
    await desk.webhooks.tell(CREATED, {})
    for wait in (0.0, 1.0, 50.0):
        desk.clock.advance(wait)
        assert await desk.deliveries.step() == 1
        assert await desk.deliveries.step() == 0
    ids = {headers["X-MLflow-Delivery-Id"] for _, headers in desk.receiver.sent}
    times = [int(headers["X-MLflow-Timestamp"]) for _, headers in desk.receiver.sent]
    assert (len(ids), [time - times[0] for time in times]) == (1, [0, 1, 51])
    assert await desk.waiting(webhook_id) == 0


@pytest.mark.parametrize("answer", [HookAnswer(400), HookAnswer(404), HookAnswer(302)])
async def test_what_is_refused_is_dropped(desk: Desk, answer: HookAnswer) -> None:
    webhook_id = await desk.hook()
    desk.receiver.answers = [answer]
    await desk.webhooks.tell(CREATED, {})
    assert await desk.deliveries.step() == 1
    assert await desk.waiting(webhook_id) == 0


async def test_attempts_end_after_a_day(desk: Desk) -> None:
    webhook_id = await desk.hook()
    desk.receiver.answers = [HookAnswer(503)] * 1000
    await desk.webhooks.tell(CREATED, {})
    steps = 0
    while await desk.waiting(webhook_id):
        await desk.deliveries.step()
        desk.clock.advance(600.0)
        steps += 1
    assert 140 <= steps <= 146


async def test_what_was_taken_by_a_process_that_died_is_sent_by_another(desk: Desk) -> None:
    webhook_id = await desk.hook()
    await desk.webhooks.tell(CREATED, {})

    class Died(BaseException):
        pass

    async def dies(url: str, body: str, headers: Mapping[str, str]) -> HookAnswer:
        raise Died

    desk.receiver.send, send = dies, desk.receiver.send  # type: ignore[method-assign]
    with pytest.raises(BaseExceptionGroup):
        await desk.deliveries.step()
    desk.receiver.send = send  # type: ignore[method-assign]
    assert await desk.deliveries.step() == 0
    desk.clock.advance(120.0)
    assert await desk.deliveries.step() == 1
    assert (len(desk.receiver.sent), await desk.waiting(webhook_id)) == (1, 0)


async def test_what_waits_is_bounded_by_what_was_deleted_or_disabled(desk: Desk) -> None:
    gone, quiet = await desk.hook(), await desk.hook()
    await desk.webhooks.tell(CREATED, {})
    await desk.webhooks.delete(ADMIN, gone)
    await desk.webhooks.update(ADMIN, quiet, is_active=False)
    assert await desk.deliveries.step() == 1
    assert desk.receiver.sent == []
    assert await desk.waiting(quiet) == 0


async def test_every_event_can_be_tested(desk: Desk) -> None:
    webhook_id = await desk.hook()
    for event in EVENTS:
        assert (await desk.webhooks.test(ADMIN, webhook_id, event)).is_success
    assert [json.loads(body)["data"] for body, _ in desk.receiver.sent] == list(EVENTS.values())
    with pytest.raises(InvalidValue):
        await desk.webhooks.test(ADMIN, webhook_id, HookEvent("x", "y"))


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/moved":
            raise web.HTTPFound("/")
        status = 503 if request.path == "/busy" else 200
        return web.Response(status=status, text="x" * 9000, headers={"retry-after": "7"})

    application = web.Application()
    application.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f":{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_receivers_are_reached_by_http(address: str) -> None:
    async with HttpHookSender(LOCAL) as sender:
        taken = await sender.send(f"http://127.0.0.1{address}/", "{}", {"x": "y"})
        assert (taken.is_success, len(taken.body)) == (True, 4096)
        busy = await sender.send(f"http://localhost{address}/busy", "{}", {})
        assert (busy.status, busy.is_passing, busy.retry_after) == (503, True, 7.0)
        moved = await sender.send(f"http://127.0.0.1{address}/moved", "{}", {})
        assert (moved.status, moved.is_success, moved.is_passing) == (302, False, False)
        away = await sender.send("http://127.0.0.1:1/", "{}", {})
        assert (away.status, away.is_passing, bool(away.error)) == (0, True, True)


async def test_no_name_of_a_neighbour_is_dialled(address: str) -> None:
    async with HttpHookSender(HookUrls(("http",))) as sender:
        named = await sender.send(f"http://localhost{address}/", "{}", {})
        assert (named.status, named.is_success) == (0, False)
        assert "not public" in named.error
        for host in ("127.0.0.1", "127.1", "2130706433", "[::1]"):
            literal = await sender.send(f"http://{host}{address}/", "{}", {})
            assert (literal.status, literal.is_passing) == (400, False)
