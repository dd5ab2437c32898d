"""What runs log, many times a second: bodies go from JSON to the domain without a message between.

Checks, limits and texts are those of `convert.batch_of` and of MLflow's server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from services.tracking.domain.batch import (
    MAX_PARAM_VALUE,
    MAX_TAG_VALUE,
    Batch,
    check_batch_limits,
    check_params_unique,
    check_run_tags,
)
from services.tracking.domain.keys import check_key
from services.tracking.domain.logged_model import ModelMetric
from services.tracking.domain.metrics import Point
from services.tracking.domain.run import RunChange
from services.tracking.errors import InvalidValue, ParamChanged
from services.tracking.handlers.cases import UseCases
from services.tracking.mlflow.calls import RawMethod
from services.tracking.mlflow.convert import RUN_NAME_TAG
from services.tracking.mlflow.messages import json_body, missing
from services.tracking.mlflow.values import (
    LAST_MILLI,
    float_of,
    integer_of,
    run_id_in,
    text_of,
    texts_of,
)
from tessera_kit.rpc.identity import Principal, current_principal

__all__ = ["WriteMethods"]

_DONE: Final = Response(b"{}", media_type="application/json")


class WriteMethods:
    """Answers the rpcs that log to runs.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._log = cases.log
        self._runs = cases.runs
        self._models = cases.models

    def methods(self) -> Mapping[str, RawMethod]:
        """Return who answers which rpc."""
        return {
            "MlflowService/logMetric": RawMethod(self._log_metric),
            "MlflowService/logParam": RawMethod(self._log_param),
            "MlflowService/setTag": RawMethod(self._set_tag),
            "MlflowService/logBatch": RawMethod(self._log_batch),
        }

    async def _log_metric(self, request: Request) -> Response:
        fields = await json_body(request)
        run_id = run_id_in(fields)
        point = _point(fields, "")
        principal = current_principal()
        await self._log.log(
            principal, Batch(run_id=run_id, principal=principal.name, points=(point,))
        )
        if fields.get("model_id"):
            await self._note_model_metrics(principal, run_id, [fields], [point])
        return _DONE

    async def _log_param(self, request: Request) -> Response:
        fields = await json_body(request)
        run_id = run_id_in(fields)
        params = check_params_unique([_pair(fields, "", MAX_PARAM_VALUE)], "")
        principal = current_principal()
        try:
            await self._log.log(
                principal, Batch(run_id=run_id, principal=principal.name, params=params)
            )
        except ParamChanged as error:
            raise _param_changed(error) from None
        return _DONE

    async def _set_tag(self, request: Request) -> Response:
        fields = await json_body(request)
        run_id = run_id_in(fields)
        tags = check_run_tags([_pair(fields, "", MAX_TAG_VALUE)], "")
        await self._write(run_id, tags=tags)
        return _DONE

    async def _log_batch(self, request: Request) -> Response:
        fields = await json_body(request)
        metrics = texts_of(fields, "metrics")
        params = texts_of(fields, "params")
        tags = texts_of(fields, "tags")
        check_batch_limits(
            metrics=len(metrics),
            params=len(params),
            tags=len(tags),
            size=len(await request.body()),
        )
        run_id = run_id_in(fields)
        points = _points(metrics)
        await self._write(
            run_id,
            points=points,
            params=check_params_unique(_pairs(params, "params", MAX_PARAM_VALUE)),
            tags=check_run_tags(_pairs(tags, "tags", MAX_TAG_VALUE)),
        )
        if any("model_id" in metric for metric in metrics):
            await self._note_model_metrics(current_principal(), run_id, metrics, points)
        return _DONE

    async def _note_model_metrics(
        self,
        principal: Principal,
        run_id: str,
        metrics: Sequence[Mapping[str, Any]],
        points: Sequence[Point],
    ) -> None:
        """Let models have the metrics that are theirs; the run has them already."""
        of_models: dict[str, list[ModelMetric]] = {}
        for fields, point in zip(metrics, points, strict=True):
            model_id = text_of(fields, "model_id")
            if model_id:
                name, digest = text_of(fields, "dataset_name"), text_of(fields, "dataset_digest")
                metric = ModelMetric(point, run_id, name, digest)
                of_models.setdefault(model_id, []).append(metric)
        for model_id, theirs in of_models.items():
            await self._models.log_metrics(principal, model_id, theirs)

    async def _write(
        self,
        run_id: str,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        principal = current_principal()
        batch = Batch(
            run_id=run_id,
            principal=principal.name,
            points=points,
            params=params or {},
            tags=tags or {},
        )
        await self._log.log(principal, batch)
        name = batch.tags.get(RUN_NAME_TAG)
        if name:
            await self._rename(principal, run_id, name)

    async def _rename(self, principal: Principal, run_id: str, name: str) -> None:
        # MLflow keeps a run's name in a tag too: to set one is to set the other.
        await self._runs.update(principal, run_id, RunChange(name=name))


def _points(metrics: Sequence[Mapping[str, Any]]) -> list[Point]:
    points: list[Point] = []
    checked: set[str] = set()
    for index, metric in enumerate(metrics):
        # The plain case first, a thousand times per request; the unusual goes the long way.
        key, value = metric.get("key"), metric.get("value")
        timestamp, step = metric.get("timestamp"), metric.get("step", 0)
        if (
            key in checked
            and type(value) is float
            and type(timestamp) is int
            and 0 <= timestamp <= LAST_MILLI
            and type(step) is int
            and -_BEYOND <= step < _BEYOND
        ):
            points.append(Point(key, step, timestamp * 1000, value))
        else:
            point = _point(metric, f"metrics[{index}].")
            checked.add(point.key)
            points.append(point)
    return points


_BEYOND: Final = 2**63


def _point(fields: Mapping[str, Any], path: str) -> Point:
    # MLflow's message calls a metric's key its name.
    key = check_key(_key(fields, path), "metric", f"{path}name")
    if fields.get("value") is None:
        raise missing(f"{path}value")
    if fields.get("timestamp") is None:
        raise missing(f"{path}timestamp")
    value = float_of(fields["value"], f"{path}value")
    timestamp = integer_of(fields["timestamp"], f"{path}timestamp")
    step = fields.get("step")
    if not 0 <= timestamp <= LAST_MILLI:
        raise InvalidValue(
            f"Invalid value {timestamp} for parameter '{path}timestamp' supplied: metric '{key}' "
            f"(value={value}). Timestamp must be a nonnegative long (64-bit integer) ",
            f"{path}timestamp",
        )
    return Point(
        key,
        0 if step is None else integer_of(step, f"{path}step"),
        timestamp * 1000,
        value,
    )


def _key(fields: Mapping[str, Any], path: str) -> str:
    key = text_of(fields, "key", f"{path}key")
    if not key:
        raise missing(f"{path}key")
    return key


def _pair(fields: Mapping[str, Any], path: str, limit: int) -> tuple[str, str]:
    # MLflow's server cuts what is longer rather than refuse it: training goes on.
    return _key(fields, path), text_of(fields, "value", f"{path}value")[:limit]


def _pairs(items: Sequence[Mapping[str, Any]], path: str, limit: int) -> list[tuple[str, str]]:
    return [_pair(one, f"{path}[{index}].", limit) for index, one in enumerate(items)]


def _param_changed(error: ParamChanged) -> ParamChanged:
    """Return the error in the words that MLflow has where one parameter is logged."""
    of = error.metadata
    return ParamChanged(
        f"Changing param values is not allowed. Param with key='{of['key']}' was already logged "
        f"with value='{of['old_value']}' for run ID='{of['run_id']}'. "
        f"Attempted logging new value '{of['new_value']}'.",
        metadata=of,
    )
