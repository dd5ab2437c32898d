"""Monitors, windows, metrics and alerts."""

# Made from tessera.client.aio.monitoring by infra/tasks/sync_client.py.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from tessera.client.aio.monitoring import AsyncMonitoring
from tessera.client.portal import Portal
from tessera.monitoring.v1 import monitor_pb2


class Monitoring:
    """Watches tables: profiles, drift, quality, alerts."""

    def __init__(self, portal: Portal, wrapped: AsyncMonitoring) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def create(self, monitor: monitor_pb2.Monitor) -> monitor_pb2.Monitor:
        """Creates a monitor and its metric tables.

        Raises:
            PermissionDenied: The caller lacks CREATE MONITOR, SELECT on a table, or CREATE TABLE.
        """
        return self._portal.run(self._wrapped.create(monitor))

    def get(self, name: str) -> monitor_pb2.Monitor:
        """Reads a monitor."""
        return self._portal.run(self._wrapped.get(name))

    def list_monitors(self, table_full_name: str = "") -> list[monitor_pb2.Monitor]:
        """Monitors that the caller may see, by name; only those of one table when it is given."""
        return self._portal.run(self._wrapped.list_monitors(table_full_name))

    def update(self, monitor: monitor_pb2.Monitor, paths: Sequence[str]) -> monitor_pb2.Monitor:
        """Changes the named fields of a monitor."""
        return self._portal.run(self._wrapped.update(monitor, paths))

    def delete(self, name: str) -> None:
        """Deletes a monitor; its metric tables stay."""
        return self._portal.run(self._wrapped.delete(name))

    def refresh(
        self, name: str, *, start: datetime | None = None, end: datetime | None = None
    ) -> list[monitor_pb2.Window]:
        """Computes anew all windows that overlap a span of time, by default all there are."""
        return self._portal.run(self._wrapped.refresh(name, start=start, end=end))

    def close_windows(self, name: str) -> list[monitor_pb2.Window]:
        """Closes every window that is still open: for streams that have ended."""
        return self._portal.run(self._wrapped.close_windows(name))

    def windows(self, name: str) -> list[monitor_pb2.Window]:
        """A monitor's windows, the earliest first."""
        return self._portal.run(self._wrapped.windows(name))

    def metrics(
        self,
        name: str,
        *,
        metrics: Sequence[str] = (),
        columns: Sequence[str] = (),
        slice_key: str = "",
    ) -> list[monitor_pb2.MetricValue]:
        """Metric values of all windows, ordered by window, column, slice and metric.

        Args:
            name: The monitor.
            metrics: Names such as "population_stability_index" or "roc_auc"; all when empty.
            columns: Columns, ":table" for metrics of the whole window; all when empty.
            slice_key: A slicing column, for the values of its slices; unsliced values when empty.
        """
        return self._portal.run(
            self._wrapped.metrics(name, metrics=metrics, columns=columns, slice_key=slice_key)
        )

    def alerts(
        self, monitor: str = "", *, states: Sequence[monitor_pb2.AlertState.ValueType] = ()
    ) -> list[monitor_pb2.Alert]:
        """Alerts, the newest first."""
        return self._portal.run(self._wrapped.alerts(monitor, states=states))

    def watch_alerts(
        self, monitor: str, *, timeout: float | None = 86400.0
    ) -> Iterator[monitor_pb2.Alert]:
        """Alerts of a monitor as they fire and resolve."""
        return self._portal.iterate(self._wrapped.watch_alerts(monitor, timeout=timeout))
