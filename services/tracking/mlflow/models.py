"""MLflow's logged models, and what runs tell of models and data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from services.tracking.domain.batch import Batch
from services.tracking.domain.logged_model import (
    LoggedModel,
    ModelLink,
    ModelStatus,
    RunDataset,
    check_model_pairs,
)
from services.tracking.domain.run import DatasetInput
from services.tracking.handlers.cases import UseCases
from services.tracking.handlers.page_tokens import foreign_token
from services.tracking.mlflow.artifacts import model_artifact_uri
from services.tracking.mlflow.calls import Answer, Call, Method
from services.tracking.mlflow.convert import metric_fields, millis, tag_fields
from services.tracking.mlflow.errors import InvalidParameter
from services.tracking.mlflow.experiments import page_bound
from tessera_kit.rpc.pages import decode_page_token, encode_page_token

__all__ = ["ModelMethods"]

_CONTEXT_TAG: Final = "mlflow.data.context"
_HISTORY_TAG: Final = "mlflow.log-model.history"
_STATUSES: Final = {
    1: ModelStatus.PENDING,
    2: ModelStatus.READY,
    3: ModelStatus.UPLOAD_FAILED,
}
_NAMES: Final = {status: f"LOGGED_MODEL_{status}" for status in ModelStatus}
_DEFAULT_MODELS: Final = 100
_MOST_DATASETS: Final = 1000
_MOST_PROFILE: Final = (1 << 24) - 1
_MOST_TEXT: Final = 65_535


class ModelMethods:
    """Answers the rpcs of logged models, inputs and outputs.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._models = cases.models
        self._runs = cases.runs
        self._log = cases.log

    def methods(self) -> Mapping[str, Method]:
        """Return who answers which rpc."""
        by_id = ("model_id",)
        return {
            "MlflowService/createLoggedModel": Method(self._create, ("experiment_id",)),
            "MlflowService/finalizeLoggedModel": Method(self._finalize, (*by_id, "status")),
            "MlflowService/getLoggedModel": Method(self._get, by_id),
            "MlflowService/deleteLoggedModel": Method(self._delete, by_id),
            "MlflowService/searchLoggedModels": Method(self._find, ("experiment_ids",)),
            "MlflowService/setLoggedModelTags": Method(self._set_tags, by_id),
            "MlflowService/deleteLoggedModelTag": Method(self._delete_tag, (*by_id, "tag_key")),
            "MlflowService/LogLoggedModelParams": Method(self._log_params, by_id),
            "MlflowService/logModel": Method(self._log_model, ("run_id", "model_json")),
            "MlflowService/logInputs": Method(self._log_inputs, ("run_id",)),
            "MlflowService/logOutputs": Method(self._log_outputs, ("run_id", "models")),
        }

    async def _create(self, call: Call) -> Answer:
        asked = call.message
        model = await self._models.create(
            call.principal,
            experiment_id=asked.experiment_id,
            name=asked.name,
            model_type=asked.model_type,
            source_run_id=asked.source_run_id,
            params=check_model_pairs([(one.key, one.value) for one in asked.params], "param"),
            tags=check_model_pairs([(one.key, one.value) for one in asked.tags], "tag"),
        )
        return {"model": _fields(model)}

    async def _finalize(self, call: Call) -> Answer:
        status = _STATUSES.get(call.message.status)
        if status is None:
            raise InvalidParameter(f"Invalid model status: {call.message.status}")
        model = await self._models.finalize(call.principal, call.message.model_id, status)
        return {"model": _fields(model)}

    async def _get(self, call: Call) -> Answer:
        deleted = call.request.query_params.get("allow_deleted", "false").lower() == "true"
        model = await self._models.get(call.principal, call.message.model_id, deleted=deleted)
        return {"model": _fields(model)}

    async def _delete(self, call: Call) -> Answer:
        await self._models.delete(call.principal, call.message.model_id)
        return None

    async def _set_tags(self, call: Call) -> Answer:
        tags = check_model_pairs([(one.key, one.value) for one in call.message.tags], "tag")
        model = await self._models.set_tags(call.principal, call.message.model_id, tags)
        return {"model": _fields(model)}

    async def _delete_tag(self, call: Call) -> Answer:
        await self._models.delete_tag(call.principal, call.message.model_id, call.message.tag_key)
        return None

    async def _log_params(self, call: Call) -> Answer:
        params = check_model_pairs([(one.key, one.value) for one in call.message.params], "param")
        await self._models.log_params(call.principal, call.message.model_id, params)
        return None

    async def _find(self, call: Call) -> Answer:
        asked = call.message
        datasets = [(one.dataset_name, one.dataset_digest) for one in asked.datasets]
        if not all(name for name, _ in datasets):
            raise InvalidParameter("`dataset_name` in the `datasets` clause must be specified.")
        order = [f"{key.field_name} {'ASC' if key.ascending else 'DESC'}" for key in asked.order_by]
        size = page_bound(call, default=_DEFAULT_MODELS)
        found = await self._models.find(
            call.principal,
            experiment_ids=list(asked.experiment_ids),
            text=asked.filter,
            order_by=order,
            datasets=datasets,
        )
        scope = _scope(sorted(asked.experiment_ids), asked.filter, order, datasets)
        start = _start(found, asked.page_token, scope)
        page = found[start : start + size]
        answer: dict[str, Any] = {"models": [_fields(model) for model in page]}
        if start + size < len(found):
            answer["next_page_token"] = encode_page_token({"i": page[-1].model_id}, scope)
        return answer

    async def _log_model(self, call: Call) -> Answer:
        """Note a model that a run holds itself, as clients before logged models do."""
        asked = call.message
        try:
            model = orjson.loads(asked.model_json)
        except orjson.JSONDecodeError:
            model = None
        if not isinstance(model, dict):
            raise InvalidParameter("Malformed model info. It is not valid JSON.")
        missing = {"artifact_path", "flavors", "utc_time_created", "run_id"} - model.keys()
        if missing:
            raise InvalidParameter(
                f"Model json is missing mandatory fields: {', '.join(sorted(missing))}"
            )
        run = await self._runs.get(call.principal, asked.run_id)
        history = orjson.loads(run.tags.get(_HISTORY_TAG, "[]"))
        told = {name: model.get(name) for name in _LOGGED_FACTS if name in model}
        history = [one for one in history if one != told] + [told]
        tags = {_HISTORY_TAG: orjson.dumps(history).decode()}
        batch = Batch(run_id=asked.run_id, principal=call.principal.name, tags=tags)
        await self._log.log(call.principal, batch)
        return None

    async def _log_inputs(self, call: Call) -> Answer:
        asked = call.message
        datasets = [_dataset(one, index) for index, one in enumerate(asked.datasets)]
        if len(datasets) > _MOST_DATASETS:
            raise InvalidParameter(
                f"A request can name at most {_MOST_DATASETS} datasets. Got {len(datasets)}."
            )
        inputs = tuple(DatasetInput(one.name, one.digest, one.context) for one in datasets)
        batch = Batch(run_id=asked.run_id, principal=call.principal.name, inputs=inputs)
        await self._log.log(call.principal, batch)
        if datasets:
            await self._models.describe(call.principal, asked.run_id, datasets)
        links = [ModelLink(one.model_id, is_output=False) for one in asked.models]
        if links:
            await self._models.link(call.principal, asked.run_id, links)
        return None

    async def _log_outputs(self, call: Call) -> Answer:
        asked = call.message
        links = [ModelLink(one.model_id, is_output=True, step=one.step) for one in asked.models]
        await self._models.link(call.principal, asked.run_id, links)
        return None


_LOGGED_FACTS: Final = (
    "run_id",
    "artifact_path",
    "utc_time_created",
    "flavors",
    "model_uuid",
    "mlflow_version",
)


def _fields(model: LoggedModel) -> dict[str, Any]:
    info: dict[str, Any] = {
        "model_id": model.model_id,
        "experiment_id": model.experiment_id,
        "name": model.name,
        "creation_timestamp_ms": millis(model.created_at),
        "last_updated_timestamp_ms": millis(model.updated_at),
        "artifact_uri": model_artifact_uri(model.experiment_id, model.model_id),
        "status": _NAMES[model.status],
        "tags": tag_fields(model.tags),
    }
    if model.model_type:
        info["model_type"] = model.model_type
    if model.source_run_id:
        info["source_run_id"] = model.source_run_id
    metrics = []
    for one in model.metrics:
        metric = {**metric_fields(one.point), "model_id": model.model_id}
        if one.run_id:
            metric["run_id"] = one.run_id
        if one.dataset_name:
            metric |= {"dataset_name": one.dataset_name, "dataset_digest": one.dataset_digest}
        metrics.append(metric)
    params = [{"key": key, "value": value} for key, value in model.params.items()]
    return {"info": info, "data": {"params": params, "metrics": metrics}}


def _dataset(asked: Any, index: int) -> RunDataset:
    dataset, path = asked.dataset, f"datasets[{index}]"
    for name in ("name", "digest", "source_type", "source"):
        if not getattr(dataset, name):
            raise InvalidParameter(f"Missing value for required parameter '{path}.{name}'.")
    for name, most in (
        ("name", 500),
        ("digest", 36),
        ("source_type", 500),
        ("source", _MOST_TEXT),
        ("schema", _MOST_TEXT * 16),
        ("profile", _MOST_PROFILE),
    ):
        length = len(getattr(dataset, name))
        if length > most:
            raise InvalidParameter(
                f"'{path}.{name}' exceeds the maximum length of {most} characters: {length}"
            )
    tags = check_model_pairs([(tag.key, tag.value) for tag in asked.tags], "tag")
    return RunDataset(
        name=dataset.name,
        digest=dataset.digest,
        context=tags.get(_CONTEXT_TAG, "")[:64],
        source_type=dataset.source_type,
        source=dataset.source,
        schema=dataset.schema,
        profile=dataset.profile,
        tags=tags,
    )


def _scope(*parts: object) -> str:
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


def _start(found: Sequence[LoggedModel], token: str, scope: str) -> int:
    position = decode_page_token(token, scope)
    if not position:
        return 0
    for index, model in enumerate(found):
        if model.model_id == position.get("i"):
            return index + 1
    raise foreign_token()
