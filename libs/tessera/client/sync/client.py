"""The synchronous client: the same parts, as plain calls."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Self

from tessera.client.aio.client import AsyncClient
from tessera.client.portal import Portal
from tessera.client.settings import Settings
from tessera.client.sync.access import Access, Lineage
from tessera.client.sync.catalog import Catalog
from tessera.client.sync.events import Events
from tessera.client.sync.inference import Inference
from tessera.client.sync.models import Models
from tessera.client.sync.monitoring import Monitoring
from tessera.client.sync.tables import Tables
from tessera.client.sync.tracking import Tracking
from tessera.client.sync.training import Training


class Client:
    """Everything that a user of the platform can do, as plain calls.

    It runs an `AsyncClient` on an event loop in a thread of its own, so it may be used from any
    thread. Use it as a context manager, or call `close`.

    Args:
        settings: Doors and token; by default those that `Settings.from_env` finds.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env()
        self._portal = Portal()
        self._client = AsyncClient(self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections and ends the thread."""
        self._portal.run(self._client.close())
        self._portal.close()

    @cached_property
    def catalog(self) -> Catalog:
        """Catalogs, schemas, tables and volumes."""
        return Catalog(self._portal, self._portal.make(lambda: self._client.catalog))

    @cached_property
    def tables(self) -> Tables:
        """Rows of tables, as Arrow."""
        return Tables(self._portal, self._portal.make(lambda: self._client.tables))

    @cached_property
    def models(self) -> Models:
        """Registered models and their versions."""
        return Models(self._portal, self._portal.make(lambda: self._client.models))

    @cached_property
    def access(self) -> Access:
        """Principals, tokens and grants."""
        return Access(self._portal, self._portal.make(lambda: self._client.access))

    @cached_property
    def lineage(self) -> Lineage:
        """What was made from what."""
        return Lineage(self._portal, self._portal.make(lambda: self._client.lineage))

    @cached_property
    def tracking(self) -> Tracking:
        """Experiments and runs."""
        return Tracking(self._portal, self._portal.make(lambda: self._client.tracking))

    @cached_property
    def training(self) -> Training:
        """Jobs and triggers."""
        return Training(self._portal, self._portal.make(lambda: self._client.training))

    @cached_property
    def inference(self) -> Inference:
        """Endpoints and predictions."""
        return Inference(self._portal, self._portal.make(lambda: self._client.inference))

    @cached_property
    def monitoring(self) -> Monitoring:
        """Monitors, windows, metrics and alerts."""
        return Monitoring(self._portal, self._portal.make(lambda: self._client.monitoring))

    @cached_property
    def events(self) -> Events:
        """Labels and other facts, over Kafka."""
        return Events(self._portal, self._portal.make(lambda: self._client.events))
