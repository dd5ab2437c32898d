"""What is asked of served entities before anything is looked up."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.inference.domain.endpoint import Device, EntityRequest, WorkloadSize
from services.inference.domain.environment import environment_violations
from services.inference.errors import InvalidConfig
from tessera_kit.errors import FieldViolation

__all__ = ["check_entities"]

_entity_name = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\Z").match


def check_entities(entities: Sequence[EntityRequest]) -> None:
    """Raise InvalidConfig when entities do not fit together, before anything is looked up."""
    wrong: list[FieldViolation] = []
    names: set[str] = set()
    for index, entity in enumerate(entities):
        path = f"config.served_entities[{index}]"
        if (entity.model_version > 0) == bool(entity.model_alias):
            wrong.append(
                FieldViolation(f"{path}.model_version", "give either a version or an alias")
            )
        if entity.name and _entity_name(entity.name) is None:
            wrong.append(
                FieldViolation(f"{path}.name", "must be letters, digits, '_', '-' and '.'")
            )
        if entity.name and entity.name in names:
            wrong.append(FieldViolation(f"{path}.name", f"{entity.name!r} is given twice"))
        names.add(entity.name)
        wrong += _runtime_violations(path, entity)
    total = sum(entity.traffic_percent for entity in entities)
    if total != 100:
        wrong.append(
            FieldViolation(
                "config.served_entities", f"traffic_percent must sum to 100, not {total}"
            )
        )
    if wrong:
        raise InvalidConfig(f"{wrong[0].field}: {wrong[0].description}", violations=wrong)


def _runtime_violations(path: str, entity: EntityRequest) -> list[FieldViolation]:
    wrong = []
    for index, group in enumerate(entity.instance_groups):
        if group.gpus and group.device is not Device.GPU:
            wrong.append(
                FieldViolation(
                    f"{path}.instance_groups[{index}].gpus", "are for instances on a GPU"
                )
            )
    wrong += environment_violations(path, entity.environment)
    most = entity.max_concurrency
    if 0 < most < entity.least_concurrency:
        wrong.append(
            FieldViolation(
                f"{path}.max_concurrency",
                f"must be at least the {entity.least_concurrency} instances, or 0 for no bound",
            )
        )
    if 0 < most < entity.min_concurrency:
        wrong.append(
            FieldViolation(f"{path}.min_concurrency", f"must be at most max_concurrency, {most}")
        )
    if entity.idle_seconds and not entity.scale_to_zero:
        wrong.append(FieldViolation(f"{path}.scale_to_zero_after", "needs scale_to_zero"))
    sized = entity.workload_size is not WorkloadSize.CUSTOM
    if entity.max_queue and not most and not sized:
        wrong.append(FieldViolation(f"{path}.max_queue", "needs a max_concurrency"))
    if entity.shadow_percent and entity.traffic_percent:
        wrong.append(FieldViolation(f"{path}.shadow_percent", "needs a traffic_percent of 0"))
    return wrong
