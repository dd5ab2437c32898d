"""What happens in the registry, told to webhooks as MLflow's server tells it.

The catalog's events are the one source, so a change is told once, by whichever door it came.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from services.tracking.domain.registry import OWN, RegisteredModel, RegistryVersion
from services.tracking.domain.webhooks import HookEvent
from services.tracking.handlers.webhooks import Webhooks
from tessera_kit.errors import NotFound

__all__ = ["News", "RegistryNews", "alias_changed", "model_created", "tag_changed", "version_ready"]

_IS_PROMPT: Final = "mlflow.prompt.is_prompt"
_PROMPT_TEXT: Final = "mlflow.prompt.text"
_OF_PROMPTS: Final = frozenset({_IS_PROMPT, "_mlflow_prompt_type"})
_MOST_KNOWN: Final = 10_000


@dataclass(frozen=True, slots=True)
class News:
    """One change of the registry."""

    event_id: str
    at: datetime
    full_name: str
    """The model's."""
    of_model: HookEvent | None
    """What it is when the model is one; None when MLflow does not tell it of models."""
    of_prompt: HookEvent
    """What it is when the model is a prompt."""
    data: Callable[[str, bool], Mapping[str, Any]]
    """What is told, of the name that MLflow's clients know and whether it is a prompt."""
    model: RegisteredModel | None = None
    """The model, where the event brings it."""


@dataclass(frozen=True, slots=True)
class _Known:
    name: str
    is_prompt: bool


class RegistryNews:
    """Tells webhooks of changes.

    Args:
        webhooks: Who tells them.
        find: Reads a model of the catalog with this service's own rights.
        default_schema: Where models with plain names are.
    """

    def __init__(
        self,
        webhooks: Webhooks,
        find: Callable[[str], Awaitable[RegisteredModel]],
        *,
        default_schema: str,
    ) -> None:
        self._webhooks = webhooks
        self._find = find
        self._schema = default_schema
        # What models were, for events that arrive when they are gone.
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def tell(self, news: News) -> None:
        """Put a change on its way to who wants to hear of it; the same one again changes nothing.

        Raises:
            Unavailable: The catalog or the database is away; nothing was stored.
        """
        if news.model is not None:
            self._keep(news.model)
        events = (news.of_prompt,) if news.of_model is None else (news.of_model, news.of_prompt)
        # What the model is costs a call of the catalog.
        if not await self._webhooks.heard(*events):
            return
        known = await self._of(news.full_name)
        event = news.of_prompt if known.is_prompt else news.of_model
        if event is not None:
            data = news.data(known.name, known.is_prompt)
            await self._webhooks.tell(news.event_id, news.at, event, data)

    async def _of(self, full_name: str) -> _Known:
        try:
            return self._keep(await self._find(full_name))
        except NotFound:
            plain = _Known(full_name.removeprefix(f"{self._schema}."), is_prompt=False)
            return self._known.get(full_name, plain)

    def _keep(self, model: RegisteredModel) -> _Known:
        is_prompt = model.tags.get(_IS_PROMPT, "").lower() == "true"
        known = _Known(model.display_name(self._schema), is_prompt)
        self._known[model.full_name] = known
        self._known.move_to_end(model.full_name)
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return known


def model_created(event_id: str, at: datetime, model: RegisteredModel) -> News:
    """A model was registered."""

    def data(name: str, is_prompt: bool) -> Mapping[str, Any]:
        tags = _shown(model.tags, is_prompt)
        return {"name": name, "tags": tags, "description": model.description}

    return News(
        event_id,
        at,
        model.full_name,
        HookEvent("registered_model", "created"),
        HookEvent("prompt", "created"),
        data,
        model,
    )


def version_ready(event_id: str, at: datetime, version: RegistryVersion, uri: str) -> News:
    """A version has its files: for MLflow's clients it exists from now on.

    Args:
        event_id: The event's id.
        at: When it happened.
        version: The version.
        uri: Where its files are.
    """

    def data(name: str, is_prompt: bool) -> Mapping[str, Any]:
        told: dict[str, Any] = {"name": name, "version": str(version.version)}
        tags = _shown(version.tags, is_prompt)
        if is_prompt:
            told["template"] = tags.pop(_PROMPT_TEXT, None)
        else:
            told |= {"source": version.own("source") or uri, "run_id": version.run_id or None}
        return {**told, "tags": tags, "description": version.description or None}

    return News(
        event_id,
        at,
        version.full_name,
        HookEvent("model_version", "created"),
        HookEvent("prompt_version", "created"),
        data,
    )


def alias_changed(event_id: str, at: datetime, full_name: str, alias: str, version: int) -> News:
    """An alias points at a version, or at none any more when `version` is 0."""

    def data(name: str, is_prompt: bool) -> Mapping[str, Any]:
        told = {"name": name, "alias": alias}
        return {**told, "version": str(version)} if version else told

    action = "created" if version else "deleted"
    return News(
        event_id,
        at,
        full_name,
        HookEvent("model_version_alias", action),
        HookEvent("prompt_alias", action),
        data,
    )


def tag_changed(
    event_id: str, at: datetime, full_name: str, version: int, key: str, value: str | None
) -> News | None:
    """A tag of a version, or of the model with version 0, has a value, or none any more.

    This service's own tags are nobody's news.
    """
    if key.startswith(OWN):
        return None

    def data(name: str, is_prompt: bool) -> Mapping[str, Any]:
        told = {"name": name, "version": str(version)} if version else {"name": name}
        return {**told, "key": key} if value is None else {**told, "key": key, "value": value}

    action = "deleted" if value is None else "set"
    return News(
        event_id,
        at,
        full_name,
        HookEvent("model_version_tag", action) if version else None,
        HookEvent("prompt_version_tag" if version else "prompt_tag", action),
        data,
    )


def _shown(tags: Mapping[str, str], is_prompt: bool) -> dict[str, str]:
    hidden = _OF_PROMPTS if is_prompt else frozenset[str]()
    return {
        key: value for key, value in tags.items() if not key.startswith(OWN) and key not in hidden
    }
