"""The life of monitors: created, read, changed, deleted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from services.monitoring.convert.events import alert_changed, lineage_observed
from services.monitoring.domain.alerts import AlertState
from services.monitoring.domain.metric_tables import DRIFT_TABLE, PROFILE_TABLE
from services.monitoring.domain.monitor import Monitor, check_monitor
from services.monitoring.domain.schemas import baseline_violations, table_violations
from services.monitoring.errors import InvalidMonitor, MonitorExists, MonitorNotFound, StaleMonitor
from services.monitoring.handlers.access import Access
from services.monitoring.handlers.compute import WindowComputer
from services.monitoring.ports import Analytics, Store, TableCatalog, Transaction, WatchedTable
from tessera_kit.clock import Clock
from tessera_kit.errors import FieldViolation
from tessera_kit.ids import new_etag, new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["CHANGEABLE", "Caller", "Monitors"]

CHANGEABLE = ("columns", "baseline", "slicing_columns", "alert_rules", "allowed_lateness")
_WATCHED = frozenset({"columns", "baseline", "slicing_columns"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, with the token to ask the catalog in their name."""

    principal: Principal
    token: str


class Monitors:
    """Creates and keeps monitors.

    Args:
        store: Where they are kept.
        analytics: Where tables are read and baselines computed.
        catalog: Where tables are looked up and metric tables made.
        access: Who may do what.
        computer: Tells who watches alerts.
        clock: Where time comes from.
    """

    def __init__(
        self,
        store: Store,
        analytics: Analytics,
        catalog: TableCatalog,
        access: Access,
        computer: WindowComputer,
        clock: Clock,
    ) -> None:
        self._store = store
        self._analytics = analytics
        self._catalog = catalog
        self._access = access
        self._computer = computer
        self._clock = clock

    async def create(self, caller: Caller, settings: Monitor, request_id: str) -> Monitor:
        """Create a monitor and its metric tables.

        Raises:
            InvalidMonitor: Its settings contradict themselves or its tables.
            MonitorExists: The name is taken.
            PermissionDenied: The caller lacks a right.
        """
        principal = caller.principal
        await self._access.require_create(principal)
        request_key = f"{principal.name}/{request_id}" if request_id else ""
        if request_key:
            made = await self._store.monitor_of_request(request_key)
            if made is not None:
                return await self.get(principal, made)
        check_monitor(settings)
        if await self._store.get_monitor(settings.name) is not None:
            raise MonitorExists(settings.name)
        now = self._clock.now()
        monitor = replace(
            settings,
            id=new_id(),
            created_by=principal.name,
            created_at=now,
            updated_at=now,
            etag=new_etag(),
            version=1,
        )
        monitor = await self._placed(monitor, caller)
        monitor = await self._with_metric_tables(monitor, caller)
        await self._analytics.clear(monitor)
        slices = None
        if monitor.baseline is not None:
            slices = await self._analytics.compute_baseline(monitor, now)
        schema = await self._analytics.read_schema(monitor, None, None)
        await self._access.register(monitor)
        try:
            async with self._store.transaction() as work:
                await work.insert_monitor(monitor, request_key)
                if schema.columns:
                    await work.save_schema(monitor, schema, slices)
                work.publish(lineage_observed(monitor))
                await work.commit()
        except BaseException:
            # A monitor of that name that was made meanwhile keeps its registration.
            if await self._store.get_monitor(monitor.name) is None:
                await self._access.unregister(monitor.name)
            raise
        return monitor

    async def get(self, principal: Principal, name: str) -> Monitor:
        """Read a monitor."""
        return await self._access.visible(principal, name)

    async def list(
        self, principal: Principal, table: str, after: str, limit: int
    ) -> tuple[list[Monitor], str]:
        """A page of the monitors that the caller may see, and the name to go on after."""
        found: list[Monitor] = []
        while True:
            page = await self._store.list_monitors(table, after, limit)
            for monitor in page:
                if await self._access.may_see(principal, monitor.name):
                    if len(found) == limit:
                        return found, found[-1].name
                    found.append(monitor)
            if len(page) < limit:
                return found, ""
            after = page[-1].name

    async def update(self, caller: Caller, settings: Monitor, fields: Collection[str]) -> Monitor:
        """Change some of a monitor's settings.

        Args:
            caller: Who asks.
            settings: The name, the new values, and the etag that was read; empty for any.
            fields: Which of CHANGEABLE to take from `settings`.

        Raises:
            StaleMonitor: The monitor was changed since the etag was read.
        """
        current = await self._access.manageable(caller.principal, settings.name)
        unknown = [name for name in fields if name not in CHANGEABLE]
        if unknown or not fields:
            rule = f"must name fields among {', '.join(CHANGEABLE)}"
            raise InvalidMonitor([FieldViolation("update_mask", rule)])
        if settings.etag and settings.etag != current.etag:
            raise StaleMonitor(current.name)
        changed = replace(
            current,
            **{name: getattr(settings, name) for name in fields},
            etag=new_etag(),
            updated_at=self._clock.now(),
        )
        check_monitor(changed)
        watched = _WATCHED.intersection(fields)
        if watched:
            changed = replace(changed, version=current.version + 1)
            changed = await self._placed(changed, caller)
        async with self._computer.lock(current), self._store.transaction() as work:
            stored = await work.get_monitor(current.name)
            if stored is None:
                raise MonitorNotFound(current.name)
            await work.update_monitor(changed, current.etag)
            alerts = await self._end_rules(work, current, changed)
            if watched:
                work.publish(lineage_observed(changed))
            await work.commit()
        if alerts:
            self._computer.alerts.notify()
        return changed

    async def delete(self, caller: Caller, name: str, etag: str) -> None:
        """Delete a monitor; its metric tables stay."""
        current = await self._access.manageable(caller.principal, name)
        async with self._computer.lock(current):
            async with self._store.transaction() as work:
                stored = await work.get_monitor(name)
                if stored is None:
                    raise MonitorNotFound(name)
                if etag and etag != stored.etag:
                    raise StaleMonitor(name)
                await work.delete_monitor(stored)
                await work.commit()
            await self._analytics.forget(current.id)
        await self._access.unregister(name)

    async def _end_rules(self, work: Transaction, before: Monitor, after: Monitor) -> int:
        """Resolve alerts of rules that are gone, and forget what changed rules were judged by."""
        kept = {rule.name: rule for rule in after.alert_rules}
        ended = 0
        for rule in before.alert_rules:
            if kept.get(rule.name) == rule:
                continue
            await work.drop_verdicts(before.id, rule.name)
            alert = await work.active_alert(before.id, rule.name)
            if rule.name in kept or alert is None:
                continue
            now = self._clock.now()
            resolved = replace(alert, state=AlertState.RESOLVED, resolved_at=now)
            await work.save_alert(before.id, resolved)
            work.publish(alert_changed(after, resolved))
            ended += 1
        return ended

    async def _placed(self, monitor: Monitor, caller: Caller) -> Monitor:
        """The monitor with the places of its tables, when the caller may read and watch them."""
        names = [monitor.table_full_name]
        if monitor.baseline is not None:
            names.append(monitor.baseline.table_full_name)
        await self._access.require_tables(caller.principal, names)
        table = await self._catalog.get_table(monitor.table_full_name, caller.token)
        monitor = replace(monitor, source=table.physical)
        baseline = monitor.baseline
        compared: WatchedTable | None = None
        if baseline is not None:
            compared = await self._catalog.get_table(baseline.table_full_name, caller.token)
            monitor = replace(monitor, baseline=replace(baseline, physical=compared.physical))
        types = await self._analytics.table_columns(table.physical)
        violations = list(table_violations(monitor, types))
        if compared is not None:
            baseline_types = await self._analytics.table_columns(compared.physical)
            violations += baseline_violations(monitor, baseline_types)
        if violations:
            raise InvalidMonitor(violations)
        return monitor

    async def _with_metric_tables(self, monitor: Monitor, caller: Caller) -> Monitor:
        profile = await self._catalog.ensure_table(
            monitor.profile_table_full_name, PROFILE_TABLE, caller.token
        )
        drift = await self._catalog.ensure_table(
            monitor.drift_table_full_name, DRIFT_TABLE, caller.token
        )
        return replace(monitor, profile_table=profile.physical, drift_table=drift.physical)
