"""Which rights a use case needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from services.monitoring.domain.monitor import Monitor
from services.monitoring.errors import MonitorNotFound
from services.monitoring.ports import Store
from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import PermissionDenied
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.identity import Principal

__all__ = ["Access"]

_MONITOR: Final = securable_pb2.SECURABLE_TYPE_MONITOR
_TABLE: Final = securable_pb2.SECURABLE_TYPE_TABLE
_SEEING: Final = (securable_pb2.PRIVILEGE_SELECT, securable_pb2.PRIVILEGE_BROWSE)


class Access:
    """Asks the authority, and finds the monitors that it decides about.

    Args:
        authority: Who may do what.
        store: Where monitors are.
    """

    def __init__(self, authority: Authority, store: Store) -> None:
        self._authority = authority
        self._store = store

    async def require_create(self, caller: Principal) -> None:
        """Return when the caller may create monitors."""
        await self._authority.require(
            caller,
            securable_pb2.PRIVILEGE_CREATE_MONITOR,
            securable_pb2.SECURABLE_TYPE_METASTORE,
            "metastore",
        )

    async def require_tables(self, principal: Principal, names: Iterable[str]) -> None:
        """Return when the principal may read tables."""
        for name in names:
            await self._authority.require(principal, securable_pb2.PRIVILEGE_SELECT, _TABLE, name)

    async def require_creator(self, monitor: Monitor) -> None:
        """Return when the monitor's creator may still read what the monitor reads."""
        names = [monitor.table_full_name]
        if monitor.baseline is not None:
            names.append(monitor.baseline.table_full_name)
        await self.require_tables(Principal(monitor.created_by), names)

    async def register(self, monitor: Monitor) -> None:
        """Make the monitor known to grants, owned by its creator."""
        await self._authority.register(_MONITOR, monitor.name, monitor.created_by)

    async def unregister(self, name: str) -> None:
        """Drop the monitor and its grants."""
        await self._authority.unregister(_MONITOR, name)

    async def visible(self, caller: Principal, name: str) -> Monitor:
        """The monitor of a name, when the caller may see that it is there.

        Raises:
            MonitorNotFound: It is not, or the caller may not.
        """
        monitor = await self._store.get_monitor(name)
        if monitor is None or not await self.may_see(caller, name):
            raise MonitorNotFound(name)
        return monitor

    async def may_see(self, caller: Principal, name: str) -> bool:
        """Whether the caller may see that a monitor is there."""
        for privilege in _SEEING:
            if await self._holds(caller, privilege, name):
                return True
        return False

    async def may_read(self, caller: Principal, name: str) -> bool:
        """Whether the caller may read a monitor's windows, metrics and alerts."""
        return await self._holds(caller, securable_pb2.PRIVILEGE_SELECT, name)

    async def _holds(self, caller: Principal, privilege: int, name: str) -> bool:
        try:
            await self._authority.require(caller, privilege, _MONITOR, name)
        except PermissionDenied:
            return False
        return True

    async def readable(self, caller: Principal, name: str) -> Monitor:
        """The monitor of a name, when the caller may read its windows, metrics and alerts."""
        return await self._allowed(caller, name, securable_pb2.PRIVILEGE_SELECT)

    async def runnable(self, caller: Principal, name: str) -> Monitor:
        """The monitor of a name, when the caller may have it compute windows."""
        return await self._allowed(caller, name, securable_pb2.PRIVILEGE_MODIFY)

    async def manageable(self, caller: Principal, name: str) -> Monitor:
        """The monitor of a name, when the caller may change or delete it."""
        return await self._allowed(caller, name, securable_pb2.PRIVILEGE_MANAGE)

    async def _allowed(self, caller: Principal, name: str, privilege: int) -> Monitor:
        monitor = await self.visible(caller, name)
        await self._authority.require(caller, privilege, _MONITOR, name)
        return monitor
