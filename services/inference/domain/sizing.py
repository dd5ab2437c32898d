"""From how many requests at once an entity is made for to how many instances of it are loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from services.inference.domain.endpoint import EntityRequest, WorkloadSize

__all__ = ["REQUESTS_PER_INSTANCE", "sized"]

REQUESTS_PER_INSTANCE: Final = 4
"""Requests at once for which a model that takes rows together has one instance: what comes while it
is busy becomes its next batch, and each instance is a process with its own copy of the weights."""
_RANGES: Final = {
    WorkloadSize.SMALL: (4, 4),
    WorkloadSize.MEDIUM: (8, 16),
    WorkloadSize.LARGE: (16, 64),
}
"""Requests at once, least and most."""


def sized(entity: EntityRequest, *, batched: bool) -> EntityRequest:
    """The request with every number that its workload size leaves open.

    Numbers that were given stay as they are, so it changes nothing the second time.

    Args:
        entity: As it was asked for.
        batched: Whether the model answers the rows of several requests together.
    """
    least, most = _RANGES.get(entity.workload_size, (0, 0))
    if entity.workload_size is not WorkloadSize.CUSTOM:
        most = entity.max_concurrency or max(most, entity.min_concurrency)
        least = min(entity.min_concurrency or least, most)
        entity = replace(
            entity,
            min_concurrency=least,
            max_concurrency=most,
            max_queue=entity.max_queue or most,
        )
    if entity.instance_groups:
        return replace(entity, instance_count=1)
    needed = -(-entity.min_concurrency // REQUESTS_PER_INSTANCE)
    count = entity.instance_count or max(1, needed if batched else entity.min_concurrency)
    return replace(entity, instance_count=count)
