"""MLflow's own client and a receiver of webhooks: the events, payloads and signatures of MLflow."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tessera.client.aio.models import AsyncModels
from tessera_kit.config import Secret
from tessera_kit.rpc.client import open_channel
from tests.helpers import eventually, unique_name

from .mlflow_server import Server, ran

SECRET = "hush ü"


@dataclass
class Receiver:
    """What came in at an address."""

    url: str = ""
    got: list[tuple[dict[str, Any], dict[str, str], str]] = field(default_factory=list)
    refusals: int = 0

    async def take(self, request: web.Request) -> web.Response:
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=503)
        body = await request.text()
        self.got.append((json.loads(body), dict(request.headers), body))
        return web.Response(text="thanks")

    def of(self, name: str) -> list[tuple[str, str, dict[str, Any]]]:
        """Entity, action and data of what was told of a model, in any order."""
        told = [one for one, _, _ in self.got if one["data"]["name"] == name]
        return sorted((one["entity"], one["action"], one["data"]) for one in told)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


@pytest.fixture
def admin(mlflow: Any, mlflow_server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", mlflow_server.tokens["admin"])
    return mlflow.MlflowClient()


async def test_webhooks_are_made_listed_changed_tested_and_deleted(
    admin: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, mlflow_server: Server
) -> None:
    from mlflow.entities.webhook import VALID_ENTITY_ACTIONS, WebhookEvent
    from mlflow.exceptions import MlflowException
    from mlflow.webhooks.delivery import _generate_hmac_signature
    from mlflow.webhooks.types import get_example_payload_for_event

    every = [
        WebhookEvent(entity, action)
        for entity, actions in VALID_ENTITY_ACTIONS.items()
        if entity.value != "budget_policy"
        for action in actions
    ]

    def scenario() -> None:
        made = [
            admin.create_webhook(
                f"hook-{number}", receiver.url, every, description="d", secret=SECRET
            )
            for number in range(3)
        ]
        first = admin.list_webhooks(max_results=2)
        rest = admin.list_webhooks(max_results=2, page_token=first.token)
        assert {one.webhook_id for one in [*first, *rest]} == {one.webhook_id for one in made}
        hook = admin.get_webhook(made[0].webhook_id)
        assert (hook.name, hook.url, hook.description) == ("hook-0", receiver.url, "d")
        assert set(hook.events) == set(every)
        assert (hook.secret, hook.status) == (None, "ACTIVE")
        changed = admin.update_webhook(hook.webhook_id, name="renamed", status="DISABLED")
        assert (changed.name, changed.status, changed.url) == ("renamed", "DISABLED", receiver.url)
        for event in every:
            result = admin.test_webhook(hook.webhook_id, event)
            assert (result.success, result.response_status) == (True, 200)
            assert result.response_body == "thanks"
            told, headers, body = receiver.got[-1]
            assert told["data"] == get_example_payload_for_event(event)
            assert headers["X-MLflow-Signature"] == _generate_hmac_signature(
                SECRET, headers["X-MLflow-Delivery-Id"], headers["X-MLflow-Timestamp"], body
            )
        for url in ("http://10.0.0.1/", "ftp://127.0.0.1/", "https://example.com/"):
            with pytest.raises(MlflowException):
                admin.create_webhook("bad", url, every)
        with monkeypatch.context() as other:
            other.setenv("MLFLOW_TRACKING_TOKEN", mlflow_server.tokens["ada"])
            with pytest.raises(MlflowException, match="MANAGE"):
                admin.list_webhooks()
        for one in made:
            admin.delete_webhook(one.webhook_id)
        with pytest.raises(MlflowException, match="not found"):
            admin.get_webhook(hook.webhook_id)
        assert list(admin.list_webhooks()) == []

    await ran(scenario)


async def test_what_clients_do_in_the_registry_is_told(
    mlflow: Any, admin: Any, receiver: Receiver
) -> None:
    from mlflow.entities.webhook import VALID_ENTITY_ACTIONS, WebhookEvent

    name, prompt = unique_name("net"), unique_name("greeting")
    every = [
        WebhookEvent(entity, action)
        for entity, actions in VALID_ENTITY_ACTIONS.items()
        for action in actions
    ]
    receiver.refusals = 1

    def scenario() -> str:
        hook = admin.create_webhook("all", receiver.url, every)
        admin.create_registered_model(name, tags={"a": "b"}, description="what")
        with mlflow.start_run() as run:
            mlflow.log_text("flavors:", "model/MLmodel")
        source = f"runs:/{run.info.run_id}/model"
        admin.create_model_version(name, source, run.info.run_id, tags={"c": "d"})
        admin.set_model_version_tag(name, "1", "k", "v")
        admin.delete_model_version_tag(name, "1", "k")
        admin.set_registered_model_tag(name, "unheard", "v")
        admin.set_registered_model_alias(name, "best", "1")
        admin.delete_registered_model_alias(name, "best")
        mlflow.genai.register_prompt(prompt, "Hello {{who}}!", tags={"t": "u"})
        admin.set_prompt_alias(prompt, "live", 1)
        admin.delete_prompt_alias(prompt, "live")
        webhook_id: str = hook.webhook_id
        return webhook_id

    webhook_id = await ran(scenario)

    def all_told() -> bool:
        told = {(entity, action) for entity, action, _ in receiver.of(name)}
        assert told == {
            ("registered_model", "created"),
            ("model_version", "created"),
            ("model_version_tag", "set"),
            ("model_version_tag", "deleted"),
            ("model_version_alias", "created"),
            ("model_version_alias", "deleted"),
        }
        told = {(entity, action) for entity, action, _ in receiver.of(prompt)}
        assert told >= {
            ("prompt", "created"),
            ("prompt_version", "created"),
            ("prompt_alias", "created"),
            ("prompt_alias", "deleted"),
        }
        return True

    await eventually(all_told, timeout=60)
    assert len(receiver.of(name)) == 6
    data = {(entity, action): data for entity, action, data in receiver.of(name)}
    assert data["registered_model", "created"]["tags"] == {"a": "b"}
    version = data["model_version", "created"]
    assert (version["version"], version["tags"]) == ("1", {"c": "d"})
    assert data["model_version_tag", "set"] == {
        "name": name,
        "version": "1",
        "key": "k",
        "value": "v",
    }
    assert data["model_version_alias", "created"] == {
        "name": name,
        "alias": "best",
        "version": "1",
    }
    of_prompt = {(entity, action): data for entity, action, data in receiver.of(prompt)}
    assert of_prompt["prompt_version", "created"]["template"] == "Hello {{who}}!"
    assert all("X-MLflow-Signature" not in headers for _, headers, _ in receiver.got)
    await ran(lambda: admin.delete_webhook(webhook_id))


async def test_changes_by_the_catalog_s_own_door_are_told_once(
    admin: Any, receiver: Receiver, mlflow_server: Server
) -> None:
    from mlflow.entities.webhook import VALID_ENTITY_ACTIONS, WebhookEvent

    name = unique_name("own").replace("-", "_")
    full_name = f"main.default.{name}"
    every = [
        WebhookEvent(entity, action)
        for entity, actions in VALID_ENTITY_ACTIONS.items()
        for action in actions
    ]
    hook = await ran(lambda: admin.create_webhook("own", receiver.url, every))
    token = Secret(mlflow_server.tokens["admin"])
    async with open_channel(mlflow_server.catalog, token=token) as channel:
        models = AsyncModels(channel)
        await models.create(full_name, comment="by gRPC")
        await models.create_version(full_name, {"a": b"b"}, tags={"c": "d"})
        await models.set_alias(full_name, "best", 1)
    # The other door, last: when this is told, so is all that came before it.
    await ran(lambda: admin.set_model_version_tag(name, "1", "last", "yes"))

    def last_told() -> bool:
        return any(entity == "model_version_tag" for entity, _, _ in receiver.of(name))

    await eventually(last_told, timeout=60)
    uri = f"mlflow-artifacts:/registry/{full_name}/1"
    version = {"version": "1", "source": uri, "run_id": None, "tags": {"c": "d"}}
    assert receiver.of(name) == [
        ("model_version", "created", {"name": name, **version, "description": None}),
        ("model_version_alias", "created", {"name": name, "alias": "best", "version": "1"}),
        ("model_version_tag", "set", {"name": name, "version": "1", "key": "last", "value": "yes"}),
        ("registered_model", "created", {"name": name, "tags": {}, "description": "by gRPC"}),
    ]
    await ran(lambda: admin.delete_webhook(hook.webhook_id))
