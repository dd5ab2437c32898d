"""MLflow's webhooks: who is told of what happens in the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.tracking.domain.webhooks import HookEvent, Webhook
from services.tracking.handlers.page_tokens import foreign_token
from services.tracking.handlers.webhooks import Webhooks
from services.tracking.mlflow.calls import Answer, Call, Method
from services.tracking.mlflow.convert import millis
from services.tracking.mlflow.experiments import page_bound
from services.tracking.mlflow.protos import protos
from tessera_kit.rpc.pages import decode_page_token, encode_page_token

__all__ = ["WebhookMethods"]

_PAGE: Final = 100
_MOST: Final = 1000
_SCOPE: Final = "webhooks"


class WebhookMethods:
    """Answers the rpcs of webhooks.

    Args:
        webhooks: Who does the work.
    """

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    def methods(self) -> Mapping[str, Method]:
        """Return who answers which rpc."""
        return {
            "WebhookService/createWebhook": Method(self._create, ("name", "url", "events")),
            "WebhookService/listWebhooks": Method(self._list),
            "WebhookService/getWebhook": Method(self._get, ("webhook_id",)),
            "WebhookService/updateWebhook": Method(self._update, ("webhook_id",)),
            "WebhookService/deleteWebhook": Method(self._delete, ("webhook_id",)),
            "WebhookService/testWebhook": Method(self._test, ("webhook_id",)),
        }

    async def _create(self, call: Call) -> Answer:
        asked = call.message
        made = await self._webhooks.create(
            call.principal,
            name=asked.name,
            url=asked.url,
            events=_events(asked.events),
            description=asked.description,
            secret=asked.secret,
            is_active=not asked.HasField("status") or _is_active(asked.status),
        )
        return {"webhook": _fields(made)}

    async def _list(self, call: Call) -> Answer:
        size = page_bound(call, default=_PAGE, most=_MOST)
        hooks = await self._webhooks.all(call.principal)
        position = decode_page_token(call.message.page_token, _SCOPE)
        if position:
            after = [one.webhook_id for one in hooks]
            if position.get("i") not in after:
                raise foreign_token()
            hooks = hooks[after.index(str(position["i"])) + 1 :]
        answer: dict[str, Any] = {"webhooks": [_fields(one) for one in hooks[:size]]}
        if len(hooks) > size:
            last = {"i": hooks[size - 1].webhook_id}
            answer["next_page_token"] = encode_page_token(last, _SCOPE)
        return answer

    async def _get(self, call: Call) -> Answer:
        found = await self._webhooks.get(call.principal, call.message.webhook_id)
        return {"webhook": _fields(found)}

    async def _update(self, call: Call) -> Answer:
        asked = call.message
        changed = await self._webhooks.update(
            call.principal,
            asked.webhook_id,
            name=asked.name or None,
            url=asked.url or None,
            events=_events(asked.events) or None,
            description=asked.description if asked.HasField("description") else None,
            secret=asked.secret if asked.HasField("secret") else None,
            is_active=_is_active(asked.status) if asked.HasField("status") else None,
        )
        return {"webhook": _fields(changed)}

    async def _delete(self, call: Call) -> Answer:
        await self._webhooks.delete(call.principal, call.message.webhook_id)
        return None

    async def _test(self, call: Call) -> Answer:
        asked = call.message
        event = _event(asked.event) if asked.HasField("event") else None
        answer = await self._webhooks.test(call.principal, asked.webhook_id, event)
        if answer.error:
            message = f"Failed to test webhook: {answer.error}"
            return {"result": {"success": False, "error_message": message}}
        return {
            "result": {
                "success": answer.is_success,
                "response_status": answer.status,
                "response_body": answer.body,
            }
        }


def _is_active(status: int) -> bool:
    active: int = protos("webhooks_pb2").ACTIVE
    return status == active


def _events(messages: Sequence[Any]) -> list[HookEvent]:
    return [_event(one) for one in messages]


def _event(message: Any) -> HookEvent:
    names = protos("webhooks_pb2")
    return HookEvent(
        names.WebhookEntity.Name(message.entity).lower(),
        names.WebhookAction.Name(message.action).lower(),
    )


def _fields(hook: Webhook) -> dict[str, Any]:
    """Return a webhook without its secret."""
    return {
        "webhook_id": hook.webhook_id,
        "name": hook.name,
        "description": hook.description,
        "url": hook.url,
        "events": [
            {"entity": one.entity.upper(), "action": one.action.upper()} for one in hook.events
        ],
        "status": "ACTIVE" if hook.is_active else "DISABLED",
        "creation_timestamp": millis(hook.created_at),
        "last_updated_timestamp": millis(hook.updated_at),
    }
