"""MLflow's evaluation data sets and scorers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from services.tracking.domain.evaluation import (
    EvaluationDataset,
    EvaluationRecord,
    ScorerVersion,
)
from services.tracking.handlers.cases import UseCases
from services.tracking.mlflow.calls import Answer, Call, Method
from services.tracking.mlflow.convert import millis
from services.tracking.mlflow.errors import InvalidParameter, NotOffered
from services.tracking.mlflow.experiments import page_bound
from services.tracking.mlflow.protos import PREFIXES
from tessera_kit.http.routes import HttpRoute
from tessera_kit.http.status import json_response

__all__ = ["EvaluationMethods", "online_scoring_routes"]

_MOST_RESULTS: Final = 1000
_LARGEST_INT32: Final = 2**31 - 1


class EvaluationMethods:
    """Answers the rpcs of evaluation data sets and of scorers.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._datasets = cases.evaluation
        self._scorers = cases.scorers

    def methods(self) -> Mapping[str, Method]:
        """Return who answers which rpc."""
        by_id, scorer = ("dataset_id",), ("experiment_id", "name")
        return {
            "MlflowService/createDataset": Method(self._create, ("name",)),
            "MlflowService/getDataset": Method(self._get, by_id),
            "MlflowService/deleteDataset": Method(self._delete, by_id),
            "MlflowService/searchEvaluationDatasets": Method(self._find),
            "MlflowService/setDatasetTags": Method(self._set_tags, (*by_id, "tags")),
            "MlflowService/deleteDatasetTag": Method(self._delete_tag, (*by_id, "key")),
            "MlflowService/upsertDatasetRecords": Method(self._upsert, (*by_id, "records")),
            "MlflowService/getDatasetRecords": Method(self._records, by_id),
            "MlflowService/deleteDatasetRecords": Method(self._delete_records, by_id),
            "MlflowService/getDatasetExperimentIds": Method(self._experiments, by_id),
            "MlflowService/addDatasetToExperiments": Method(self._add_experiments, by_id),
            "MlflowService/removeDatasetFromExperiments": Method(self._remove_experiments, by_id),
            "MlflowService/registerScorer": Method(self._register, (*scorer, "serialized_scorer")),
            "MlflowService/listScorers": Method(self._list),
            "MlflowService/listScorerVersions": Method(self._versions, scorer),
            "MlflowService/getScorer": Method(self._scorer, scorer),
            "MlflowService/deleteScorer": Method(self._delete_scorer, scorer),
        }

    # Data sets

    async def _create(self, call: Call) -> Answer:
        asked = call.message
        made = await self._datasets.create(
            call.principal,
            name=asked.name,
            tags=_tags(asked.tags),
            experiment_ids=list(asked.experiment_ids),
        )
        return {"dataset": _dataset_fields(made)}

    async def _get(self, call: Call) -> Answer:
        found = await self._datasets.get(call.principal, call.message.dataset_id)
        return {"dataset": _dataset_fields(found)}

    async def _delete(self, call: Call) -> Answer:
        await self._datasets.delete(call.principal, call.message.dataset_id)
        return None

    async def _find(self, call: Call) -> Answer:
        asked = call.message
        page = await self._datasets.search(
            call.principal,
            experiment_ids=list(asked.experiment_ids),
            text=asked.filter_string,
            order_by=list(asked.order_by),
            size=min(page_bound(call, default=_MOST_RESULTS), _MOST_RESULTS),
            token=asked.page_token,
        )
        answer: dict[str, Any] = {"datasets": [_dataset_fields(one) for one in page.datasets]}
        return {**answer, "next_page_token": page.next_token} if page.next_token else answer

    async def _set_tags(self, call: Call) -> Answer:
        changed = await self._datasets.set_tags(
            call.principal, call.message.dataset_id, _tags(call.message.tags)
        )
        return {"dataset": _dataset_fields(changed)}

    async def _delete_tag(self, call: Call) -> Answer:
        await self._datasets.delete_tag(call.principal, call.message.dataset_id, call.message.key)
        return None

    async def _upsert(self, call: Call) -> Answer:
        records = _json(call.message.records, "records")
        if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
            raise InvalidParameter("records must be a JSON list of objects")
        done = await self._datasets.upsert(call.principal, call.message.dataset_id, records)
        return {"inserted_count": done.inserted, "updated_count": done.updated}

    async def _records(self, call: Call) -> Answer:
        page = await self._datasets.records(
            call.principal,
            call.message.dataset_id,
            size=min(page_bound(call, default=_MOST_RESULTS), _MOST_RESULTS),
            token=call.message.page_token,
        )
        answer = {"records": json.dumps([_record_fields(one) for one in page.records])}
        return {**answer, "next_page_token": page.next_token} if page.next_token else answer

    async def _delete_records(self, call: Call) -> Answer:
        deleted = await self._datasets.delete_records(
            call.principal, call.message.dataset_id, list(call.message.dataset_record_ids)
        )
        return {"deleted_count": deleted}

    async def _experiments(self, call: Call) -> Answer:
        found = await self._datasets.get(call.principal, call.message.dataset_id)
        return {"experiment_ids": list(found.experiment_ids)}

    async def _add_experiments(self, call: Call) -> Answer:
        changed = await self._datasets.add_experiments(
            call.principal, call.message.dataset_id, list(call.message.experiment_ids)
        )
        return {"dataset": _dataset_fields(changed)}

    async def _remove_experiments(self, call: Call) -> Answer:
        changed = await self._datasets.remove_experiments(
            call.principal, call.message.dataset_id, list(call.message.experiment_ids)
        )
        return {"dataset": _dataset_fields(changed)}

    # Scorers

    async def _register(self, call: Call) -> Answer:
        asked = call.message
        made = await self._scorers.register(
            call.principal, asked.experiment_id, asked.name, asked.serialized_scorer
        )
        return {
            "version": made.version,
            "scorer_id": made.scorer_id,
            "experiment_id": made.experiment_id,
            "name": made.name,
            "serialized_scorer": made.serialized,
            "creation_time": millis(made.created_at),
        }

    async def _list(self, call: Call) -> Answer:
        asked = call.message
        experiments = {*asked.experiment_ids, asked.experiment_id} - {""}
        found = await self._scorers.latest(call.principal, experiments)
        return {"scorers": [_scorer_fields(one) for one in found]}

    async def _versions(self, call: Call) -> Answer:
        asked = call.message
        found = await self._scorers.versions(call.principal, asked.experiment_id, asked.name)
        return {"scorers": [_scorer_fields(one) for one in found]}

    async def _scorer(self, call: Call) -> Answer:
        asked = call.message
        found = await self._scorers.get(
            call.principal, asked.experiment_id, asked.name, _version(asked)
        )
        return {"scorer": _scorer_fields(found)}

    async def _delete_scorer(self, call: Call) -> Answer:
        asked = call.message
        await self._scorers.delete(call.principal, asked.experiment_id, asked.name, _version(asked))
        return None


def online_scoring_routes() -> Sequence[HttpRoute]:
    """Return the routes of scoring that runs by itself: there is none, and clients ask which."""
    answers = (
        ("GET", "online-configs", _no_online_configs, "mlflow.Server/onlineScoringConfigs"),
        ("PUT", "online-config", _refuse_online_config, "mlflow.Server/onlineScoringConfig"),
    )
    return [
        HttpRoute(
            method,
            f"{prefix}/3.0/mlflow/scorers/{path}",
            endpoint,
            name,
        )
        for prefix in PREFIXES
        for method, path, endpoint, name in answers
    ]


async def _no_online_configs(request: Request) -> Response:
    return json_response({"configs": []})


async def _refuse_online_config(request: Request) -> Response:
    raise NotOffered("MlflowService/upsertOnlineScoringConfig")


def _version(asked: Any) -> int | None:
    return asked.version if asked.HasField("version") else None


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        raise InvalidParameter(f"{name} is not valid JSON") from None


def _tags(text: str) -> dict[str, str]:
    tags = _json(text, "tags")
    if tags is not None and not isinstance(tags, dict):
        raise InvalidParameter("tags must be a JSON object")
    return {key: str(value) for key, value in (tags or {}).items() if value is not None}


def _dataset_fields(dataset: EvaluationDataset) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "dataset_id": dataset.dataset_id,
        "name": dataset.name,
        "tags": json.dumps(dict(dataset.tags)),
        "digest": dataset.digest,
        "created_time": millis(dataset.created_at),
        "last_update_time": millis(dataset.updated_at),
        "experiment_ids": list(dataset.experiment_ids),
    }
    if dataset.schema is not None:
        fields["schema"] = json.dumps(dataset.schema)
    if dataset.records:
        fields["profile"] = json.dumps({"num_records": dataset.records})
    for name, value in (
        ("created_by", dataset.created_by),
        ("last_updated_by", dataset.updated_by),
    ):
        if value is not None:
            fields[name] = value
    return fields


def _record_fields(record: EvaluationRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "dataset_record_id": record.record_id,
        "dataset_id": record.dataset_id,
        "inputs": record.inputs,
        "tags": dict(record.tags),
        "created_time": millis(record.created_at),
        "last_update_time": millis(record.updated_at),
    }
    source = record.source or {}
    data = source.get("source_data") or {}
    optional = {
        "outputs": record.outputs,
        "expectations": record.expectations,
        "source": record.source,
        "source_type": source.get("source_type"),
        "source_id": data.get("trace_id") or data.get("source_id"),
        "created_by": record.created_by,
        "last_updated_by": record.updated_by,
    }
    return {**fields, **{name: one for name, one in optional.items() if one is not None}}


def _scorer_fields(scorer: ScorerVersion) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "scorer_name": scorer.name,
        "scorer_version": scorer.version,
        "serialized_scorer": scorer.serialized,
        "creation_time": millis(scorer.created_at),
        "scorer_id": scorer.scorer_id,
    }
    # MLflow's message has 32 bits for the experiment here: only such ids fit.
    number = scorer.experiment_id
    if number.isascii() and number.isdecimal() and int(number) <= _LARGEST_INT32:
        fields["experiment_id"] = int(number)
    return fields
