"""Labels: kept, joined to windows, and the quality of those windows computed anew in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from services.monitoring.domain.windows import WindowRecord, WindowState
from services.monitoring.handlers.compute import WindowComputer, WindowOrder
from services.monitoring.handlers.signal import Signal
from services.monitoring.ports import Analytics, Label, Store
from tessera_kit.bus.retry import is_retryable
from tessera_kit.errors import TesseraError
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import counter

__all__ = ["LabelIntake", "LabelRecomputer"]

_log = logging.getLogger(__name__)


class LabelIntake:
    """Takes labels in. The same label taken again changes nothing that a reader sees.

    Args:
        store: Monitors and windows.
        analytics: Where labels are kept and joined.
    """

    def __init__(self, store: Store, analytics: Analytics) -> None:
        self._store = store
        self._analytics = analytics
        self.marked = Signal()
        """Changes when labels came for windows."""

    async def take(self, labels: Sequence[Label]) -> None:
        """Keep labels, and mark the windows that they are of."""
        await self._analytics.write_labels(labels)
        for monitor in await self._store.monitors_of_endpoints():
            schema, _ = await self._store.get_schema(monitor)
            if schema is None:
                # No window of it was looked at yet; what is computed later has these labels.
                continue
            starts = await self._analytics.windows_of_labels(monitor, schema, labels)
            if not starts:
                continue
            async with self._store.transaction() as work:
                marked = await work.mark_labels(monitor.id, starts)
                await work.commit()
            counter(names.MONITOR_LABELS).labels(monitor.name, "joined").inc(len(labels))
            if marked:
                self.marked.notify()


class LabelRecomputer:
    """Computes the quality of windows again that labels came for, when they stop coming.

    Args:
        store: Monitors and windows.
        computer: Computes them.
        marked: Changes when labels came for windows.
        quiet_seconds: How long no label must have come.
        longest_seconds: How long labels that keep coming are waited for.
        poll_seconds: How often to look without a signal, for what another process marked.
    """

    def __init__(
        self,
        store: Store,
        computer: WindowComputer,
        marked: Signal,
        *,
        quiet_seconds: float = 1.0,
        longest_seconds: float = 10.0,
        poll_seconds: float = 5.0,
    ) -> None:
        self._store = store
        self._computer = computer
        self._marked = marked
        self._quiet_seconds = quiet_seconds
        self._longest_seconds = longest_seconds
        self._poll_seconds = poll_seconds

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            turn = self._marked.turn
            await self._recompute_safely()
            if await Signal.wait(turn, self._poll_seconds):
                await self._settle()

    async def _settle(self) -> None:
        """Wait until no label has come for a while."""
        until = asyncio.get_running_loop().time() + self._longest_seconds
        while asyncio.get_running_loop().time() < until:
            if not await Signal.wait(self._marked.turn, self._quiet_seconds):
                return

    async def _recompute_safely(self) -> None:
        try:
            await self.recompute()
        except Exception as error:
            # The marks are kept: the next round tries again.
            counter(names.BACKGROUND_FAILURES).labels("label-recompute").inc()
            quiet = isinstance(error, TesseraError) or is_retryable(error)
            _log.warning("windows are not computed yet: %s", error, exc_info=not quiet)

    async def recompute(self) -> list[WindowRecord]:
        """Compute the windows that are marked now."""
        done: list[WindowRecord] = []
        for name in await self._store.dirty_windows():
            monitor = await self._store.get_monitor(name)
            if monitor is None:
                continue
            async with self._computer.lock(monitor):
                # Looked up again: they may have been computed while the lock was waited for.
                dirty = (await self._store.dirty_windows()).get(name, [])
                orders = [
                    WindowOrder(record.start_us, WindowState.CLOSED, record.requests)
                    for record in dirty
                ]
                if orders:
                    done += await self._computer.compute(monitor, orders, quality_only=True)
        return done
