"""The events that tracking tells, made of the domain."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from google.protobuf.message import Message

from services.tracking.convert.messages import run_message, timestamp_message
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.logged_model import LoggedModel, ModelLink
from services.tracking.domain.retention import Kind
from services.tracking.domain.run import DatasetInput, Run
from tessera.catalog.v1 import lineage_service_pb2 as lineage_pb
from tessera.events.v1 import catalog_events_pb2, tracking_events_pb2
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera_kit.bus.event import Event, new_event
from tessera_kit.errors import InvalidArgument
from tessera_kit.names import parse_full_name

__all__ = [
    "inputs_observed",
    "model_logged",
    "models_linked",
    "purged",
    "run_ended",
    "run_started",
    "version_made",
]

SOURCE: Final = "tessera/tracking"
_Kind = lineage_pb.LineageNodeType

# A record of the topic holds 1 MiB with its headers.
_LARGEST_RUN: Final = 900_000


def run_started(run: Run) -> Event:
    """Return the event that a run began."""
    data = tracking_events_pb2.RunStarted(run=_told(run))
    return new_event(data, source=SOURCE, key=run.info.run_id)


def run_ended(run: Run) -> Event:
    """Return the event that a run reached a final status."""
    data = tracking_events_pb2.RunEnded(run=_told(run))
    return new_event(data, source=SOURCE, key=run.info.run_id)


def purged(kind: Kind, thing_id: str, experiment_id: str) -> Event:
    """Return the event that something was removed for good; the same one however often."""
    data: Message
    if kind is Kind.EXPERIMENT:
        data = tracking_events_pb2.ExperimentPurged(experiment_id=thing_id)
    elif kind is Kind.RUN:
        data = tracking_events_pb2.RunPurged(run_id=thing_id, experiment_id=experiment_id)
    else:
        data = tracking_events_pb2.ModelPurged(model_id=thing_id, experiment_id=experiment_id)
    return new_event(data, source=SOURCE, key=thing_id, event_id=f"tracking-purged-{thing_id}")


def inputs_observed(
    run_id: str, inputs: Iterable[DatasetInput], *, principal: str, now: Micros
) -> Event | None:
    """Return the event that a run used tables; None when none of its inputs is a table's name."""
    versions = {one.name: one.digest for one in inputs if _is_table_name(one.name)}
    if not versions:
        return None
    sources = [_node(_Kind.LINEAGE_NODE_TYPE_TABLE, table) for table in sorted(versions)]
    return _observed(sources, _run(run_id), principal=principal, now=now, versions=versions)


def model_logged(model: LoggedModel, *, principal: str, now: Micros) -> list[Event]:
    """Return the events that a model's files are there, and which run it was made by."""
    data = tracking_events_pb2.ModelLogged(
        model_id=model.model_id,
        experiment_id=model.experiment_id,
        run_id=model.source_run_id,
        name=model.name,
        model_type=model.model_type,
        created_by=model.created_by,
    )
    run_id = model.source_run_id
    events = [
        new_event(
            data,
            source=SOURCE,
            key=run_id or model.model_id,
            event_id=f"tracking-logged-{model.model_id}",
        )
    ]
    if run_id:
        made = _model(model.model_id)
        events.append(_observed([_run(run_id)], made, principal=principal, now=now))
    return events


def models_linked(
    run_id: str, links: Collection[ModelLink], *, principal: str, now: Micros
) -> list[Event]:
    """Return the events that a run used and made models."""
    made = sorted({one.model_id for one in links if one.is_output})
    used = sorted({one.model_id for one in links if not one.is_output})
    run = _run(run_id)
    events = [_observed([run], _model(model_id), principal=principal, now=now) for model_id in made]
    if used:
        sources = [_model(model_id) for model_id in used]
        events.append(_observed(sources, run, principal=principal, now=now))
    return events


def version_made(
    version: str, *, model_id: str = "", copied_from: str = "", principal: str, now: Micros
) -> Event:
    """Return the event that a version of a registered model was made.

    Args:
        version: The model's full name and the version, as `main.flights.delay/3`.
        model_id: The logged model that it was made from.
        copied_from: The version that it was copied from, where it was not made from a logged model.
        principal: Who registered it.
        now: When.
    """
    kind = _Kind.LINEAGE_NODE_TYPE_MODEL_VERSION
    source = _model(model_id) if model_id else _node(kind, copied_from)
    return _observed([source], _node(kind, version), principal=principal, now=now)


def _run(run_id: str) -> lineage_pb.LineageNode:
    return _node(_Kind.LINEAGE_NODE_TYPE_RUN, run_id)


def _model(model_id: str) -> lineage_pb.LineageNode:
    return _node(_Kind.LINEAGE_NODE_TYPE_LOGGED_MODEL, model_id)


def _node(kind: lineage_pb.LineageNodeType.ValueType, name: str) -> lineage_pb.LineageNode:
    return lineage_pb.LineageNode(type=kind, name=name)


def _observed(
    sources: Sequence[lineage_pb.LineageNode],
    target: lineage_pb.LineageNode,
    *,
    principal: str,
    now: Micros,
    versions: Mapping[str, str] = MappingProxyType({}),
) -> Event:
    at = timestamp_message(now)
    edges = [
        lineage_pb.LineageEdge(
            source=one,
            target=target,
            observed_at=at,
            principal=principal,
            source_version=versions.get(one.name, ""),
        )
        for one in sources
    ]
    kind = _Kind.Name(target.type).removeprefix("LINEAGE_NODE_TYPE_")
    # The same edges are the same fact, however often they are told.
    facts = [f"{one.type}:{one.name}" for one in (target, *sources)]
    facts += [f"{name}@{version}" for name, version in sorted(versions.items()) if version]
    identity = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
    return new_event(
        catalog_events_pb2.LineageObserved(edges=edges),
        source=SOURCE,
        key=f"{kind}:{target.name}",
        event_id=f"tracking-lineage-{identity}",
    )


def _is_table_name(name: str) -> bool:
    try:
        parse_full_name(name, parts=3)
    except InvalidArgument:
        return False
    return True


def _told(run: Run) -> pb.Run:
    message = run_message(run)
    for field in ("params", "metrics", "tags", "inputs"):
        if message.ByteSize() <= _LARGEST_RUN:
            break
        message.ClearField(field)
    return message
