"""The events that tracking tells, made of the domain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from services.tracking.convert import run_message, timestamp_message
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.run import DatasetInput, Run
from tessera.catalog.v1 import lineage_service_pb2 as lineage_pb
from tessera.events.v1 import catalog_events_pb2, tracking_events_pb2
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera_kit.bus.event import Event, new_event
from tessera_kit.errors import InvalidArgument
from tessera_kit.names import parse_full_name

__all__ = ["inputs_observed", "run_ended", "run_started"]

SOURCE: Final = "tessera/tracking"

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


def inputs_observed(
    run_id: str, inputs: Iterable[DatasetInput], *, principal: str, now: Micros
) -> Event | None:
    """Return the event that a run used tables; None when none of its inputs is a table's name."""
    tables = sorted({one.name for one in inputs if _is_table_name(one.name)})
    if not tables:
        return None
    target = lineage_pb.LineageNode(type=lineage_pb.LINEAGE_NODE_TYPE_RUN, name=run_id)
    edges = [
        lineage_pb.LineageEdge(
            source=lineage_pb.LineageNode(type=lineage_pb.LINEAGE_NODE_TYPE_TABLE, name=table),
            target=target,
            observed_at=timestamp_message(now),
            principal=principal,
        )
        for table in tables
    ]
    # The same tables of the same run are the same fact, however often they are logged.
    identity = hashlib.sha256("\n".join([run_id, *tables]).encode()).hexdigest()[:32]
    return new_event(
        catalog_events_pb2.LineageObserved(edges=edges),
        source=SOURCE,
        key=f"RUN:{run_id}",
        event_id=f"tracking-inputs-{identity}",
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
