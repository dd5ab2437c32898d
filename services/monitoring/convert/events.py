"""The events that monitoring tells."""

from __future__ import annotations

from typing import Final

from services.monitoring.convert.messages import alert_message, window_message
from services.monitoring.domain.alerts import Alert
from services.monitoring.domain.monitor import Monitor
from services.monitoring.domain.windows import WindowRecord
from tessera.catalog.v1 import lineage_service_pb2
from tessera.events.v1 import catalog_events_pb2, monitoring_events_pb2
from tessera_kit.bus.event import Event, new_event

__all__ = ["alert_changed", "lineage_observed", "window_closed"]

_SOURCE: Final = "tessera/monitoring"


def window_closed(monitor: Monitor, window: WindowRecord) -> Event:
    """A window was computed. One event per window and revision: its id says which."""
    data = monitoring_events_pb2.WindowClosed(
        monitor=monitor.name,
        table_full_name=monitor.table_full_name,
        window=window_message(window),
    )
    ident = f"window:{monitor.id}:{window.start_us}:{window.revision}"
    return new_event(data, source=_SOURCE, key=monitor.name, event_id=ident)


def alert_changed(monitor: Monitor, alert: Alert) -> Event:
    """An alert fired or was resolved. One event per change: its id says which."""
    data = monitoring_events_pb2.AlertChanged(
        alert=alert_message(alert), table_full_name=monitor.table_full_name
    )
    ident = f"alert:{alert.id}:{alert.state.value}"
    return new_event(data, source=_SOURCE, key=monitor.name, event_id=ident)


def lineage_observed(monitor: Monitor) -> Event:
    """The monitor reads its tables and makes its metric tables."""
    watched = lineage_service_pb2.LineageNode(
        type=lineage_service_pb2.LINEAGE_NODE_TYPE_MONITOR, name=monitor.name
    )
    data = catalog_events_pb2.LineageObserved()
    sources = [monitor.table_full_name]
    if monitor.baseline is not None:
        sources.append(monitor.baseline.table_full_name)
    for name in sources:
        data.edges.add(source=_table(name), target=watched, principal=monitor.created_by)
    for name in (monitor.profile_table_full_name, monitor.drift_table_full_name):
        data.edges.add(source=watched, target=_table(name), principal=monitor.created_by)
    if monitor.updated_at is not None:
        for edge in data.edges:
            edge.observed_at.FromDatetime(monitor.updated_at)
    return new_event(data, source=_SOURCE, key=f"monitor:{monitor.name}")


def _table(name: str) -> lineage_service_pb2.LineageNode:
    return lineage_service_pb2.LineageNode(
        type=lineage_service_pb2.LINEAGE_NODE_TYPE_TABLE, name=name
    )
