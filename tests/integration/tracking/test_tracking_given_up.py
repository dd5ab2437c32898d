"""What webhooks did not take, listed at the gRPC door."""

from __future__ import annotations

import grpc
import pytest

from services.tracking.adapters.memory.store import InMemoryPoints
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.domain.webhooks import Delivery, GivenUp, HookEvent
from tessera.client.aio.tracking import AsyncTracking
from tessera.tracking.v1 import tracking_service_pb2 as api
from tessera_kit.rpc.identity import Principal

from .conftest import Service, channel_of

ADMIN = Principal("admin", is_admin=True)


async def lost(service: Service, count: int) -> str:
    """A webhook that did not take so many events."""
    assert service.cases.webhooks is not None
    hook = await service.cases.webhooks.create(
        ADMIN,
        name="hook",
        url="https://example.com",
        events=[HookEvent("model_version", "created")],
        description="",
        secret="",
        is_active=True,
    )
    async with SqlStore(service.database, InMemoryPoints()).write() as work:
        for number in range(count):
            delivery = Delivery(
                delivery_id=f"d{number}",
                webhook_id=hook.webhook_id,
                body='{"a": "ü"}',
                created_at=1_000_000,
                attempts=3,
                due_at=2_000_000,
            )
            await work.webhooks.give_up(
                GivenUp(delivery=delivery, given_up_at=3_000_000, reason="status 404"),
                most=1000,
            )
        await work.commit()
    return hook.webhook_id


async def test_what_webhooks_did_not_take_is_listed_in_pages(service: Service) -> None:
    webhook_id = await lost(service, 3)
    first = await service.admin.ListGivenUpDeliveries(
        api.ListGivenUpDeliveriesRequest(webhook_id=webhook_id, page_size=2)
    )
    rest = await service.admin.ListGivenUpDeliveries(
        api.ListGivenUpDeliveriesRequest(
            webhook_id=webhook_id, page_size=2, page_token=first.next_page_token
        )
    )
    found = [*first.deliveries, *rest.deliveries]
    assert [one.delivery_id for one in found] == ["d2", "d1", "d0"]
    assert rest.next_page_token == ""
    one = found[0]
    assert (one.webhook_id, one.body, one.attempts) == (webhook_id, '{"a": "ü"}', 3)
    assert (one.reason, one.given_up_at.seconds) == ("status 404", 3)
    async with channel_of(service.address, "admin") as channel:
        every = await AsyncTracking(channel).list_given_up_deliveries()
    assert [one.delivery_id for one in every] == ["d2", "d1", "d0"]


@pytest.mark.parametrize(
    ("who", "fields", "code"),
    [
        ("bob", {}, grpc.StatusCode.PERMISSION_DENIED),
        ("admin", {"webhook_id": "none"}, grpc.StatusCode.NOT_FOUND),
        ("admin", {"webhook_id": "x" * 65}, grpc.StatusCode.INVALID_ARGUMENT),
        ("admin", {"page_size": -1}, grpc.StatusCode.INVALID_ARGUMENT),
        ("admin", {"page_token": "made up"}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_who_may_not_and_what_is_wrong_is_refused(
    service: Service, who: str, fields: dict[str, object], code: grpc.StatusCode
) -> None:
    await lost(service, 1)
    request = api.ListGivenUpDeliveriesRequest(**fields)  # type: ignore[arg-type]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(service, who).ListGivenUpDeliveries(request)
    assert caught.value.code() is code
