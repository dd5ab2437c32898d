"""Use cases of the model registry: MLflow's, over the catalog's models and this service's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.tracking.domain.registry import (
    LATEST,
    OWN,
    STAGES,
    RegisteredModel,
    RegistryVersion,
    alias_name,
    check_model_name,
    full_name_of,
    own_tags,
    stage_name,
)
from services.tracking.domain.search.evaluate import matches
from services.tracking.domain.search.model_fields import (
    in_order,
    registered_model_values,
    registry_version_values,
)
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import (
    MODEL_VERSIONS,
    REGISTERED_MODELS,
    Comparison,
    FieldKind,
    Operator,
)
from services.tracking.errors import AliasNotFound, InvalidValue
from services.tracking.handlers.version_files import Caller, VersionFiles
from services.tracking.ports.models import ModelRegistry
from tessera_kit.errors import AlreadyExists, NotFound

__all__ = ["NamedModel", "Registry", "RegistryNotFound"]

_PROMPT_TAG: Final = "mlflow.prompt.is_prompt"


class RegistryNotFound(NotFound):
    """No registered model, version or alias of that name; the text is MLflow's."""

    reason = "REGISTRY_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A registered model with the name that its users know, and its versions."""

    name: str
    model: RegisteredModel
    versions: Sequence[RegistryVersion] = ()


class Registry:
    """Registers models, versions and their stages.

    Args:
        registry: The catalog's models.
        files: The files of their versions.
        default_schema: Where plain names land, as `main.default`.
    """

    def __init__(
        self, registry: ModelRegistry, files: VersionFiles, *, default_schema: str
    ) -> None:
        self._registry = registry
        self._schema = default_schema
        self.files = files

    # Models

    async def create_model(
        self, caller: Caller, name: str, *, description: str, tags: Mapping[str, str]
    ) -> NamedModel:
        """Register a model that the caller owns.

        Raises:
            AlreadyExists: There is one of that name.
            PermissionDenied: The caller may not create models in the schema.
            InvalidValue: The name cannot be kept.
        """
        full_name = full_name_of(check_model_name(name), self._schema)
        given = _given(name, full_name)
        try:
            model = await self._registry.create_model(
                caller.token,
                full_name,
                description=description,
                tags={**tags, **own_tags(name=given)},
            )
        except AlreadyExists:
            raise AlreadyExists(f"Registered Model (name={name}) already exists.") from None
        return NamedModel(name, model)

    async def get_model(self, caller: Caller, name: str) -> NamedModel:
        """Return a model with its versions.

        Raises:
            RegistryNotFound: There is none, or not for the caller.
        """
        full_name = full_name_of(name, self._schema)
        try:
            model = await self._registry.get_model(caller.token, full_name)
            versions = await self._registry.versions(caller.token, full_name)
        except NotFound:
            raise _no_model(name) from None
        return NamedModel(name, model, versions)

    async def describe_model(self, caller: Caller, name: str, description: str) -> NamedModel:
        """Change what a model is said to be for."""
        full_name = full_name_of(name, self._schema)
        try:
            await self._registry.describe_model(caller.token, full_name, description)
        except NotFound:
            raise _no_model(name) from None
        return await self.get_model(caller, name)

    async def rename_model(self, caller: Caller, name: str, new_name: str) -> NamedModel:
        """Give a model another name: versions, aliases, tags, grants and lineage follow.

        Raises:
            RegistryNotFound: There is none, or not for the caller.
            NotFound: The new name's schema is not there for the caller.
            AlreadyExists: Another one has the new name.
            InvalidValue: The new name cannot be kept.
            FailedPrecondition: An endpoint serves it.
        """
        full_name = full_name_of(name, self._schema)
        new_full = full_name_of(check_model_name(new_name), self._schema)
        try:
            await self._registry.get_model(caller.token, full_name)
        except NotFound:
            raise _no_model(name) from None
        if new_full != full_name:
            try:
                await self._registry.rename_model(caller.token, full_name, new_full)
            except AlreadyExists:
                text = f"Registered Model (name={new_name}) already exists."
                raise AlreadyExists(text) from None
        given = _given(new_name, new_full)
        await self._registry.tag(
            caller.token, new_full, 0, own_tags(name=given), [] if given else [f"{OWN}name"]
        )
        return await self.get_model(caller, new_name)

    async def delete_model(self, caller: Caller, name: str) -> None:
        """Delete a model with its versions."""
        try:
            await self._registry.delete_model(caller.token, full_name_of(name, self._schema))
        except NotFound:
            raise _no_model(name) from None

    async def find_models(
        self, caller: Caller, text: str, order_by: Sequence[str]
    ) -> list[NamedModel]:
        """Return the models that match and that the caller may see; prompts only when asked for.

        Raises:
            InvalidFilter, InvalidOrderBy: A text does not parse.
        """
        conditions = [
            one for one in parse_filter(text, REGISTERED_MODELS) if not _excludes_prompts(one)
        ]
        order = parse_order_by(order_by, REGISTERED_MODELS)
        named = [
            NamedModel(model.display_name(self._schema), model)
            for model in await self._registry.models(caller.token)
            if _asks_for_prompts(conditions) or model.tags.get(_PROMPT_TAG) != "true"
        ]
        found = [
            (values, one)
            for one in sorted(named, key=lambda one: one.name)
            if matches(values := registered_model_values(one.name, one.model), tuple(conditions))
        ]
        return in_order(found, order)

    # Versions

    async def create_version(
        self,
        caller: Caller,
        name: str,
        *,
        source: str,
        run_id: str,
        model_id: str,
        run_link: str,
        description: str,
        tags: Mapping[str, str],
    ) -> RegistryVersion:
        """Register a version: copies the files of its source into the catalog.

        A source of this server is a run's or logged model's artifacts, or another version; of one
        that lies elsewhere, only where it lies is kept.

        Raises:
            RegistryNotFound: There is no such model.
            NotFound: The source is not there.
            PermissionDenied: The caller may not read the source, or not create versions.
            InvalidValue: The source is a path of some machine, or has no files.
        """
        full_name = full_name_of(name, self._schema)
        made_of = await self.files.source(caller, source, model_id)
        own = own_tags(
            source=source[:1000], model_id=model_id, run_link=run_link[:1000], model_name=name
        )
        try:
            version = await self._registry.create_version(
                caller.token,
                full_name,
                run_id=run_id,
                comment=description,
                tags={**tags, **own},
            )
        except NotFound:
            raise _no_model(name) from None
        return await self.files.fill(caller, version, made_of)

    async def get_version(self, caller: Caller, name: str, version: int) -> RegistryVersion:
        """Return a version.

        Raises:
            RegistryNotFound: There is none, or not for the caller.
        """
        full_name = full_name_of(name, self._schema)
        try:
            return await self._registry.get_version(caller.token, full_name, version)
        except NotFound:
            raise _no_version(name, version) from None

    async def by_alias(self, caller: Caller, name: str, alias: str) -> RegistryVersion:
        """Return the version that an alias points at; `latest` is the newest of any model.

        Raises:
            RegistryNotFound: There is no such model.
            AliasNotFound: It has no such alias.
        """
        found = await self.get_model(caller, name)
        if alias.lower() == LATEST:
            if not found.versions:
                raise RegistryNotFound(f"Latest version not found for model {name}.")
            return max(found.versions, key=lambda one: one.version)
        try:
            return await self._registry.by_alias(
                caller.token, found.model.full_name, alias_name(alias)
            )
        except NotFound:
            raise AliasNotFound(f"Registered model alias {alias} not found.") from None

    async def describe_version(
        self, caller: Caller, name: str, version: int, description: str
    ) -> RegistryVersion:
        """Change what a version is said to be."""
        await self._own(caller, name, version, description=description)
        return await self.get_version(caller, name, version)

    async def delete_version(self, caller: Caller, name: str, version: int) -> None:
        """Delete a version with its files."""
        full_name = full_name_of(name, self._schema)
        try:
            await self._registry.delete_version(caller.token, full_name, version)
        except NotFound:
            raise _no_version(name, version) from None

    async def move(
        self, caller: Caller, name: str, version: int, stage: str, *, archive: bool
    ) -> RegistryVersion:
        """Move a version to a stage, and those that are there to the archive where asked.

        Raises:
            InvalidValue: MLflow has no such stage, or versions of it are not archived.
        """
        stage = stage_name(stage)
        if archive and stage not in STAGES[1:3]:
            raise InvalidValue(
                "Model version transition cannot archive existing model versions because "
                f"'{stage}' is not an Active stage. Valid stages are Staging, Production",
                "stage",
            )
        moving = await self.get_version(caller, name, version)
        if archive:
            for other in await self._registry.versions(caller.token, moving.full_name):
                if other.stage == stage and other.version != version:
                    await self._own(caller, name, other.version, stage=STAGES[3])
        await self._own(caller, name, version, stage=stage)
        return await self.get_version(caller, name, version)

    async def find_versions(
        self, caller: Caller, text: str, order_by: Sequence[str]
    ) -> list[tuple[str, RegistryVersion]]:
        """Return versions that match with their models' names, those that changed last first.

        Raises:
            InvalidFilter, InvalidOrderBy: A text does not parse.
        """
        conditions = parse_filter(text, MODEL_VERSIONS)
        order = parse_order_by(order_by, MODEL_VERSIONS)
        candidates: list[tuple[str, RegistryVersion]] = []
        for name, full_name in await self._named(caller, conditions):
            try:
                versions = await self._registry.versions(caller.token, full_name)
            except NotFound:
                continue
            candidates += [(name, version) for version in versions]
        candidates.sort(key=lambda pair: (-pair[1].updated_at, pair[0], -pair[1].version))
        found = [
            (values, pair)
            for pair in candidates
            if matches(values := registry_version_values(*pair), conditions)
        ]
        return in_order(found, order)

    # Tags and aliases

    async def tag(
        self, caller: Caller, name: str, version: int, *, key: str, value: str | None
    ) -> None:
        """Set a tag of a version, or of the model with version 0; None removes it.

        Raises:
            RegistryNotFound: There is no such thing.
        """
        full_name = full_name_of(name, self._schema)
        new, remove = ({}, [key]) if value is None else ({key: value}, [])
        try:
            await self._registry.tag(caller.token, full_name, version, new, remove)
        except NotFound:
            raise (_no_version(name, version) if version else _no_model(name)) from None

    async def set_alias(self, caller: Caller, name: str, alias: str, version: int) -> None:
        """Point an alias at a version."""
        full_name = full_name_of(name, self._schema)
        try:
            await self._registry.set_alias(caller.token, full_name, alias_name(alias), version)
        except NotFound:
            raise _no_version(name, version) from None

    async def delete_alias(self, caller: Caller, name: str, alias: str) -> None:
        """Remove an alias; one that is not there is no error, as in MLflow."""
        found = await self.get_model(caller, name)
        lower = alias_name(alias)
        if lower in found.model.aliases:
            await self._registry.delete_alias(caller.token, found.model.full_name, lower)

    async def _own(self, caller: Caller, name: str, version: int, **values: str) -> None:
        full_name = full_name_of(name, self._schema)
        try:
            await self._registry.tag(caller.token, full_name, version, own_tags(**values))
        except NotFound:
            raise _no_version(name, version) from None

    async def _named(
        self, caller: Caller, conditions: Sequence[Comparison]
    ) -> list[tuple[str, str]]:
        """Return the models whose versions may match: one when the filter names it, or all."""
        for one in conditions:
            if one.field.key == "name" and one.operator is Operator.EQUAL:
                name = str(one.value)
                return [(name, full_name_of(name, self._schema))]
        models = await self._registry.models(caller.token)
        return [
            (model.display_name(self._schema), model.full_name)
            for model in models
            if model.tags.get(_PROMPT_TAG) != "true"
        ]


def _given(name: str, full_name: str) -> str:
    """Return the name that must be kept beside the catalog's; empty when that tells it."""
    return "" if name in {full_name, full_name.rpartition(".")[2]} else name


def _excludes_prompts(condition: Comparison) -> bool:
    """Whether it is what MLflow's clients add to each search for models that are no prompts.

    It holds for models without the tag too, unlike every other comparison.
    """
    return (
        condition.field.kind is FieldKind.TAG
        and condition.field.key == _PROMPT_TAG
        and condition.operator is Operator.NOT_EQUAL
        and condition.value == "true"
    )


def _asks_for_prompts(conditions: Sequence[Comparison]) -> bool:
    return any(
        one.field.kind is FieldKind.TAG and one.field.key == _PROMPT_TAG for one in conditions
    )


def _no_model(name: str) -> RegistryNotFound:
    return RegistryNotFound(f"Registered Model with name={name} not found")


def _no_version(name: str, version: int) -> RegistryNotFound:
    return RegistryNotFound(f"Model Version (name={name}, version={version}) not found")
