"""Monitors, windows, metrics and alerts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import grpc
from google.protobuf import field_mask_pb2

from tessera.client.aio.calls import call, stream
from tessera.monitoring.v1 import monitor_pb2, monitoring_service_pb2, monitoring_service_pb2_grpc


class AsyncMonitoring:
    """Watches tables: profiles, drift, quality, alerts."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = monitoring_service_pb2_grpc.MonitoringServiceStub(channel)

    async def create(self, monitor: monitor_pb2.Monitor) -> monitor_pb2.Monitor:
        """Creates a monitor and its metric tables.

        Raises:
            PermissionDenied: The caller lacks CREATE MONITOR, SELECT on a table, or CREATE TABLE.
        """
        request = monitoring_service_pb2.CreateMonitorRequest(monitor=monitor)
        return (await call(self._stub.CreateMonitor, request)).monitor

    async def get(self, name: str) -> monitor_pb2.Monitor:
        """Reads a monitor."""
        return (
            await call(self._stub.GetMonitor, monitoring_service_pb2.GetMonitorRequest(name=name))
        ).monitor

    async def list_monitors(self, table_full_name: str = "") -> list[monitor_pb2.Monitor]:
        """Monitors that the caller may see, by name; only those of one table when it is given."""
        found: list[monitor_pb2.Monitor] = []
        request = monitoring_service_pb2.ListMonitorsRequest(
            table_full_name=table_full_name, page_size=1000
        )
        while True:
            page = await call(self._stub.ListMonitors, request)
            found.extend(page.monitors)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def update(
        self, monitor: monitor_pb2.Monitor, paths: Sequence[str]
    ) -> monitor_pb2.Monitor:
        """Changes the named fields of a monitor."""
        request = monitoring_service_pb2.UpdateMonitorRequest(
            monitor=monitor, update_mask=field_mask_pb2.FieldMask(paths=paths)
        )
        return (await call(self._stub.UpdateMonitor, request)).monitor

    async def delete(self, name: str) -> None:
        """Deletes a monitor; its metric tables stay."""
        await call(self._stub.DeleteMonitor, monitoring_service_pb2.DeleteMonitorRequest(name=name))

    async def refresh(
        self, name: str, *, start: datetime | None = None, end: datetime | None = None
    ) -> list[monitor_pb2.Window]:
        """Computes anew all windows that overlap a span of time, by default all there are."""
        request = monitoring_service_pb2.RefreshMonitorRequest(name=name)
        if start is not None:
            request.start.FromDatetime(start)
        if end is not None:
            request.end.FromDatetime(end)
        return list((await call(self._stub.RefreshMonitor, request, timeout=600.0)).windows)

    async def close_windows(self, name: str) -> list[monitor_pb2.Window]:
        """Closes every window that is still open: for streams that have ended."""
        request = monitoring_service_pb2.CloseWindowsRequest(name=name)
        return list((await call(self._stub.CloseWindows, request, timeout=600.0)).windows)

    async def windows(self, name: str) -> list[monitor_pb2.Window]:
        """A monitor's windows, the earliest first."""
        found: list[monitor_pb2.Window] = []
        request = monitoring_service_pb2.ListWindowsRequest(name=name, page_size=1000)
        while True:
            page = await call(self._stub.ListWindows, request)
            found.extend(page.windows)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def metrics(
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
        found: list[monitor_pb2.MetricValue] = []
        request = monitoring_service_pb2.ListMetricsRequest(
            name=name, metrics=metrics, columns=columns, slice_key=slice_key, page_size=10_000
        )
        while True:
            page = await call(self._stub.ListMetrics, request)
            found.extend(page.metrics)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def alerts(
        self, monitor: str = "", *, states: Sequence[monitor_pb2.AlertState.ValueType] = ()
    ) -> list[monitor_pb2.Alert]:
        """Alerts, the newest first."""
        found: list[monitor_pb2.Alert] = []
        request = monitoring_service_pb2.ListAlertsRequest(
            monitor=monitor, states=states, page_size=1000
        )
        while True:
            page = await call(self._stub.ListAlerts, request)
            found.extend(page.alerts)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def watch_alerts(
        self, monitor: str, *, timeout: float | None = 86_400.0
    ) -> AsyncIterator[monitor_pb2.Alert]:
        """Alerts of a monitor as they fire and resolve."""
        request = monitoring_service_pb2.WatchAlertsRequest(monitor=monitor)
        async for response in stream(self._stub.WatchAlerts, request, timeout):
            yield response.alert
