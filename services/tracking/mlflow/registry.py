"""MLflow's model registry, which is the catalog's: every call is made with the caller's token."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from services.tracking.domain.registry import (
    OWN,
    STAGES,
    RegistryVersion,
    check_registry_tag,
    stage_name,
)
from services.tracking.handlers.models import LoggedModels
from services.tracking.handlers.page_tokens import foreign_token
from services.tracking.handlers.registry import NamedModel, Registry
from services.tracking.handlers.version_files import Caller
from services.tracking.mlflow.calls import Answer, Call, Method
from services.tracking.mlflow.convert import artifact_uri, metric_fields, millis, tag_fields
from services.tracking.mlflow.errors import InvalidParameter
from services.tracking.mlflow.experiments import page_bound
from tessera_kit.errors import TesseraError
from tessera_kit.http.identity import request_token
from tessera_kit.rpc.pages import decode_page_token, encode_page_token

__all__ = ["RegistryMethods", "caller_of"]

_MOST_MODELS: Final = 1000
_MOST_VERSIONS: Final = 200_000
_DEFAULT_MODELS: Final = 100
_DEFAULT_VERSIONS: Final = 10_000


def caller_of(call: Call) -> Caller:
    """Return who calls, with the token that it sent."""
    return Caller(call.principal, request_token(call.request.headers.get("authorization")))


class RegistryMethods:
    """Answers the rpcs of the registry.

    Args:
        registry: Who does the work.
        models: Tells the parameters and metrics of logged models that versions were made of.
    """

    def __init__(self, registry: Registry, models: LoggedModels) -> None:
        self._registry = registry
        self._models = models

    def methods(self) -> Mapping[str, Method]:
        """Return who answers which rpc."""
        named, versioned = ("name",), ("name", "version")
        return {
            f"ModelRegistryService/{name}": method
            for name, method in {
                "createRegisteredModel": Method(self._create_model, named),
                "updateRegisteredModel": Method(self._update_model, named),
                "renameRegisteredModel": Method(self._rename_model, ("name", "new_name")),
                "deleteRegisteredModel": Method(self._delete_model, named),
                "getRegisteredModel": Method(self._get_model, named),
                "searchRegisteredModels": Method(self._find_models),
                "getLatestVersions": Method(self._latest, named),
                "createModelVersion": Method(self._create_version, (*named, "source")),
                "updateModelVersion": Method(self._update_version, versioned),
                "transitionModelVersionStage": Method(self._move, (*versioned, "stage")),
                "deleteModelVersion": Method(self._delete_version, versioned),
                "getModelVersion": Method(self._get_version, versioned),
                "searchModelVersions": Method(self._find_versions),
                "getModelVersionDownloadUri": Method(self._download_uri, versioned),
                "setRegisteredModelTag": Method(self._tag_model, (*named, "key")),
                "setModelVersionTag": Method(self._tag_version, (*versioned, "key")),
                "deleteRegisteredModelTag": Method(self._untag_model, (*named, "key")),
                "deleteModelVersionTag": Method(self._untag_version, (*versioned, "key")),
                "setRegisteredModelAlias": Method(self._set_alias, (*versioned, "alias")),
                "deleteRegisteredModelAlias": Method(self._delete_alias, (*named, "alias")),
                "getModelVersionByAlias": Method(self._by_alias, (*named, "alias")),
            }.items()
        }

    # Models

    async def _create_model(self, call: Call) -> Answer:
        asked = call.message
        created = await self._registry.create_model(
            caller_of(call),
            asked.name,
            description=asked.description,
            tags=_tags([(tag.key, tag.value) for tag in asked.tags]),
        )
        return {"registered_model": _model_fields(created)}

    async def _update_model(self, call: Call) -> Answer:
        asked = call.message
        changed = await self._registry.describe_model(
            caller_of(call), asked.name, asked.description
        )
        return {"registered_model": _model_fields(changed)}

    async def _rename_model(self, call: Call) -> Answer:
        asked = call.message
        renamed = await self._registry.rename_model(caller_of(call), asked.name, asked.new_name)
        return {"registered_model": _model_fields(renamed)}

    async def _delete_model(self, call: Call) -> Answer:
        await self._registry.delete_model(caller_of(call), call.message.name)
        return None

    async def _get_model(self, call: Call) -> Answer:
        found = await self._registry.get_model(caller_of(call), call.message.name)
        return {"registered_model": _model_fields(found)}

    async def _find_models(self, call: Call) -> Answer:
        asked, caller = call.message, caller_of(call)
        size = page_bound(call, default=_DEFAULT_MODELS, most=_MOST_MODELS)
        order = list(asked.order_by)
        found = await self._registry.find_models(caller, asked.filter, order)
        scope = _scope("models", asked.filter, order)
        start = _start([one.name for one in found], asked.page_token, scope)
        page = found[start : start + size]
        full = [await self._registry.get_model(caller, one.model.full_name) for one in page]
        models = [
            _model_fields(NamedModel(one.name, whole.model, whole.versions))
            for one, whole in zip(page, full, strict=True)
        ]
        answer: dict[str, Any] = {"registered_models": models}
        if start + size < len(found):
            answer["next_page_token"] = encode_page_token({"i": page[-1].name}, scope)
        return answer

    async def _latest(self, call: Call) -> Answer:
        stages = [stage_name(one) for one in call.message.stages] or list(STAGES)
        found = await self._registry.get_model(caller_of(call), call.message.name)
        return {
            "model_versions": [
                _version_fields(found.name, one)
                for one in _latest_of(found.versions)
                if one.stage in stages
            ]
        }

    async def _tag_model(self, call: Call) -> Answer:
        asked = call.message
        _tags([(asked.key, asked.value)])
        await self._registry.tag(caller_of(call), asked.name, 0, key=asked.key, value=asked.value)
        return None

    async def _untag_model(self, call: Call) -> Answer:
        _tags([(call.message.key, "")])
        await self._registry.tag(
            caller_of(call), call.message.name, 0, key=call.message.key, value=None
        )
        return None

    async def _set_alias(self, call: Call) -> Answer:
        asked = call.message
        await self._registry.set_alias(
            caller_of(call), asked.name, asked.alias, _number(asked.version)
        )
        return None

    async def _delete_alias(self, call: Call) -> Answer:
        await self._registry.delete_alias(caller_of(call), call.message.name, call.message.alias)
        return None

    # Versions

    async def _create_version(self, call: Call) -> Answer:
        asked = call.message
        version = await self._registry.create_version(
            caller_of(call),
            asked.name,
            source=asked.source,
            run_id=asked.run_id,
            model_id=asked.model_id,
            run_link=asked.run_link,
            description=asked.description,
            tags=_tags([(tag.key, tag.value) for tag in asked.tags]),
        )
        return {"model_version": _version_fields(asked.name, version)}

    async def _update_version(self, call: Call) -> Answer:
        asked = call.message
        version = await self._registry.describe_version(
            caller_of(call), asked.name, _number(asked.version), asked.description
        )
        return {"model_version": _version_fields(asked.name, version)}

    async def _move(self, call: Call) -> Answer:
        asked = call.message
        version = await self._registry.move(
            caller_of(call),
            asked.name,
            _number(asked.version),
            asked.stage,
            archive=asked.archive_existing_versions,
        )
        return {"model_version": _version_fields(asked.name, version)}

    async def _delete_version(self, call: Call) -> Answer:
        await self._registry.delete_version(
            caller_of(call), call.message.name, _number(call.message.version)
        )
        return None

    async def _get_version(self, call: Call) -> Answer:
        version = await self._registry.get_version(
            caller_of(call), call.message.name, _number(call.message.version)
        )
        return {"model_version": await self._whole(call, call.message.name, version)}

    async def _by_alias(self, call: Call) -> Answer:
        version = await self._registry.by_alias(
            caller_of(call), call.message.name, call.message.alias
        )
        return {"model_version": await self._whole(call, call.message.name, version)}

    async def _find_versions(self, call: Call) -> Answer:
        asked = call.message
        size = page_bound(call, default=_DEFAULT_VERSIONS, most=_MOST_VERSIONS)
        order = list(asked.order_by)
        found = await self._registry.find_versions(caller_of(call), asked.filter, order)
        scope = _scope("versions", asked.filter, order)
        keys = [f"{one.full_name}/{one.version}" for _, one in found]
        start = _start(keys, asked.page_token, scope)
        page = found[start : start + size]
        answer: dict[str, Any] = {
            "model_versions": [_version_fields(name, version) for name, version in page]
        }
        if start + size < len(found):
            answer["next_page_token"] = encode_page_token({"i": keys[start + size - 1]}, scope)
        return answer

    async def _download_uri(self, call: Call) -> Answer:
        version = await self._registry.get_version(
            caller_of(call), call.message.name, _number(call.message.version)
        )
        return {"artifact_uri": _uri(version)}

    async def _tag_version(self, call: Call) -> Answer:
        asked = call.message
        _tags([(asked.key, asked.value)])
        await self._registry.tag(
            caller_of(call), asked.name, _number(asked.version), key=asked.key, value=asked.value
        )
        return None

    async def _untag_version(self, call: Call) -> Answer:
        asked = call.message
        _tags([(asked.key, "")])
        await self._registry.tag(
            caller_of(call), asked.name, _number(asked.version), key=asked.key, value=None
        )
        return None

    async def _whole(self, call: Call, name: str, version: RegistryVersion) -> dict[str, Any]:
        """Return a version with what its logged model tells, where the caller may read that."""
        fields = _version_fields(name, version)
        if not version.own("model_id"):
            return fields
        try:
            model = await self._models.get(call.principal, version.own("model_id"), deleted=True)
        except TesseraError:
            return fields
        params = [{"name": key, "value": value} for key, value in model.params.items()]
        metrics = [
            {**metric_fields(one.point), "model_id": model.model_id, "run_id": one.run_id}
            for one in model.metrics
        ]
        return {**fields, "model_params": params, "model_metrics": metrics}


def _model_fields(named: NamedModel) -> dict[str, Any]:
    model = named.model
    return {
        "name": named.name,
        "creation_timestamp": millis(model.created_at),
        "last_updated_timestamp": millis(model.updated_at),
        "user_id": model.owner,
        "description": model.description,
        "latest_versions": [_version_fields(named.name, one) for one in _latest_of(named.versions)],
        "tags": tag_fields(_foreign(model.tags)),
        "aliases": [
            {"alias": alias, "version": str(version)}
            for alias, version in sorted(model.aliases.items())
        ],
    }


def _version_fields(name: str, version: RegistryVersion) -> dict[str, Any]:
    status = "READY" if version.is_ready else "PENDING_REGISTRATION"
    fields: dict[str, Any] = {
        "name": name,
        "version": str(version.version),
        "creation_timestamp": millis(version.created_at),
        "last_updated_timestamp": millis(version.updated_at),
        "user_id": version.created_by,
        "current_stage": version.stage,
        "description": version.description,
        "source": version.own("source") or _uri(version),
        "run_id": version.run_id,
        "status": "FAILED_REGISTRATION" if version.failed else status,
        "status_message": version.status_message,
        "tags": tag_fields(_foreign(version.tags)),
        "run_link": version.own("run_link"),
        "aliases": list(version.aliases),
    }
    return {**fields, "model_id": version.own("model_id")} if version.own("model_id") else fields


def _uri(version: RegistryVersion) -> str:
    """Return where a version's files are: through this server, by the catalog's grants."""
    return artifact_uri(f"registry/{version.full_name}/{version.version}")


def _latest_of(versions: Sequence[RegistryVersion]) -> list[RegistryVersion]:
    """Return the newest version of each stage; they come the newest first."""
    latest: dict[str, RegistryVersion] = {}
    for one in versions:
        latest.setdefault(one.stage, one)
    return sorted(latest.values(), key=lambda one: one.version)


def _foreign(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that are not this service's own."""
    return {key: value for key, value in tags.items() if not key.startswith(OWN)}


def _tags(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    return dict(check_registry_tag(key, value) for key, value in pairs)


def _number(version: str) -> int:
    if not version.isdecimal() or not 0 < int(version) < 2**63:
        raise InvalidParameter(f"Parameter 'version' must be an integer, got '{version[:100]}'.")
    return int(version)


def _scope(*parts: object) -> str:
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


def _start(keys: Sequence[str], token: str, scope: str) -> int:
    position = decode_page_token(token, scope)
    if not position:
        return 0
    try:
        return keys.index(str(position.get("i"))) + 1
    except ValueError:
        raise foreign_token() from None
