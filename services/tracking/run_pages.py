"""Pages of runs for browsers, at the HTTP door: one run, or several side by side.

The same page as the command line's `runs page`: one document that needs nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from services.tracking.convert import messages
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.errors import InvalidValue
from services.tracking.handlers.cases import UseCases
from services.tracking.mlflow.trace_fields import trace_fields
from services.tracking.ports.models import RunLineage
from tessera.catalog.v1.lineage_service_pb2 import LineageEdge
from tessera.pages.front import front_page, front_policy
from tessera.pages.gather import MOST_RUNS, Buckets, gather, several
from tessera.pages.run_report import Report, page, page_policy
from tessera.tracking.v1 import tracking_pb2
from tessera_kit.errors import NotFound, TesseraError, Unavailable
from tessera_kit.http.identity import request_token
from tessera_kit.http.routes import HttpRoute
from tessera_kit.http.status import error_headers, http_status_of, public_message
from tessera_kit.rpc.identity import Principal, current_principal

__all__ = ["page_routes"]

_AT_ONCE: Final = 4
_MOST_BUCKETS: Final = 20_000
_LEVEL: Final = 1000
_LONGEST_ID: Final = 64
_NEWEST: Final = 50
_SAFE: Final = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def page_routes(cases: UseCases, lineage: RunLineage | None) -> Sequence[HttpRoute]:
    """Return the routes of pages.

    Args:
        cases: Who knows the runs.
        lineage: The catalog's graph; pages go without it when None.
    """
    pages = _Pages(cases, lineage)
    return [
        HttpRoute(
            "GET", "/pages/runs/{run_id}", pages.one, "tessera.Pages/run", render=_error_page
        ),
        HttpRoute("GET", "/pages/runs", pages.many, "tessera.Pages/runs", render=_error_page),
        HttpRoute("GET", "/", _Front().answer, "tessera.Pages/front", open=True),
    ]


class _Front:
    """The page at the root, made once."""

    def __init__(self) -> None:
        self._page = front_page()
        self._headers = {
            "content-security-policy": f"{front_policy()}; frame-ancestors 'none'",
            **_SAFE,
        }

    async def answer(self, request: Request) -> Response:
        """Answer with the page."""
        return HTMLResponse(self._page, headers=self._headers)


class _Pages:
    def __init__(self, cases: UseCases, lineage: RunLineage | None) -> None:
        self._cases = cases
        self._lineage = lineage
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._headers = {
            "content-security-policy": f"{page_policy()}; frame-ancestors 'none'",
            **_SAFE,
            # What it shows may change, and belongs to whom may read it: ask each time.
            "cache-control": "private, no-cache",
            "vary": "authorization",
        }

    async def one(self, request: Request) -> Response:
        """Answer with the page of the run in the path."""
        return await self._answer(request, [request.path_params["run_id"]])

    async def many(self, request: Request) -> Response:
        """Answer with a page of the runs that the query names: `?run=...&run=...`.

        `?experiment=...` is those of an experiment, the newest 50; `filter` and `order_by` choose.
        """
        asked = request.query_params
        if "experiment" in asked:
            return await self._answer(request, await self._runs_of(asked["experiment"], request))
        run_ids = list(dict.fromkeys(asked.getlist("run")))
        if not 1 <= len(run_ids) <= MOST_RUNS:
            raise InvalidValue(
                f"name 1 to {MOST_RUNS} runs, as in /pages/runs?run=ID&run=ID, or an experiment, "
                "as in /pages/runs?experiment=ID",
                "run",
            )
        return await self._answer(request, run_ids)

    async def _runs_of(self, experiment_id: str, request: Request) -> Sequence[str]:
        """Return which runs of an experiment are shown."""
        principal = current_principal()
        found = await self._cases.experiments.get(principal, experiment_id=experiment_id)
        runs = await self._cases.search.runs(
            principal,
            experiment_ids=[found.experiment_id],
            text=request.query_params.get("filter", ""),
            order_by=request.query_params.getlist("order_by"),
            stage=LifecycleStage.ACTIVE,
            size=_NEWEST,
            token="",
        )
        if not runs.runs:
            raise NotFound(f"the experiment {found.name} has no such runs yet")
        return [one.info.run_id for one in runs.runs]

    async def _answer(self, request: Request, run_ids: Sequence[str]) -> Response:
        if any(len(one) > _LONGEST_ID for one in run_ids):
            raise InvalidValue(f"ids of runs have {_LONGEST_ID} characters at most", "run")
        principal = current_principal()
        token = request_token(request.headers.get("authorization"))
        source = _Source(self._cases, self._lineage, principal, token)
        async with self._slots:
            runs = await several(run_ids, source.run)
            html, etag = await asyncio.to_thread(_rendered, await gather(source, runs))
        headers = {**self._headers, "etag": etag}
        known = request.headers.get("if-none-match", "")
        if etag in {one.strip().removeprefix("W/") for one in known.split(",")}:
            return Response(status_code=304, headers=headers)
        return Response(html, headers=headers, media_type="text/html")


def _rendered(report: Report) -> tuple[str, str]:
    """Return a page and its etag, which is the same while it shows the same."""
    html = page(report)
    timeless = page(replace(report, made_at=_EPOCH))
    digest = hashlib.sha256(timeless.encode("utf-8", "surrogatepass")).hexdigest()
    return html, f'"{digest[:32]}"'


def _error_page(error: TesseraError, request: Request) -> Response:
    return PlainTextResponse(
        f"{public_message(error)}\n", http_status_of(type(error)), headers=error_headers(error)
    )


class _Source:
    """What a page shows, with the rights of who asks for it."""

    def __init__(
        self, cases: UseCases, lineage: RunLineage | None, principal: Principal, token: str
    ) -> None:
        self._cases = cases
        self._lineage = lineage
        self._principal = principal
        self._token = token

    async def run(self, run_id: str) -> tracking_pb2.Run:
        """Return a run."""
        return messages.run_message(await self._cases.runs.get(self._principal, run_id))

    async def experiment_name(self, experiment_id: str) -> str:
        """Return an experiment's name."""
        found = await self._cases.experiments.get(self._principal, experiment_id=experiment_id)
        return found.name

    async def curves(self, run_id: str, keys: Sequence[str], buckets: int) -> Mapping[str, Buckets]:
        """Return metrics of a run in at most so many buckets each."""
        step = max(1, _MOST_BUCKETS // buckets)
        curves: dict[str, Buckets] = {}
        for start in range(0, len(keys), step):
            found = await self._cases.metrics.curves(
                self._principal, run_id, keys[start : start + step], buckets
            )
            for key, curve in found.items():
                curves[key] = [messages.bucket_message(one) for one in curve]
        return curves

    async def artifacts(self, run_id: str, path: str) -> Sequence[tracking_pb2.ArtifactInfo]:
        """Return files and folders directly below a path: the first 1,000."""
        level = await self._cases.artifacts.children(
            self._principal, run_id=run_id, path=path, limit=_LEVEL, token=""
        )
        return [messages.artifact_message(one) for one in level.artifacts]

    async def lineage(self, run_id: str) -> Sequence[LineageEdge]:
        """Return the steps from and to a run."""
        if self._lineage is None:
            raise Unavailable("this server has no catalog")
        return await self._lineage.around(self._token, run_id)

    async def traces(
        self, experiment_id: str, run_id: str, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """Return the newest traces of a run with their spans."""
        found = await self._cases.trace_search.traces(
            self._principal,
            experiment_ids=[experiment_id],
            text=f"attributes.run_id = '{run_id}'",
            order_by=["timestamp_ms DESC"],
            size=limit,
            token="",
        )
        whole = await self._cases.traces.with_spans(found.traces)
        return [trace_fields(one) for one in whole]
