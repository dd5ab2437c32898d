"""What pages show, asked of a running platform."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from tessera.catalog.v1 import lineage_service_pb2 as lineage_pb2
from tessera.client.aio.client import AsyncClient
from tessera.client.mlflow_door import MlflowDoor
from tessera.pages.gather import Buckets
from tessera.tracking.v1 import tracking_pb2

__all__ = ["ClientSource"]


class ClientSource:
    """The `Source` of pages over a client; it has the client's rights."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._door = MlflowDoor(client.settings)

    async def experiment_name(self, experiment_id: str) -> str:
        """Return an experiment's name."""
        return (await self._client.tracking.get_experiment(experiment_id)).name

    async def curves(self, run_id: str, keys: Sequence[str], buckets: int) -> Mapping[str, Buckets]:
        """Return metrics of a run in at most so many buckets each."""
        return await self._client.tracking.downsample_many(run_id, keys, buckets=buckets)

    async def artifacts(self, run_id: str, path: str) -> Sequence[tracking_pb2.ArtifactInfo]:
        """Return files and folders directly below a path of a run's artifacts."""
        return await self._client.tracking.list_artifacts(run_id, path)

    async def lineage(self, run_id: str) -> Sequence[lineage_pb2.LineageEdge]:
        """Return the steps from and to a run."""
        return await self._client.lineage.get(
            lineage_pb2.LINEAGE_NODE_TYPE_RUN, run_id, max_depth=1
        )

    async def traces(
        self, experiment_id: str, run_id: str, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """Return the newest traces of a run with their spans."""
        infos = await asyncio.to_thread(
            self._door.traces_of_run, experiment_id, run_id, limit=limit
        )
        return [await asyncio.to_thread(self._door.trace, info["trace_id"]) for info in infos]
