"""All use cases, put together over whatever implements the ports."""

from __future__ import annotations

from dataclasses import dataclass

from services.monitoring.handlers.access import Access
from services.monitoring.handlers.compute import WindowComputer
from services.monitoring.handlers.labels import LabelIntake
from services.monitoring.handlers.monitors import Monitors
from services.monitoring.handlers.refresh import Refresh
from services.monitoring.handlers.reports import Reports
from services.monitoring.ports import Analytics, Store, TableCatalog
from tessera_kit.clock import Clock, SystemClock
from tessera_kit.rpc.authority import Authority

__all__ = ["UseCases", "build_use_cases"]


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the service can do."""

    monitors: Monitors
    refresh: Refresh
    reports: Reports
    computer: WindowComputer
    labels: LabelIntake


def build_use_cases(
    store: Store,
    analytics: Analytics,
    catalog: TableCatalog,
    authority: Authority,
    clock: Clock | None = None,
) -> UseCases:
    """Put the use cases together; time is the system's when no clock is given."""
    clock = clock or SystemClock()
    access = Access(authority, store)
    computer = WindowComputer(store, analytics, access, clock)
    return UseCases(
        monitors=Monitors(store, analytics, catalog, access, computer, clock),
        refresh=Refresh(store, analytics, access, computer, clock),
        reports=Reports(store, analytics, access, computer.alerts),
        computer=computer,
        labels=LabelIntake(store, analytics),
    )
