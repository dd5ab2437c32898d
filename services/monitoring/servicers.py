"""The gRPC door: messages to use cases and back, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from services.monitoring.convert import messages
from services.monitoring.domain.windows import microseconds, moment
from services.monitoring.handlers.cases import UseCases
from services.monitoring.handlers.monitors import Caller
from services.monitoring.ports import MetricQuery, MetricRow
from tessera.monitoring.v1 import monitoring_service_pb2 as pb
from tessera.monitoring.v1 import monitoring_service_pb2_grpc as rpc
from tessera_kit.rpc.identity import bearer_token, current_principal
from tessera_kit.rpc.pages import decode_page_token, encode_page_token, page_size
from tessera_kit.rpc.server import Binding

__all__ = ["MonitoringServicer", "bindings"]

_METRICS_PAGE: Final = 1_000
_MOST_METRICS: Final = 10_000

Context = grpc.aio.ServicerContext[Any, Any]


def bindings(cases: UseCases) -> tuple[Binding, ...]:
    """The service, with its servicer."""
    name = "tessera.monitoring.v1.MonitoringService"
    return (Binding(rpc.add_MonitoringServiceServicer_to_server, MonitoringServicer(cases), name),)


class MonitoringServicer(rpc.MonitoringServiceServicer):
    """`tessera.monitoring.v1.MonitoringService`.

    Args:
        cases: The use cases.
    """

    def __init__(self, cases: UseCases) -> None:
        self._monitors = cases.monitors
        self._refresh = cases.refresh
        self._reports = cases.reports

    async def CreateMonitor(
        self, request: pb.CreateMonitorRequest, context: Context
    ) -> pb.CreateMonitorResponse:
        """Create a monitor and its metric tables."""
        settings = messages.monitor(request.monitor)
        made = await self._monitors.create(_caller(context), settings, request.request_id)
        return pb.CreateMonitorResponse(monitor=messages.monitor_message(made))

    async def GetMonitor(
        self, request: pb.GetMonitorRequest, context: Context
    ) -> pb.GetMonitorResponse:
        """Read a monitor."""
        found = await self._monitors.get(current_principal(), request.name)
        return pb.GetMonitorResponse(monitor=messages.monitor_message(found))

    async def ListMonitors(
        self, request: pb.ListMonitorsRequest, context: Context
    ) -> pb.ListMonitorsResponse:
        """List monitors that the caller may see."""
        scope = f"monitors/{request.table_full_name}"
        position = decode_page_token(request.page_token, scope)
        found, after = await self._monitors.list(
            current_principal(),
            request.table_full_name,
            str(position.get("name", "")),
            page_size(request.page_size),
        )
        return pb.ListMonitorsResponse(
            monitors=[messages.monitor_message(monitor) for monitor in found],
            next_page_token=encode_page_token({"name": after}, scope) if after else "",
        )

    async def UpdateMonitor(
        self, request: pb.UpdateMonitorRequest, context: Context
    ) -> pb.UpdateMonitorResponse:
        """Change a monitor's columns, baseline, slices, rules or lateness."""
        changed = await self._monitors.update(
            _caller(context),
            messages.monitor_changes(request.monitor),
            list(request.update_mask.paths),
        )
        return pb.UpdateMonitorResponse(monitor=messages.monitor_message(changed))

    async def DeleteMonitor(
        self, request: pb.DeleteMonitorRequest, context: Context
    ) -> pb.DeleteMonitorResponse:
        """Delete a monitor."""
        await self._monitors.delete(_caller(context), request.name, request.etag)
        return pb.DeleteMonitorResponse()

    async def RefreshMonitor(
        self, request: pb.RefreshMonitorRequest, context: Context
    ) -> pb.RefreshMonitorResponse:
        """Compute windows anew."""
        windows = await self._refresh.refresh(
            current_principal(),
            request.name,
            messages.time_us(request.start) if request.HasField("start") else None,
            messages.time_us(request.end) if request.HasField("end") else None,
        )
        return pb.RefreshMonitorResponse(windows=map(messages.window_message, windows))

    async def CloseWindows(
        self, request: pb.CloseWindowsRequest, context: Context
    ) -> pb.CloseWindowsResponse:
        """Close every window that is still open."""
        windows = await self._refresh.close(current_principal(), request.name)
        return pb.CloseWindowsResponse(windows=map(messages.window_message, windows))

    async def ListWindows(
        self, request: pb.ListWindowsRequest, context: Context
    ) -> pb.ListWindowsResponse:
        """List a monitor's windows, the earliest first."""
        scope = f"windows/{request.name}"
        start = decode_page_token(request.page_token, scope).get("start")
        size = page_size(request.page_size)
        after = None if start is None else int(start)
        found = await self._reports.windows(current_principal(), request.name, after, size)
        more = len(found) == size
        return pb.ListWindowsResponse(
            windows=map(messages.window_message, found),
            next_page_token=encode_page_token({"start": found[-1].start_us}, scope) if more else "",
        )

    async def ListMetrics(
        self, request: pb.ListMetricsRequest, context: Context
    ) -> pb.ListMetricsResponse:
        """Read metrics of windows, columns and slices."""
        scope = _metrics_scope(request)
        query = _metric_query(request, decode_page_token(request.page_token, scope))
        found = await self._reports.metrics(current_principal(), request.name, query)
        more = len(found) == query.limit
        return pb.ListMetricsResponse(
            metrics=map(messages.metric_message, found),
            next_page_token=encode_page_token(_metric_position(found[-1]), scope) if more else "",
        )

    async def ListAlerts(
        self, request: pb.ListAlertsRequest, context: Context
    ) -> pb.ListAlertsResponse:
        """List alerts, the newest first."""
        scope = f"alerts/{request.monitor}/{sorted(request.states)}"
        position = decode_page_token(request.page_token, scope)
        size = page_size(request.page_size)
        states = {state for n in request.states if (state := messages.alert_state(n)) is not None}
        before = (moment(int(position["fired"])), str(position["id"])) if position else None
        found = await self._reports.alerts(
            current_principal(), request.monitor, states, before, size
        )
        token = ""
        if len(found) == size:
            last = found[-1]
            token = encode_page_token({"fired": microseconds(last.fired_at), "id": last.id}, scope)
        return pb.ListAlertsResponse(
            alerts=map(messages.alert_message, found), next_page_token=token
        )

    async def WatchAlerts(
        self, request: pb.WatchAlertsRequest, context: Context
    ) -> AsyncIterator[pb.WatchAlertsResponse]:
        """Stream alerts of a monitor as they fire and resolve."""
        async for alert in self._reports.watch(current_principal(), request.monitor):
            yield pb.WatchAlertsResponse(alert=messages.alert_message(alert))


def _caller(context: Context) -> Caller:
    return Caller(current_principal(), bearer_token(context.invocation_metadata() or ()))


def _metrics_scope(request: pb.ListMetricsRequest) -> str:
    bare = pb.ListMetricsRequest()
    bare.CopyFrom(request)
    bare.ClearField("page_token")
    bare.ClearField("page_size")
    return f"metrics/{bare.SerializeToString(deterministic=True).hex()}"


def _metric_query(request: pb.ListMetricsRequest, position: dict[str, str | int]) -> MetricQuery:
    return MetricQuery(
        metrics=tuple(request.metrics),
        columns=tuple(request.columns),
        slice_key=request.slice_key,
        start_us=messages.time_us(request.start) if request.HasField("start") else None,
        end_us=messages.time_us(request.end) if request.HasField("end") else None,
        after=_metric_after(position),
        limit=page_size(request.page_size, _METRICS_PAGE, _MOST_METRICS),
    )


def _metric_position(row: MetricRow) -> dict[str, str | int]:
    return {
        "start": row.start_us,
        "column": row.column,
        "key": row.slice_key,
        "value": row.slice_value,
        "metric": row.metric,
        "drift": row.drift_type,
    }


def _metric_after(position: dict[str, str | int]) -> MetricRow | None:
    if not position:
        return None
    return MetricRow(
        start_us=int(position["start"]),
        column=str(position["column"]),
        slice_key=str(position["key"]),
        slice_value=str(position["value"]),
        metric=str(position["metric"]),
        drift_type=str(position["drift"]),
    )
