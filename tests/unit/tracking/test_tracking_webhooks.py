"""Webhooks: which URLs may be told, how deliveries are tried, and what becomes of secrets."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from google.protobuf.message import Message

from services.tracking.adapters.memory.store import InMemoryStore
from services.tracking.adapters.secret_box import FernetBox
from services.tracking.adapters.webhook_http import HttpHookSender
from services.tracking.consumers import news_of
from services.tracking.domain.registry import RegisteredModel
from services.tracking.domain.webhooks import (
    EVENTS,
    GivenUp,
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
from services.tracking.handlers.registry_news import RegistryNews
from services.tracking.handlers.webhooks import Webhooks
from services.tracking.ports.webhooks import HookAnswer, Hooks
from tessera.catalog.v1.model_pb2 import (
    MODEL_VERSION_STATUS_PENDING_REGISTRATION,
    MODEL_VERSION_STATUS_READY,
    ModelVersion,
)
from tessera.catalog.v1.securable_pb2 import (
    SECURABLE_TYPE_MODEL,
    SECURABLE_TYPE_TABLE,
    Securable,
)
from tessera.events.v1 import catalog_events_pb2 as catalog_events
from tessera_kit.bus.event import new_event
from tessera_kit.clock import ManualClock
from tessera_kit.config import Secret
from tessera_kit.errors import NotFound, PermissionDenied
from tessera_kit.ids import new_id
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

    async def tell(self, event: HookEvent, data: Mapping[str, Any]) -> None:
        await self.webhooks.tell(new_id(), self.clock.now(), event, data)

    async def lost(self) -> list[GivenUp]:
        return await self.webhooks.given_up(ADMIN, "", before=None, limit=9)

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
    await desk.tell(CREATED, {"name": "net", "version": "1"})
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
    await desk.tell(CREATED, {})
    for wait in (0.0, 1.0, 50.0):
        desk.clock.advance(wait)
        assert await desk.deliveries.step() == 1
        assert await desk.deliveries.step() == 0
    ids = {headers["X-MLflow-Delivery-Id"] for _, headers in desk.receiver.sent}
    times = [int(headers["X-MLflow-Timestamp"]) for _, headers in desk.receiver.sent]
    assert (len(ids), [time - times[0] for time in times]) == (1, [0, 1, 51])
    assert await desk.waiting(webhook_id) == 0


@pytest.mark.parametrize("answer", [HookAnswer(400), HookAnswer(404), HookAnswer(302)])
async def test_what_is_refused_is_given_up(desk: Desk, answer: HookAnswer) -> None:
    webhook_id = await desk.hook()
    desk.receiver.answers = [answer]
    await desk.tell(CREATED, {"name": "net"})
    assert await desk.deliveries.step() == 1
    assert await desk.waiting(webhook_id) == 0
    [lost] = await desk.lost()
    assert (lost.delivery.webhook_id, lost.delivery.attempts) == (webhook_id, 1)
    assert lost.reason == f"status {answer.status}"
    assert json.loads(lost.delivery.body)["data"] == {"name": "net"}
    with pytest.raises(PermissionDenied):
        await desk.webhooks.given_up(BOB, "", before=None, limit=9)
    with pytest.raises(WebhookNotFound):
        await desk.webhooks.given_up(ADMIN, "none", before=None, limit=9)
    await desk.webhooks.delete(ADMIN, webhook_id)
    assert await desk.lost() == []


async def test_the_same_event_is_told_once_and_not_to_who_came_later(desk: Desk) -> None:
    webhook_id = await desk.hook()
    event_id, at = new_id(), desk.clock.now()
    desk.clock.advance(5.0)
    late = await desk.hook()
    for _ in range(2):
        await desk.webhooks.tell(event_id, at, CREATED, {})
    assert [await desk.waiting(one) for one in (webhook_id, late)] == [1, 0]
    assert await desk.deliveries.step() == 1
    await desk.webhooks.tell(event_id, at, CREATED, {})
    assert await desk.waiting(webhook_id) == 0


class TestNews:
    """What events of the catalog become."""

    async def test_are_told_in_the_words_of_mlflow(self, desk: Desk) -> None:
        await desk.hook(events=list(EVENTS))
        model = Securable(
            type=SECURABLE_TYPE_MODEL,
            full_name="main.default.net",
            comment="d",
            tags={"a": "b", "tessera.mlflow.name": "Net"},
        )
        version = ModelVersion(
            model_name="main.default.net",
            version=2,
            run_id="r",
            tags={"k": "v"},
            status=MODEL_VERSION_STATUS_PENDING_REGISTRATION,
        )
        ready = ModelVersion()
        ready.CopyFrom(version)
        ready.status = MODEL_VERSION_STATUS_READY
        name = "main.default.net"
        told = await news(
            desk,
            catalog_events.SecurableCreated(securable=model),
            catalog_events.SecurableCreated(securable=Securable(type=SECURABLE_TYPE_TABLE)),
            catalog_events.ModelVersionStatusChanged(model_version=version),
            catalog_events.ModelVersionStatusChanged(model_version=ready),
            catalog_events.ModelTagChanged(model_name=name, key="a", value="c"),
            catalog_events.ModelTagChanged(model_name=name, version=2, key="k", value="w"),
            catalog_events.ModelTagChanged(model_name=name, version=2, key="tessera.mlflow.stage"),
            catalog_events.ModelTagChanged(model_name=name, version=2, key="k", removed=True),
            catalog_events.ModelAliasChanged(model_name=name, alias="best", version=2),
            catalog_events.ModelAliasChanged(model_name=name, alias="best"),
        )
        whole = {"name": "Net", "version": "2"}
        uri = "mlflow-artifacts:/registry/main.default.net/2"
        assert told == [
            (
                "registered_model.created",
                {"name": "Net", "tags": {"a": "b"}, "description": "d"},
            ),
            (
                "model_version.created",
                {**whole, "source": uri, "run_id": "r", "tags": {"k": "v"}, "description": None},
            ),
            ("model_version_tag.set", {**whole, "key": "k", "value": "w"}),
            ("model_version_tag.deleted", {**whole, "key": "k"}),
            ("model_version_alias.created", {**whole, "alias": "best"}),
            ("model_version_alias.deleted", {"name": "Net", "alias": "best"}),
        ]

    async def test_of_prompts_have_names_of_their_own(self, desk: Desk) -> None:
        await desk.hook(events=list(EVENTS))
        name, tag = "main.default.greet", {"mlflow.prompt.is_prompt": "true"}
        prompt = Securable(type=SECURABLE_TYPE_MODEL, full_name=name, tags=tag)
        version = ModelVersion(
            model_name=name,
            version=1,
            status=MODEL_VERSION_STATUS_READY,
            tags={**tag, "mlflow.prompt.text": "Hello", "a": "b"},
        )
        told = await news(
            desk,
            catalog_events.SecurableCreated(securable=prompt),
            catalog_events.ModelVersionStatusChanged(model_version=version),
            catalog_events.ModelTagChanged(model_name=name, key="a", value="c"),
            catalog_events.ModelAliasChanged(model_name=name, alias="live", version=1),
        )
        whole = {"name": "greet", "version": "1"}
        assert told == [
            ("prompt.created", {"name": "greet", "tags": {}, "description": ""}),
            (
                "prompt_version.created",
                {**whole, "template": "Hello", "tags": {"a": "b"}, "description": None},
            ),
            ("prompt_tag.set", {"name": "greet", "key": "a", "value": "c"}),
            ("prompt_alias.created", {**whole, "alias": "live"}),
        ]


async def news(desk: Desk, *messages: Message) -> list[tuple[str, Any]]:
    """What webhooks are told when the catalog tells messages, in order; it has no model now."""

    async def gone(full_name: str) -> RegisteredModel:
        raise NotFound(full_name)

    teller = RegistryNews(desk.webhooks, gone, default_schema="main.default")
    for message in messages:
        event = new_event(message, source="tessera/catalog", key="k")
        found = news_of(replace(event, time=desk.clock.now()))
        for _ in range(2):
            if found is not None:
                await teller.tell(found)
        while await desk.deliveries.step():
            pass
    bodies = [json.loads(body) for body, _ in desk.receiver.sent]
    return [(f"{one['entity']}.{one['action']}", one["data"]) for one in bodies]


async def test_attempts_end_after_a_day(desk: Desk) -> None:
    webhook_id = await desk.hook()
    desk.receiver.answers = [HookAnswer(503)] * 1000
    await desk.tell(CREATED, {})
    steps = 0
    while await desk.waiting(webhook_id):
        await desk.deliveries.step()
        desk.clock.advance(600.0)
        steps += 1
    assert 140 <= steps <= 146
    [lost] = await desk.lost()
    assert (lost.reason, lost.delivery.attempts > 140) == ("status 503", True)


async def test_what_was_taken_by_a_process_that_died_is_sent_by_another(desk: Desk) -> None:
    webhook_id = await desk.hook()
    await desk.tell(CREATED, {})

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
    await desk.tell(CREATED, {})
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
