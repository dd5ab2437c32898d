"""Finds the model versions that a configuration asks for, and reads what they take and give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from services.inference.convert.mlmodel import MLMODEL, parse_mlmodel
from services.inference.domain.endpoint import (
    EndpointConfig,
    EntityRequest,
    ServedEntity,
    runtime_name,
)
from services.inference.domain.entity_rules import check_entities
from services.inference.domain.pipeline import wire
from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions, misfits
from services.inference.domain.signature import MANIFEST, Signature, parse_manifest
from services.inference.domain.sizing import sized
from services.inference.domain.steps import PipelineStep
from services.inference.errors import CodeNotAllowed, InvalidConfig, ModelNotServable
from services.inference.ports import ModelRegistry
from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import FieldViolation, NotFound
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.identity import Principal

__all__ = ["Resolver"]


class Resolver:
    """Turns asked-for entities into a configuration that can be made ready.

    Args:
        models: The catalog's models.
        authority: What principals may do.
    """

    def __init__(self, models: ModelRegistry, authority: Authority) -> None:
        self._models = models
        self._authority = authority

    async def resolve(
        self,
        creator: Principal,
        endpoint_id: str,
        version: int,
        entities: Sequence[EntityRequest],
        now: datetime,
    ) -> EndpointConfig:
        """The configuration, with aliases resolved to what they point at now.

        Args:
            creator: With whose rights the models are read.
            endpoint_id: The endpoint's.
            version: The configuration's number.
            entities: What is asked for.
            now: When.

        Raises:
            InvalidConfig: The entities do not fit together.
            NotFound: A model, version or alias does not exist, or the creator may not see it.
            AccessDenied: The creator lacks EXECUTE on a model.
            ModelNotServable: A version is not ready or has no manifest.
            CodeNotAllowed: A model brings code, and its entity does not allow that.
            InvalidSignature: A manifest is not valid.
        """
        check_entities(entities)
        found = [
            await self._entity(creator, entity, runtime_name(endpoint_id, version, index))
            for index, entity in enumerate(entities)
        ]
        self._check_code(found)
        self._check_environments(found)
        self._check_together(found)
        return EndpointConfig(version, tuple(found), now)

    async def _entity(
        self, creator: Principal, asked: EntityRequest, in_runtime: str
    ) -> ServedEntity:
        model = asked.model_name
        await self._may_run(creator, model)
        if asked.model_alias:
            facts = await self._models.version_by_alias(creator.name, model, asked.model_alias)
        else:
            facts = await self._models.version(creator.name, model, asked.model_version)
        if not facts.ready:
            raise ModelNotServable(f"version {facts.version} of {model} is not ready")
        signature = await self._signature(creator.name, model, facts.version)
        steps = [await self._step(creator, step) for step in signature.steps]
        if steps:
            wire(signature, steps)
        asked = sized(asked, batched=signature.batched)
        return ServedEntity(
            name=asked.name or f"{model.rpartition('.')[2]}-{facts.version}",
            model_name=model,
            model_version=facts.version,
            model_alias=asked.model_alias,
            traffic_percent=asked.traffic_percent,
            instance_count=asked.instance_count,
            runtime_name=in_runtime,
            signature=signature,
            instance_groups=asked.instance_groups,
            max_concurrency=asked.max_concurrency,
            max_queue=asked.max_queue,
            shadow_percent=asked.shadow_percent,
            workload_size=asked.workload_size,
            min_concurrency=asked.min_concurrency,
            scale_to_zero=asked.scale_to_zero,
            idle_seconds=asked.idle_seconds,
            allow_code=asked.allow_code,
            environment=asked.environment,
            runtime=_runtime(asked.runtime, signature),
            steps=tuple(steps),
        )

    async def _may_run(self, creator: Principal, model: str) -> None:
        await self._authority.require(
            creator, securable_pb2.PRIVILEGE_EXECUTE, securable_pb2.SECURABLE_TYPE_MODEL, model
        )

    async def _step(self, creator: Principal, step: PipelineStep) -> Signature:
        """What a pipeline's step takes and gives."""
        await self._may_run(creator, step.model_name)
        facts = await self._models.version(creator.name, step.model_name, step.model_version)
        if not facts.ready:
            raise ModelNotServable(f"{step.title}, a step of the pipeline, is not ready")
        return await self._signature(creator.name, step.model_name, step.model_version)

    async def _signature(self, principal: str, model: str, version: int) -> Signature:
        for path, parse in ((MANIFEST, parse_manifest), (MLMODEL, parse_mlmodel)):
            try:
                return parse(await self._models.read_file(principal, model, version, path))
            except NotFound:
                continue
        raise ModelNotServable(
            f"version {version} of {model} has neither {MANIFEST} nor {MLMODEL}, which say how to "
            "serve it"
        )

    @staticmethod
    def _check_environments(entities: Sequence[ServedEntity]) -> None:
        wrong = [
            FieldViolation(
                f"config.served_entities[{index}].environment",
                f"a model of flavor {entity.signature.flavor} runs no code that could read it",
            )
            for index, entity in enumerate(entities)
            if entity.environment and not entity.code_flavors
        ]
        if wrong:
            raise InvalidConfig(f"{wrong[0].field}: {wrong[0].description}", violations=wrong)

    @staticmethod
    def _check_code(entities: Sequence[ServedEntity]) -> None:
        wrong = [
            FieldViolation(
                f"config.served_entities[{index}].allow_code",
                f"must be true to serve version {entity.model_version} of {entity.model_name}: a "
                f"model of flavor {entity.code_flavors[0]} brings code of its author",
            )
            for index, entity in enumerate(entities)
            if entity.code_flavors and not entity.allow_code
        ]
        if wrong:
            raise CodeNotAllowed(f"{wrong[0].field} {wrong[0].description}", violations=wrong)

    @staticmethod
    def _check_together(entities: Sequence[ServedEntity]) -> None:
        wrong = []
        seen: set[str] = set()
        for index, entity in enumerate(entities):
            path = f"config.served_entities[{index}]"
            if entity.name in seen:
                wrong.append(FieldViolation(f"{path}.name", f"{entity.name!r} is given twice"))
            seen.add(entity.name)
            if not entity.signature.same_interface(entities[0].signature):
                wrong.append(
                    FieldViolation(
                        f"{path}.model_name",
                        f"takes or gives other tensors than {entities[0].name!r} does",
                    )
                )
            if (entity.runtime.sequences is None) != (entities[0].runtime.sequences is None):
                wrong.append(
                    FieldViolation(f"{path}.runtime.sequences", "is set for all entities or none")
                )
            wrong += misfits(f"{path}.runtime", entity.runtime, entity.signature)
        if wrong:
            raise InvalidConfig(f"{wrong[0].field}: {wrong[0].description}", violations=wrong)


def _runtime(options: RuntimeOptions, signature: Signature) -> RuntimeOptions:
    """The options, with what the model needs of them."""
    if signature.stateful and options.sequences is None:
        return replace(options, sequences=SequenceOptions())
    return options
