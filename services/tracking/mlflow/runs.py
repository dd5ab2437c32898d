"""MLflow's runs: their life, searches, and what was logged to them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from services.tracking.convert.messages import point_at, point_position
from services.tracking.domain.batch import MAX_TAG_VALUE, Batch, check_run_tags
from services.tracking.domain.metrics import Point
from services.tracking.domain.run import RunChange, RunStatus
from services.tracking.errors import RunNotActive
from services.tracking.handlers.cases import UseCases
from services.tracking.handlers.page_tokens import foreign_token
from services.tracking.mlflow.calls import Answer, Call, Method
from services.tracking.mlflow.convert import (
    RUN_NAME_TAG,
    metric_fields,
    run_fields,
    run_info_fields,
    stage_of_view,
)
from services.tracking.mlflow.errors import InvalidParameter
from services.tracking.mlflow.experiments import page_bound
from services.tracking.mlflow.messages import see_docs
from services.tracking.mlflow.protos import protos
from services.tracking.mlflow.values import micros_of_millis, run_id_of
from tessera_kit.rpc.pages import decode_page_token, encode_page_token

__all__ = ["RunMethods"]

_HISTORY_PAGE: Final = 25_000
_DEFAULT_RUNS: Final = 1000
_MOST_RUNS: Final = 50_000
_MOST_BULK_RUNS: Final = 100
_MOST_BULK_POINTS: Final = 2500


class RunMethods:
    """Answers the rpcs of runs that read them or change their life.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._runs = cases.runs
        self._log = cases.log
        self._search = cases.search
        self._models = cases.models

    def methods(self) -> Mapping[str, Method]:
        """Return who answers which rpc."""
        by_id = ("run_id",)
        return {
            "MlflowService/createRun": Method(self._create),
            "MlflowService/updateRun": Method(self._update, by_id),
            "MlflowService/deleteRun": Method(self._delete, by_id),
            "MlflowService/restoreRun": Method(self._restore, by_id),
            "MlflowService/getRun": Method(self._get, by_id),
            "MlflowService/searchRuns": Method(self._find),
            "MlflowService/deleteTag": Method(self._delete_tag, (*by_id, "key")),
            "MlflowService/getMetricHistory": Method(self._history, (*by_id, "metric_key")),
            "MlflowService/getMetricHistoryBulkInterval": Method(
                self._bulk_interval, ("run_ids", "metric_key")
            ),
        }

    async def _create(self, call: Call) -> Answer:
        asked = call.message
        tags = check_run_tags([(tag.key, tag.value[:MAX_TAG_VALUE]) for tag in asked.tags])
        tagged = tags.get(RUN_NAME_TAG, "")
        if asked.run_name and tagged and asked.run_name != tagged:
            raise InvalidParameter(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with "
                f"different values (run_name='{asked.run_name}', mlflow.runName='{tagged}')."
            )
        started_at = None
        if asked.HasField("start_time"):
            started_at = micros_of_millis(asked.start_time, "start_time")
        run = await self._runs.create(
            call.principal,
            experiment_id=asked.experiment_id or "0",
            name=asked.run_name or tagged,
            started_at=started_at,
            tags=tags,
        )
        return {"run": run_fields(run)}

    async def _update(self, call: Call) -> Answer:
        asked = call.message
        run_id = run_id_of(asked)
        status, ended_at = None, None
        if asked.HasField("status"):
            status = RunStatus(protos("service_pb2").RunStatus.Name(asked.status))
        # A run that is under way has no end: what a client says of it then is not kept.
        if asked.HasField("end_time") and (status is None or status.is_final):
            ended_at = micros_of_millis(asked.end_time, "end_time")
        name = asked.run_name if asked.HasField("run_name") and asked.run_name else None
        change = RunChange(name=name, status=status, ended_at=ended_at)
        if change == RunChange():
            run = await self._runs.get(call.principal, run_id)
            return {"run_info": run_info_fields(run.info)}
        run = await self._runs.update(call.principal, run_id, change)
        if name is not None:
            tags = {RUN_NAME_TAG: name}
            batch = Batch(run_id=run_id, principal=call.principal.name, tags=tags)
            await self._log.log(call.principal, batch)
        return {"run_info": run_info_fields(run.info)}

    async def _delete(self, call: Call) -> Answer:
        # A run that is deleted already is none of the caller's trouble, as in MLflow.
        with suppress(RunNotActive):
            await self._runs.delete(call.principal, call.message.run_id)
        return None

    async def _restore(self, call: Call) -> Answer:
        with suppress(RunNotActive):
            await self._runs.restore(call.principal, call.message.run_id)
        return None

    async def _get(self, call: Call) -> Answer:
        run = await self._runs.get(call.principal, run_id_of(call.message))
        links = await self._models.links_of([run.info.run_id])
        return {"run": run_fields(run, links.get(run.info.run_id))}

    async def _find(self, call: Call) -> Answer:
        asked = call.message
        page = await self._search.runs(
            call.principal,
            experiment_ids=list(asked.experiment_ids),
            text=asked.filter,
            order_by=asked.order_by,
            stage=stage_of_view(asked.run_view_type),
            size=page_bound(call, default=_DEFAULT_RUNS, most=_MOST_RUNS),
            token=asked.page_token,
        )
        links = await self._models.links_of(run.info.run_id for run in page.runs)
        answer: dict[str, Any] = {
            "runs": [run_fields(run, links.get(run.info.run_id)) for run in page.runs]
        }
        return {**answer, "next_page_token": page.next_token} if page.next_token else answer

    async def _delete_tag(self, call: Call) -> Answer:
        await self._runs.remove_tag(call.principal, call.message.run_id, call.message.key)
        return None

    async def _history(self, call: Call) -> Answer:
        asked = call.message
        run_id, key = run_id_of(asked), asked.metric_key
        size = _HISTORY_PAGE
        if asked.HasField("max_results"):
            if asked.max_results <= 0:
                raise InvalidParameter(
                    f"Invalid value {asked.max_results} for parameter 'max_results' supplied. "
                    "It must be a positive integer."
                )
            size = min(asked.max_results, _HISTORY_PAGE)
        scope = f"history:{run_id}:{key}"
        points = await self._runs.history(
            call.principal,
            run_id,
            key,
            after=_point_before(asked.page_token, scope, key),
            limit=size + 1,
        )
        answer: dict[str, Any] = {"metrics": [metric_fields(point) for point in points[:size]]}
        if len(points) > size:
            answer["next_page_token"] = encode_page_token(point_position(points[size - 1]), scope)
        return answer

    async def _bulk_interval(self, call: Call) -> Answer:
        asked = call.message
        run_ids, most, steps = _interval(call)
        metrics: list[dict[str, Any]] = []
        for run_id in run_ids:
            points = await self._all_points(call, run_id, asked.metric_key, steps)
            metrics += [
                {**metric_fields(points[at]), "run_id": run_id} for at in _evenly(len(points), most)
            ]
        return {"metrics": metrics}

    async def _all_points(
        self, call: Call, run_id: str, key: str, steps: tuple[int, int] | None
    ) -> list[Point]:
        found: list[Point] = []
        after: Point | None = None
        if steps is not None:
            # Behind every point of the step before.
            after = Point(key, steps[0] - 1, 2**63 - 1, float("inf"))
        while True:
            page = await self._runs.history(
                call.principal, run_id, key, after=after, limit=_HISTORY_PAGE
            )
            found += page
            if len(page) < _HISTORY_PAGE or (steps is not None and page[-1].step > steps[1]):
                break
            after = page[-1]
        if steps is None:
            return found
        return [point for point in found if steps[0] <= point.step <= steps[1]]


def _interval(call: Call) -> tuple[list[str], int, tuple[int, int] | None]:
    """Return the runs, the most points of each, and the first and last step."""
    asked = call.message
    run_ids = list(asked.run_ids)
    if len(run_ids) > _MOST_BULK_RUNS:
        raise InvalidParameter(
            see_docs(
                "GetMetricHistoryBulkInterval request must specify at most "
                f"{_MOST_BULK_RUNS} run_ids. Received {len(run_ids)} run_ids."
            )
        )
    most = asked.max_results if asked.HasField("max_results") else _MOST_BULK_POINTS
    if not 1 <= most <= _MOST_BULK_POINTS:
        raise InvalidParameter(see_docs(f"max_results must be between 1 and {_MOST_BULK_POINTS}."))
    first, last = asked.HasField("start_step"), asked.HasField("end_step")
    if first != last:
        raise InvalidParameter(
            "If either start step or end step are specified, both must be specified."
        )
    if not first:
        return run_ids, most, None
    if asked.start_step > asked.end_step:
        raise InvalidParameter(
            "end_step must be greater than start_step. "
            f"Found start_step={asked.start_step} and end_step={asked.end_step}."
        )
    return run_ids, most, (asked.start_step, asked.end_step)


def _evenly(total: int, most: int) -> list[int]:
    """Return at most `most` evenly spaced indices below `total`, the first and last included."""
    if total <= most:
        return list(range(total))
    if most == 1:
        return [total - 1]
    step = (total - 1) / (most - 1)
    return sorted({round(at * step) for at in range(most)})


def _point_before(token: str, scope: str, key: str) -> Point | None:
    position = decode_page_token(token, scope)
    if not position:
        return None
    try:
        return point_at(position, key)
    except ValueError:
        raise foreign_token() from None
