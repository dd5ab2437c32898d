"""The client: one object with a part for each thing that the platform does."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tessera_kit.rpc.client import ClientTls, open_channel

from tessera.client.aio.access import AsyncAccess, AsyncLineage
from tessera.client.aio.catalog import AsyncCatalog
from tessera.client.aio.events import AsyncEvents
from tessera.client.aio.inference import AsyncInference
from tessera.client.aio.models import AsyncModels
from tessera.client.aio.monitoring import AsyncMonitoring
from tessera.client.aio.tables import AsyncTables
from tessera.client.aio.tracking import AsyncTracking
from tessera.client.aio.training import AsyncTraining
from tessera.client.settings import Settings
from tessera_kit.config import KafkaConfig


class AsyncClient:
    """Everything that a user of the platform can do, as coroutines.

    Use it as an asynchronous context manager, from one event loop. Every call has a deadline; a
    failed call raises a `tessera.TesseraError`, whose class says what kind of failure it was.

    Args:
        settings: Doors and token; by default those that `Settings.from_env` finds.
    """

    catalog: AsyncCatalog
    """Catalogs, schemas, tables and volumes."""
    tables: AsyncTables
    """Rows of tables, as Arrow."""
    models: AsyncModels
    """Registered models and their versions."""
    access: AsyncAccess
    """Principals, tokens and grants."""
    lineage: AsyncLineage
    """What was made from what."""
    tracking: AsyncTracking
    """Experiments and runs."""
    training: AsyncTraining
    """Jobs and triggers."""
    inference: AsyncInference
    """Endpoints and predictions."""
    monitoring: AsyncMonitoring
    """Monitors, windows, metrics and alerts."""
    events: AsyncEvents
    """Labels and other facts, over Kafka."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env()
        tls = None if self.settings.ca_file is None else ClientTls(ca_file=self.settings.ca_file)
        self._channels = {
            door: open_channel(getattr(self.settings, door), token=self.settings.token, tls=tls)
            for door in ("catalog", "tracking", "training", "inference", "monitoring", "gateway")
        }
        self.catalog = AsyncCatalog(self._channels["catalog"])
        self.tables = AsyncTables(self._channels["catalog"])
        self.models = AsyncModels(self._channels["catalog"])
        self.access = AsyncAccess(self._channels["catalog"])
        self.lineage = AsyncLineage(self._channels["catalog"])
        self.tracking = AsyncTracking(self._channels["tracking"])
        self.training = AsyncTraining(self._channels["training"])
        self.inference = AsyncInference(self._channels["inference"], self._channels["gateway"])
        self.monitoring = AsyncMonitoring(self._channels["monitoring"])
        self.events = AsyncEvents(KafkaConfig(bootstrap=self.settings.kafka))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self.events.close()
        for channel in self._channels.values():
            await channel.close()
