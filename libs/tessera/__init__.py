"""Tessera: an open, self-hosted, event-driven AI and ML platform.

    from tessera import Client

    with Client() as client:
        client.catalog.list_catalogs()

`Client` and `AsyncClient` find the platform through the environment or a running stack's data
directory. Failures are `TesseraError`s; the modules `tessera.<service>.v1` hold the contracts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tessera.client.aio.client import AsyncClient
    from tessera.client.aio.events import label
    from tessera.client.manifests import PipelineStep, TensorSpec
    from tessera.client.settings import Settings
    from tessera.client.sync.client import Client
    from tessera_kit.errors import TesseraError

__all__ = [
    "AsyncClient",
    "Client",
    "PipelineStep",
    "Settings",
    "TensorSpec",
    "TesseraError",
    "label",
]

_HOMES = {
    "AsyncClient": "tessera.client.aio.client",
    "Client": "tessera.client.sync.client",
    "PipelineStep": "tessera.client.manifests",
    "Settings": "tessera.client.settings",
    "TensorSpec": "tessera.client.manifests",
    "TesseraError": "tessera_kit.errors",
    "label": "tessera.client.aio.events",
}


def __getattr__(name: str) -> Any:
    # Imported at first use: services import the contracts below this package and not the client.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
