"""ExplainRequest: from a request's id to the run, the commit and the tables behind its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, TypeVar
from uuid import UUID

from services.inference.domain.bodies import PayloadTable
from services.inference.domain.explanation import (
    Explanation,
    Gap,
    KeptRequest,
    LineageNode,
    ModelOrigin,
    NodeKind,
    Origins,
    origins_of,
    tables_of,
)
from services.inference.errors import (
    EndpointNotFound,
    InvalidExplanation,
    RequestAmbiguous,
    RequestNotFound,
    RequestNotWritten,
)
from services.inference.ports import (
    Endpoints,
    Lineage,
    ModelRegistry,
    ModelVersionFacts,
    Runs,
    TableReader,
    Tables,
)
from tessera.catalog.v1 import securable_pb2
from tessera_kit.clock import Clock
from tessera_kit.errors import Internal, PermissionDenied, TesseraError
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.identity import Principal

__all__ = ["Explanations"]

_Found = TypeVar("_Found")

_SELECT: Final = (securable_pb2.PRIVILEGE_SELECT, securable_pb2.SECURABLE_TYPE_TABLE)
_MANAGE: Final = (securable_pb2.PRIVILEGE_MANAGE, securable_pb2.SECURABLE_TYPE_ENDPOINT)
_MOST_TABLES: Final = 500
_AT_ONCE: Final = 8
_YOUNG: Final = timedelta(seconds=60)
_ROW_SECONDS: Final = 1.0
_MOST_NAMED: Final = 10
_READ_SECONDS: Final = 5.0


class Explanations:
    """Explains answers.

    Args:
        tables: The inference tables, those of deleted endpoints too.
        endpoints: Tells whose a table is now.
        reader: Reads the tables.
        models: Reads model versions.
        lineage: Tells what was made from what.
        runs: Reads tracking's runs.
        authority: What principals may do.
        clock: Where time comes from.
    """

    def __init__(
        self,
        *,
        tables: Tables,
        endpoints: Endpoints,
        reader: TableReader,
        models: ModelRegistry,
        lineage: Lineage,
        runs: Runs,
        authority: Authority,
        clock: Clock,
    ) -> None:
        self._tables = tables
        self._endpoints = endpoints
        self._reader = reader
        self._models = models
        self._lineage = lineage
        self._runs = runs
        self._authority = authority
        self._clock = clock

    async def explain(
        self, caller: Principal, request_id: str, client_request_id: str = "", endpoint: str = ""
    ) -> Explanation:
        """What produced the answer to a request.

        Args:
            caller: Who asks: may read the endpoint's inference table, or manage the endpoint. What
                lies behind the model version is told as far as the caller may see it.
            request_id: The `tessera_request_id`; empty when the next one is given.
            client_request_id: The caller's own; needs the endpoint.
            endpoint: Only of this one; of all when empty.

        Raises:
            InvalidExplanation: Both ids or none, or a caller's own without the endpoint.
            EndpointNotFound: There is none of that name whose table the caller may read.
            RequestNotFound: No table that the caller may read has a row of the request.
            RequestNotWritten: The request is so young that its row may be on its way.
            RequestAmbiguous: Several requests have the caller's own id.
        """
        _check(request_id, client_request_id, endpoint)
        places = await self._readable(caller, endpoint)
        if client_request_id:
            table, request = await self._by_client_id(places, client_request_id, endpoint)
        else:
            table, request = await self._by_id(places, request_id)
        if not request.model_version:
            return Explanation(request, table, None)
        origin, gaps = await self._origin(caller, request)
        return Explanation(request, table, origin, gaps)

    async def _readable(self, caller: Principal, endpoint: str) -> list[PayloadTable]:
        places = await self._tables.payload_tables(endpoint)
        if len(places) > _MOST_TABLES:
            raise InvalidExplanation(
                f"there are more than {_MOST_TABLES} inference tables to look in; name the endpoint"
            )
        may = await _each(places, lambda place: self._may_read(caller, place))
        found = [place for place, allowed in zip(places, may, strict=True) if allowed]
        if endpoint and not found:
            raise EndpointNotFound(
                f"there is no endpoint {endpoint!r} whose inference table {caller.name} may read"
            )
        return found

    async def _may_read(self, caller: Principal, place: PayloadTable) -> bool:
        if await self._holds(caller, *_SELECT, place.table.full_name):
            return True
        if not await self._holds(caller, *_MANAGE, place.endpoint):
            return False
        try:
            # A later endpoint of the name does not open the table of an earlier one.
            return (await self._endpoints.get(place.endpoint)).endpoint_id == place.endpoint_id
        except EndpointNotFound:
            return False

    async def _holds(self, caller: Principal, privilege: int, kind: int, name: str) -> bool:
        try:
            await self._authority.require(caller, privilege, kind, name)
        except PermissionDenied:
            return False
        return True

    async def _by_id(
        self, places: Sequence[PayloadTable], request_id: str
    ) -> tuple[str, KeptRequest]:
        found = await _each(places, lambda place: self._reader.kept(place.table, request_id))
        for place, request in zip(places, found, strict=True):
            if request is not None:
                return place.table.full_name, request
        if self._is_young(request_id):
            raise RequestNotWritten(
                f"no row of request {request_id!r} can be read yet: rows take about a second to be "
                "written; ask again",
                retry_after=_ROW_SECONDS,
            )
        raise RequestNotFound(
            f"no inference table that you may read has a row of request {request_id!r}; rows of "
            "requests that were not sampled, or are older than the table keeps, are not there"
        )

    async def _by_client_id(
        self, places: Sequence[PayloadTable], client_request_id: str, endpoint: str
    ) -> tuple[str, KeptRequest]:
        most = _MOST_NAMED + 1
        found = await _each(
            places,
            lambda place: self._reader.kept_of_client(place.table, client_request_id, most),
        )
        pairs = [
            (place.table.full_name, request)
            for place, requests in zip(places, found, strict=True)
            for request in requests
        ]
        if not pairs:
            raise RequestNotFound(
                f"the inference table of {endpoint!r} has no row of a request that its caller "
                f"named {client_request_id!r}; rows take about a second to be written"
            )
        if len(pairs) > 1:
            ids = [request.request_id for _, request in pairs[:_MOST_NAMED]]
            more = " and more" if len(pairs) > _MOST_NAMED else ""
            raise RequestAmbiguous(
                f"several requests to {endpoint!r} were named {client_request_id!r} by their "
                f"callers; ask by tessera_request_id: {', '.join(ids)}{more}",
                metadata={"tessera_request_ids": ",".join(ids)},
            )
        return pairs[0]

    def _is_young(self, request_id: str) -> bool:
        """Whether an id of version 7 was made so lately that its row may be on its way."""
        try:
            # Mirrors have a suffix behind their original's id.
            made = UUID(request_id.partition(".")[0])
        except ValueError:
            return False
        age = self._clock.now().timestamp() - (made.int >> 80) / 1000
        return made.version == 7 and abs(age) < _YOUNG.total_seconds()

    async def _origin(
        self, caller: Principal, request: KeptRequest
    ) -> tuple[ModelOrigin, tuple[Gap, ...]]:
        gaps: list[Gap] = []
        name, number = request.model_name, request.model_version
        node = LineageNode(NodeKind.MODEL_VERSION, f"{name}/{number}")
        version, steps = await asyncio.gather(
            _told("model_version", self._models.version(caller.name, name, number), gaps),
            _told("lineage", self._lineage.upstream(caller.name, node), gaps),
        )
        origins = Origins() if steps is None else origins_of(node, steps)
        run_id = _run_of(version, origins)
        run = None
        if run_id:
            run = await _told("run", self._runs.run(caller.name, run_id), gaps)
        origin = ModelOrigin(
            model_name=name,
            model_version=number,
            created_by=version.created_by if version else "",
            created_at=version.created_at if version else None,
            run=run,
            job_id=next((job for job in (run.job_id if run else "", *origins.jobs) if job), ""),
            logged_models=origins.logged_models,
            tables=tables_of(origins, run),
        )
        return origin, tuple(gaps)


def _check(request_id: str, client_request_id: str, endpoint: str) -> None:
    if bool(request_id) == bool(client_request_id):
        raise InvalidExplanation("give either request_id or client_request_id")
    if client_request_id and not endpoint:
        raise InvalidExplanation("client_request_id needs the endpoint, as it is its callers' own")


def _run_of(version: ModelVersionFacts | None, origins: Origins) -> str:
    if version is not None and version.run_id:
        return version.run_id
    return origins.runs[0] if origins.runs else ""


async def _told(part: str, asked: Awaitable[_Found], gaps: list[Gap]) -> _Found | None:
    """What another service tells, or None with the reason among the gaps."""
    try:
        async with asyncio.timeout(_READ_SECONDS):
            return await asked
    except TimeoutError:
        gaps.append(Gap(part, f"it could not be read within {_READ_SECONDS:g} s"))
    except TesseraError as error:
        reason = "it could not be read" if isinstance(error, Internal) else error.message
        gaps.append(Gap(part, reason))
    return None


async def _each(
    tables: Sequence[PayloadTable], ask: Callable[[PayloadTable], Awaitable[_Found]]
) -> list[_Found]:
    """What is told of each table, in order; few are asked at a time."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(table: PayloadTable) -> _Found:
        async with room:
            return await ask(table)

    tasks = [asyncio.create_task(one(table)) for table in tables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
