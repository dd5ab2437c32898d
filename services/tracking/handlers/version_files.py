"""Files of versions of registered models: copied from where the version's source lies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from services.tracking.domain.artifacts import Artifact
from services.tracking.domain.registry import RegistryVersion
from services.tracking.domain.source import SourcePlace, source_place
from services.tracking.errors import InvalidValue
from services.tracking.handlers.artifacts import Artifacts
from services.tracking.handlers.models import LoggedModels
from services.tracking.ports.models import ModelRegistry
from tessera_kit.errors import TesseraError
from tessera_kit.rpc.identity import Principal
from tessera_kit.tasks import detached_task

__all__ = ["Caller", "VersionFiles", "VersionSource"]

_log = logging.getLogger(__name__)
_SOURCE_FILE: Final = "SOURCE"
_PAGE: Final = 1000
_COPIES_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and the token with which the catalog is asked."""

    principal: Principal
    token: str


@dataclass(frozen=True, slots=True)
class VersionSource:
    """What a version is made of."""

    uri: str
    """Where it lies, as the caller wrote it."""
    model_id: str = ""
    """The logged model that it is; empty when it is none, or none that was told."""
    place: SourcePlace | None = None
    """Where its files lie on this server; None when they lie elsewhere."""
    files: Sequence[str] = ()
    """Their paths, below the place."""


class VersionFiles:
    """Copies the files of versions.

    Args:
        registry: The catalog's models.
        artifacts: The files of runs and logged models, which versions are made of.
        models: The logged models; it tells which versions are made of them.
        default_schema: Where plain names land, as `main.default`.
        soon_seconds: How long a version's creation waits for its files to be copied; then it is
            answered as pending, and becomes ready later.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        artifacts: Artifacts,
        models: LoggedModels,
        *,
        default_schema: str,
        soon_seconds: float = 20.0,
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._models = models
        self._schema = default_schema
        self._soon_seconds = soon_seconds
        self._copies: set[asyncio.Task[RegistryVersion]] = set()
        self._at_once = asyncio.Semaphore(_COPIES_AT_ONCE)

    async def close(self) -> None:
        """End the copies that are under way; their versions are marked as failed."""
        for copy in self._copies:
            copy.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)

    async def source(self, caller: Caller, uri: str, model_id: str) -> VersionSource:
        """Return what a version is to be made of.

        Args:
            caller: Who registers it.
            uri: Where it lies.
            model_id: The logged model that it is said to be; empty for none.

        Raises:
            NotFound: The source is not there.
            PermissionDenied: The caller may not read it.
            InvalidValue: It is a path of some machine, or has no files.
        """
        place = source_place(uri, self._schema)
        if place is None:
            return VersionSource(uri, model_id)
        files = await self._files(caller, place)
        if not files:
            raise InvalidValue(f"Unable to find a model at the source '{uri[:500]}'", "source")
        return VersionSource(uri, place.model_id or model_id, place, files)

    async def fill(
        self, caller: Caller, version: RegistryVersion, source: VersionSource
    ) -> RegistryVersion:
        """Copy the files of a new version; return it as it is when they are there, or soon."""
        # Clients ask again until it is ready, and wait less long for the answer itself.
        copy = detached_task(self._filled(caller, version, source), name="registry-copy")
        self._copies.add(copy)
        copy.add_done_callback(self._copied)
        done, _ = await asyncio.wait({copy}, timeout=self._soon_seconds)
        return copy.result() if done else version

    async def of(self, caller: Caller, full_name: str, version: int) -> Sequence[Artifact]:
        """Return all files of a version, by path."""
        return await self._registry.files(caller.token, full_name, version)

    def download(
        self, caller: Caller, full_name: str, version: int, path: str
    ) -> AsyncIterator[bytes]:
        """Return the bytes of a version's file in pieces."""
        return self._registry.download(caller.token, full_name, version, path)

    async def _files(self, caller: Caller, place: SourcePlace) -> list[str]:
        """Return the paths of a source's files, below it."""
        if place.registered:
            found = await self._registry.files(caller.token, place.registered, place.version)
            prefix = f"{place.path}/" if place.path else ""
            return [one.path.removeprefix(prefix) for one in found if one.path.startswith(prefix)]
        paths: list[str] = []
        folders = [place.path]
        while folders:
            folder = folders.pop()
            token = ""
            while True:
                page = await self._artifacts.children(
                    caller.principal,
                    run_id=place.run_id,
                    model_id=place.model_id,
                    path=folder,
                    limit=_PAGE,
                    token=token,
                )
                folders += [one.path for one in page.artifacts if one.is_directory]
                paths += [one.path for one in page.artifacts if not one.is_directory]
                token = page.next_token
                if not token:
                    break
        prefix = f"{place.path}/" if place.path else ""
        return sorted(path.removeprefix(prefix) for path in paths)

    def _copied(self, copy: asyncio.Task[RegistryVersion]) -> None:
        self._copies.discard(copy)
        if not copy.cancelled() and (error := copy.exception()) is not None:
            _log.warning("files of a model version were not copied: %s", error)

    async def _filled(
        self, caller: Caller, version: RegistryVersion, source: VersionSource
    ) -> RegistryVersion:
        """Copy a version's files, tell what it was made from, and end its upload."""
        name, number = version.full_name, version.version
        try:
            async with self._at_once:
                await self._copy(caller, version, source)
            await self._tell(caller, version, source)
        except BaseException as error:
            told = error.message if isinstance(error, TesseraError) else "the copy was interrupted"
            await self._registry.finalize(caller.token, name, number, failure=told)
            raise
        return await self._registry.finalize(caller.token, name, number)

    async def _tell(self, caller: Caller, version: RegistryVersion, source: VersionSource) -> None:
        place = source.place
        copied = place is not None and place.registered
        await self._models.registered(
            caller.principal,
            f"{version.full_name}/{version.version}",
            model_id=source.model_id,
            copied_from=f"{place.registered}/{place.version}" if place and copied else "",
        )

    async def _copy(self, caller: Caller, version: RegistryVersion, source: VersionSource) -> None:
        place = source.place
        if place is None:
            await self._upload(caller, version, _SOURCE_FILE, _once(source.uri.encode()))
            return
        for path in source.files:
            below = f"{place.path}/{path}" if place.path else path
            if place.registered:
                chunks = self.download(caller, place.registered, place.version, below)
            else:
                chunks = await self._artifacts.download(
                    caller.principal, run_id=place.run_id, model_id=place.model_id, path=below
                )
            await self._upload(caller, version, path, chunks)

    async def _upload(
        self, caller: Caller, version: RegistryVersion, path: str, chunks: AsyncIterator[bytes]
    ) -> None:
        await self._registry.upload(caller.token, version.full_name, version.version, path, chunks)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
