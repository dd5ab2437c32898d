"""The events that changes of endpoints tell."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from services.inference.convert.endpoints import endpoint_message
from services.inference.domain.endpoint import Endpoint
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.events.v1 import catalog_events_pb2, inference_events_pb2
from tessera_kit.bus.event import Event, new_event

__all__ = ["Step", "changed", "deleted", "serving"]

_SOURCE: Final = "tessera/inference"


class Step(IntEnum):
    """What was done to an endpoint."""

    CREATED = inference_events_pb2.ENDPOINT_STEP_CREATED
    UPDATE_STARTED = inference_events_pb2.ENDPOINT_STEP_UPDATE_STARTED
    ROLLBACK_STARTED = inference_events_pb2.ENDPOINT_STEP_ROLLBACK_STARTED
    UPDATE_READY = inference_events_pb2.ENDPOINT_STEP_UPDATE_READY
    UPDATE_FAILED = inference_events_pb2.ENDPOINT_STEP_UPDATE_FAILED
    UPDATE_CANCELED = inference_events_pb2.ENDPOINT_STEP_UPDATE_CANCELED
    TRAFFIC_CHANGED = inference_events_pb2.ENDPOINT_STEP_TRAFFIC_CHANGED
    CANARY_STARTED = inference_events_pb2.ENDPOINT_STEP_CANARY_STARTED
    CANARY_ADVANCED = inference_events_pb2.ENDPOINT_STEP_CANARY_ADVANCED
    CANARY_SUCCEEDED = inference_events_pb2.ENDPOINT_STEP_CANARY_SUCCEEDED
    CANARY_ROLLED_BACK = inference_events_pb2.ENDPOINT_STEP_CANARY_ROLLED_BACK
    SETTINGS_CHANGED = inference_events_pb2.ENDPOINT_STEP_SETTINGS_CHANGED


def changed(endpoint: Endpoint, step: Step, principal: str = "") -> Event:
    """An endpoint is as it is now, because somebody or the passage of time did something."""
    message = inference_events_pb2.EndpointChanged(
        endpoint=endpoint_message(endpoint),
        step=step.value,
        principal=principal,
    )
    return new_event(message, source=_SOURCE, key=endpoint.name)


def deleted(endpoint: Endpoint, principal: str) -> Event:
    """An endpoint is gone."""
    message = inference_events_pb2.EndpointDeleted(name=endpoint.name, principal=principal)
    return new_event(message, source=_SOURCE, key=endpoint.name)


def serving(endpoint: Endpoint) -> Event:
    """The lineage of what answers now: model versions to endpoint, endpoint to inference table."""
    target = lineage.LineageNode(type=lineage.LINEAGE_NODE_TYPE_ENDPOINT, name=endpoint.name)
    table = lineage.LineageNode(type=lineage.LINEAGE_NODE_TYPE_TABLE, name=endpoint.table.full_name)
    entities = () if endpoint.config is None else endpoint.config.entities
    versions = [
        version
        for entity in entities
        for version in (
            (entity.model_name, entity.model_version),
            *((step.model_name, step.model_version) for step in entity.signature.steps),
        )
    ]
    edges = [
        lineage.LineageEdge(
            source=lineage.LineageNode(
                type=lineage.LINEAGE_NODE_TYPE_MODEL_VERSION, name=f"{model}/{version}"
            ),
            target=target,
            principal=endpoint.created_by,
        )
        for model, version in versions
    ]
    edges.append(lineage.LineageEdge(source=target, target=table, principal=endpoint.created_by))
    for edge in edges:
        edge.observed_at.FromDatetime(endpoint.updated_at)
    return new_event(
        catalog_events_pb2.LineageObserved(edges=edges),
        source=_SOURCE,
        key=f"ENDPOINT/{endpoint.name}",
    )
