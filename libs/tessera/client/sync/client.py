"""The synchronous client: the same parts, as plain calls."""

from __future__ import annotations

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

    catalog: Catalog
    """Catalogs, schemas, tables and volumes."""
    tables: Tables
    """Rows of tables, as Arrow."""
    models: Models
    """Registered models and their versions."""
    access: Access
    """Principals, tokens and grants."""
    lineage: Lineage
    """What was made from what."""
    tracking: Tracking
    """Experiments and runs."""
    training: Training
    """Jobs and triggers."""
    inference: Inference
    """Endpoints and predictions."""
    monitoring: Monitoring
    """Monitors, windows, metrics and alerts."""
    events: Events
    """Labels and other facts, over Kafka."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env()
        self._portal = portal = Portal()
        self._client = client = portal.make(lambda: AsyncClient(self.settings))
        self.catalog = Catalog(portal, client.catalog)
        self.tables = Tables(portal, client.tables)
        self.models = Models(portal, client.models)
        self.access = Access(portal, client.access)
        self.lineage = Lineage(portal, client.lineage)
        self.tracking = Tracking(portal, client.tracking)
        self.training = Training(portal, client.training)
        self.inference = Inference(portal, client.inference)
        self.monitoring = Monitoring(portal, client.monitoring)
        self.events = Events(portal, client.events)

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
