"""The client: one object with a part for each thing that the platform does."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Self

import grpc

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
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.tls import ClientTls


class AsyncClient:
    """Everything that a user of the platform can do, as coroutines.

    Use it as an asynchronous context manager, from one event loop. Every call has a deadline; a
    failed call raises a `tessera.TesseraError`, whose class says what kind of failure it was. A
    door is connected to when its part is first used.

    Args:
        settings: Doors and token; by default those that `Settings.from_env` finds.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env()
        self._channels: dict[str, grpc.aio.Channel] = {}

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
        if "events" in self.__dict__:
            await self.events.close()
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    @cached_property
    def catalog(self) -> AsyncCatalog:
        """Catalogs, schemas, tables and volumes."""
        return AsyncCatalog(self._channel("catalog"))

    @cached_property
    def tables(self) -> AsyncTables:
        """Rows of tables, as Arrow."""
        return AsyncTables(self._channel("catalog"))

    @cached_property
    def models(self) -> AsyncModels:
        """Registered models and their versions."""
        return AsyncModels(self._channel("catalog"))

    @cached_property
    def access(self) -> AsyncAccess:
        """Principals, tokens and grants."""
        return AsyncAccess(self._channel("catalog"))

    @cached_property
    def lineage(self) -> AsyncLineage:
        """What was made from what."""
        return AsyncLineage(self._channel("catalog"))

    @cached_property
    def tracking(self) -> AsyncTracking:
        """Experiments and runs."""
        return AsyncTracking(self._channel("tracking"))

    @cached_property
    def training(self) -> AsyncTraining:
        """Jobs and triggers."""
        return AsyncTraining(self._channel("training"))

    @cached_property
    def inference(self) -> AsyncInference:
        """Endpoints and predictions."""
        return AsyncInference(self._channel("inference"), self._channel("gateway"))

    @cached_property
    def monitoring(self) -> AsyncMonitoring:
        """Monitors, windows, metrics and alerts."""
        return AsyncMonitoring(self._channel("monitoring"))

    @cached_property
    def events(self) -> AsyncEvents:
        """Labels and other facts, over Kafka."""
        return AsyncEvents(KafkaConfig(bootstrap=self.settings.door("kafka")))

    def _channel(self, door: str) -> grpc.aio.Channel:
        if door not in self._channels:
            ca_file = self.settings.ca_file
            tls = None if ca_file is None else ClientTls(ca_file=ca_file)
            target = self.settings.door(door)
            self._channels[door] = open_channel(target, token=self.settings.token, tls=tls)
        return self._channels[door]
