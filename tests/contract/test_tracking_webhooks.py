"""One body over every implementation of the store's webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.tracking.domain.webhooks import Delivery, GivenUp, HookEvent, Webhook
from services.tracking.ports.store import Store
from tests.tracking_database import STORES, opened_store


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(request, tmp_path) as store:
        yield store


def hook(name: str, **fields: object) -> Webhook:
    made = Webhook(
        webhook_id=name,
        name=name,
        url="https://example.com/é",
        events=(HookEvent("model_version", "created"), HookEvent("prompt_tag", "set")),
        created_at=1,
        updated_at=1,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def delivery(name: str, due_at: int, webhook_id: str = "a") -> Delivery:
    return Delivery(
        delivery_id=name, webhook_id=webhook_id, body='{"a": "ü"}', created_at=1, due_at=due_at
    )


async def test_webhooks_are_kept_changed_and_deleted(store: Store) -> None:
    first, second = hook("a"), hook("b", created_at=2, sealed_secret="x", is_active=False)
    async with store.write() as work:
        for one in (first, second):
            await work.webhooks.put(one)
        await work.webhooks.enqueue([delivery("1", 5), delivery("2", 5, "b")])
        await work.commit()
    changed = hook("a", url="https://example.org", events=(HookEvent("prompt", "created"),))
    async with store.write() as work:
        await work.webhooks.put(changed)
        assert await work.webhooks.delete("b")
        assert not await work.webhooks.delete("b")
        await work.webhooks.put(replace(second, webhook_id="c"))
        await work.commit()
    async with store.read() as view:
        assert await view.webhooks.get("a") == changed
        assert await view.webhooks.get("b") is None
        assert [one.webhook_id for one in await view.webhooks.all()] == ["c", "a"]
        assert [await view.webhooks.waiting(one) for one in ("a", "b")] == [1, 0]


async def test_a_delivery_is_taken_by_one_at_a_time(store: Store) -> None:
    waiting = [delivery("3", 30), delivery("1", 10), delivery("2", 20), delivery("4", 99)]
    async with store.write() as work:
        await work.webhooks.put(hook("a"))
        await work.webhooks.enqueue(waiting)
        await work.commit()
    async with store.write() as work:
        assert await work.webhooks.claim(50, 100, 2) == [waiting[1], waiting[2]]
        await work.commit()
    async with store.write() as work:
        assert await work.webhooks.claim(50, 100, 9) == [waiting[0]]
        assert await work.webhooks.claim(50, 100, 9) == []
        await work.webhooks.settle("3")
        later = replace(waiting[1], attempts=1, due_at=70)
        await work.webhooks.postpone(later)
        await work.webhooks.postpone(replace(waiting[0], attempts=1))
        await work.commit()
    async with store.write() as work:
        assert await work.webhooks.claim(99, 200, 9) == [later, waiting[3]]
        [left] = await work.webhooks.claim(100, 200, 9)
        assert (left.delivery_id, left.due_at) == ("2", 100)
        assert await work.webhooks.waiting("a") == 3


async def test_what_was_given_up_is_kept_up_to_a_bound(store: Store) -> None:
    async with store.write() as work:
        for name in ("a", "b"):
            await work.webhooks.put(hook(name))
        await work.webhooks.enqueue([delivery(str(one), 5) for one in range(4)])
        for one in range(4):
            lost = GivenUp(delivery=delivery(str(one), 5), given_up_at=one // 2, reason="é")
            await work.webhooks.give_up(lost, most=3)
        other = GivenUp(delivery=delivery("x", 5, "b"), given_up_at=9, reason="")
        await work.webhooks.give_up(other, most=3)
        await work.commit()
    async with store.read() as view:
        assert await view.webhooks.waiting("a") == 0
        every = await view.webhooks.given_up("", before=None, limit=9)
        assert [one.delivery.delivery_id for one in every] == ["x", "3", "2", "1"]
        assert every[0] == other
        page = await view.webhooks.given_up("a", before=(1, "3"), limit=1)
        assert [one.delivery.delivery_id for one in page] == ["2"]
    async with store.write() as work:
        await work.webhooks.delete("a")
        assert await work.webhooks.given_up("", before=None, limit=9) == [other]


async def test_an_event_is_heard_once_per_group(store: Store) -> None:
    async with store.write() as work:
        assert await work.hear("g", "1")
        assert await work.hear("h", "1")
        await work.commit()
    async with store.write() as work:
        assert not await work.hear("g", "1")
        assert await work.hear("g", "2")
    async with store.write() as work:  # what was not committed was not heard
        assert await work.hear("g", "2")
