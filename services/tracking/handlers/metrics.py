"""Use cases of reading metrics: in few buckets, as they change, and all points of a selection."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import Final

import pyarrow as pa

from services.tracking.domain.buckets import Bucket, Steps
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.metrics import identity
from services.tracking.domain.run import RunNews
from services.tracking.errors import InvalidValue, RunNotFound
from services.tracking.handlers.access import Access
from services.tracking.handlers.search import Search
from services.tracking.ports.store import POINT_SCHEMA, Store
from tessera_kit.rpc.identity import Principal

__all__ = ["Metrics"]

_TAIL_SECONDS: Final = 0.5
_CHUNK_BYTES: Final = 1 << 20
_PAGE_RUNS: Final = 1000
_MOST_BUCKETS: Final = 20_000


class Metrics:
    """Reads metrics.

    Args:
        store: Where they are kept.
        access: Who may read them.
        search: Finds the runs of a selection.
    """

    def __init__(self, store: Store, access: Access, search: Search) -> None:
        self._store = store
        self._access = access
        self._search = search

    async def buckets(
        self, principal: Principal, run_id: str, key: str, steps: Steps, count: int
    ) -> list[Bucket]:
        """Return a metric as at most `count` buckets.

        Raises:
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not read it.
        """
        await self._access.read_run(principal, run_id)
        return await self._store.buckets(run_id, key, steps, count)

    async def curves(
        self, principal: Principal, run_id: str, keys: Iterable[str], count: int
    ) -> Mapping[str, list[Bucket]]:
        """Return metrics as at most `count` buckets each; those without points are left out.

        Raises:
            InvalidValue: They would be more than 20,000 buckets in all.
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not read it.
        """
        chosen = list(dict.fromkeys(keys))
        if len(chosen) * count > _MOST_BUCKETS:
            raise InvalidValue(
                f"{len(chosen)} metrics of {count:,} buckets are more than {_MOST_BUCKETS:,} "
                "in all; ask for fewer of either",
                "buckets",
            )
        await self._access.read_run(principal, run_id)
        return await self._store.curves(run_id, chosen, count) if chosen else {}

    async def tail(self, principal: Principal, run_id: str) -> AsyncIterator[RunNews]:
        """Yield the run with all it has, then what is new, twice a second at most, until it ends.

        Raises:
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not read it, or not any more.
        """
        etag = ""
        seen: dict[str, tuple[int, int, bool, float]] = {}
        while True:
            await self._access.read_run(principal, run_id)
            async with self._store.read() as view:
                run = await view.runs.get(run_id)
            if run is None:
                raise RunNotFound(run_id)
            points = [one for one in run.metrics.values() if seen.get(one.key) != identity(one)]
            seen.update((one.key, identity(one)) for one in points)
            changed = run.info.etag != etag
            etag = run.info.etag
            if changed or points:
                yield RunNews(run if changed else None, points)
            if run.info.status.is_final:
                return
            await asyncio.sleep(_TAIL_SECONDS)

    async def export(
        self,
        principal: Principal,
        *,
        run_ids: Collection[str],
        experiment_ids: Collection[str],
        text: str,
        keys: Collection[str],
    ) -> AsyncIterator[bytes]:
        """Yield an Arrow IPC stream of all points of runs, in pieces of at most 1 MiB.

        Raises:
            InvalidValue: Both runs and experiments are given, or neither.
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not read one of the runs; experiments that the caller
                may not read have no runs.
            InvalidFilter: The text does not parse.
        """
        if bool(run_ids) == bool(experiment_ids):
            raise InvalidValue("give either run_ids or experiment_ids", "run_ids")
        for run_id in run_ids:
            await self._access.read_run(principal, run_id)
        chosen = run_ids or await self._runs_of(principal, experiment_ids, text)
        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, POINT_SCHEMA) as writer:
            async for batch in self._store.export(chosen, keys):
                writer.write_batch(batch)
                for chunk in _taken(buffer):
                    yield chunk
        for chunk in _taken(buffer):
            yield chunk

    async def _runs_of(
        self, principal: Principal, experiment_ids: Collection[str], text: str
    ) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            page = await self._search.runs(
                principal,
                experiment_ids=experiment_ids,
                text=text,
                order_by=(),
                stage=LifecycleStage.ACTIVE,
                size=_PAGE_RUNS,
                token=token,
            )
            found += [run.info.run_id for run in page.runs]
            token = page.next_token
            if not token:
                return found


def _taken(buffer: io.BytesIO) -> list[bytes]:
    """Return what was written, in pieces, and forget it."""
    data = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return [data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES)]
