"""What MLflow's clients do in the registry, told to webhooks with the payloads that MLflow sends.

An event is stored before the client has its answer, so what was acknowledged is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from services.tracking.domain.webhooks import HookEvent
from services.tracking.handlers.registry import Registry
from services.tracking.handlers.webhooks import Webhooks
from services.tracking.mlflow.calls import Answer, Call, Handler, Method
from services.tracking.mlflow.registry import caller_of

__all__ = ["RegistryNews"]

_IS_PROMPT: Final = "mlflow.prompt.is_prompt"
_PROMPT_TEXT: Final = "mlflow.prompt.text"
_PROMPT_TYPE: Final = "_mlflow_prompt_type"
_OWN: Final = frozenset({_IS_PROMPT, _PROMPT_TYPE})
_News = Callable[[Call, Any], Mapping[str, Any]]


class RegistryNews:
    """Tells webhooks of the registry's rpcs that succeeded.

    Args:
        webhooks: Who tells them.
        registry: Knows which models are prompts.
    """

    def __init__(self, webhooks: Webhooks, registry: Registry) -> None:
        self._webhooks = webhooks
        self._registry = registry

    def around(self, methods: Mapping[str, Method]) -> Mapping[str, Method]:
        """Return methods as they are, but those that webhooks hear of."""
        told: dict[str, Callable[[Handler], Handler]] = {
            "createRegisteredModel": self._of_created("registered_model", "prompt", _model_created),
            "createModelVersion": self._of_created(
                "model_version", "prompt_version", _version_created
            ),
            "setRegisteredModelTag": self._of("", "prompt_tag", "set", _tagged),
            "deleteRegisteredModelTag": self._of("", "prompt_tag", "deleted", _untagged),
            "setModelVersionTag": self._of(
                "model_version_tag", "prompt_version_tag", "set", _version_tagged
            ),
            "deleteModelVersionTag": self._of(
                "model_version_tag", "prompt_version_tag", "deleted", _version_untagged
            ),
            "setRegisteredModelAlias": self._of(
                "model_version_alias", "prompt_alias", "created", _alias_set
            ),
            "deleteRegisteredModelAlias": self._of(
                "model_version_alias", "prompt_alias", "deleted", _alias_deleted
            ),
        }
        changed = dict(methods)
        for name, wrap in told.items():
            method = changed[f"ModelRegistryService/{name}"]
            changed[f"ModelRegistryService/{name}"] = replace(method, handle=wrap(method.handle))
        return changed

    def _of_created(
        self, of_model: str, of_prompt: str, news: _News
    ) -> Callable[[Handler], Handler]:
        """Of creations, whose requests say by a tag whether it is a prompt."""

        def wrap(handle: Handler) -> Handler:
            async def handled(call: Call) -> Answer:
                answer = await handle(call)
                is_prompt = _tags(call.message).get(_IS_PROMPT, "false").lower() == "true"
                event = HookEvent(of_prompt if is_prompt else of_model, "created")
                await self._webhooks.tell(event, news(call, answer))
                return answer

            return handled

        return wrap

    def _of(
        self, of_model: str, of_prompt: str, action: str, news: _News
    ) -> Callable[[Handler], Handler]:
        """Of changes to a model or prompt that is there."""
        model, prompt = HookEvent(of_model, action), HookEvent(of_prompt, action)

        async def tell(call: Call) -> None:
            # Whether it is a prompt costs a call of the catalog.
            if await self._webhooks.heard(model, prompt):
                event = prompt if await self._is_prompt(call) else model
                await self._webhooks.tell(event, news(call, None))

        return _after(tell)

    async def _is_prompt(self, call: Call) -> bool:
        found = await self._registry.get_model(caller_of(call), call.message.name)
        return found.model.tags.get(_IS_PROMPT, "").lower() == "true"


def _after(tell: Callable[[Call], Awaitable[None]]) -> Callable[[Handler], Handler]:
    def wrap(handle: Handler) -> Handler:
        async def handled(call: Call) -> Answer:
            answer = await handle(call)
            await tell(call)
            return answer

        return handled

    return wrap


def _tags(message: Any) -> dict[str, str]:
    return {tag.key: tag.value for tag in message.tags}


def _model_created(call: Call, answer: Any) -> Mapping[str, Any]:
    tags = _tags(call.message)
    if tags.get(_IS_PROMPT, "false").lower() == "true":
        tags = {key: value for key, value in tags.items() if key not in _OWN}
    return {"name": call.message.name, "tags": tags, "description": call.message.description}


def _version_created(call: Call, answer: Any) -> Mapping[str, Any]:
    asked, tags = call.message, _tags(call.message)
    told = {"name": asked.name, "version": answer["model_version"]["version"]}
    if tags.get(_IS_PROMPT, "false").lower() == "true":
        told["template"] = tags.pop(_PROMPT_TEXT, None)
        tags = {key: value for key, value in tags.items() if key not in _OWN}
    else:
        told |= {"source": asked.source, "run_id": asked.run_id or None}
    return {**told, "tags": tags, "description": asked.description or None}


def _tagged(call: Call, answer: Any) -> Mapping[str, Any]:
    asked = call.message
    return {"name": asked.name, "key": asked.key, "value": asked.value}


def _untagged(call: Call, answer: Any) -> Mapping[str, Any]:
    return {"name": call.message.name, "key": call.message.key}


def _version_tagged(call: Call, answer: Any) -> Mapping[str, Any]:
    return {**_version_untagged(call, answer), "value": call.message.value}


def _version_untagged(call: Call, answer: Any) -> Mapping[str, Any]:
    asked = call.message
    return {"name": asked.name, "version": asked.version, "key": asked.key}


def _alias_set(call: Call, answer: Any) -> Mapping[str, Any]:
    return {**_alias_deleted(call, answer), "version": call.message.version}


def _alias_deleted(call: Call, answer: Any) -> Mapping[str, Any]:
    return {"name": call.message.name, "alias": call.message.alias}
