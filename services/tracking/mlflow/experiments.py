"""MLflow's experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from services.tracking.domain.experiment import MAX_TAG_VALUE, ExperimentChange
from services.tracking.domain.keys import check_key, check_text
from services.tracking.domain.run import DatasetUse
from services.tracking.errors import (
    ExperimentNotActive,
    ExperimentNotFound,
    StaleEtag,
    TagNotFound,
)
from services.tracking.handlers.cases import UseCases
from services.tracking.mlflow.calls import Answer, Call, Method
from services.tracking.mlflow.convert import experiment_fields, stage_of_view
from services.tracking.mlflow.errors import InvalidParameter

__all__ = ["ExperimentMethods", "page_bound"]

_MOST_RESULTS: Final = 50_000
_MOST_EXPERIMENTS: Final = 20
_ATTEMPTS: Final = 20


class ExperimentMethods:
    """Answers the rpcs of experiments.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._experiments = cases.experiments
        self._search = cases.search

    def methods(self) -> Mapping[str, Method]:
        """Return who answers which rpc."""
        by_id = ("experiment_id",)
        return {
            "MlflowService/createExperiment": Method(self._create, ("name",)),
            "MlflowService/getExperiment": Method(self._get, by_id),
            "MlflowService/getExperimentByName": Method(self._by_name, ("experiment_name",)),
            "MlflowService/searchExperiments": Method(self._find),
            "MlflowService/updateExperiment": Method(self._update, (*by_id, "new_name")),
            "MlflowService/deleteExperiment": Method(self._delete, by_id),
            "MlflowService/restoreExperiment": Method(self._restore, by_id),
            "MlflowService/searchDatasets": Method(self._datasets),
            "MlflowService/setExperimentTag": Method(self._set_tag, (*by_id, "key")),
            "MlflowService/deleteExperimentTag": Method(self._delete_tag, (*by_id, "key")),
        }

    async def _create(self, call: Call) -> Answer:
        asked = call.message
        if asked.artifact_location:
            raise InvalidParameter(
                "artifact_location: this server keeps the artifacts itself; leave it out"
            )
        created = await self._experiments.create(
            call.principal,
            name=asked.name,
            tags=dict(_checked_tag(tag.key, tag.value) for tag in asked.tags),
            request_id="",
        )
        return {"experiment_id": created.experiment_id}

    async def _get(self, call: Call) -> Answer:
        found = await self._experiments.get(
            call.principal, experiment_id=call.message.experiment_id
        )
        return {"experiment": experiment_fields(found)}

    async def _by_name(self, call: Call) -> Answer:
        found = await self._experiments.get(call.principal, name=call.message.experiment_name)
        return {"experiment": experiment_fields(found)}

    async def _find(self, call: Call) -> Answer:
        asked = call.message
        page = await self._search.experiments(
            call.principal,
            text=asked.filter,
            order_by=asked.order_by,
            stage=stage_of_view(asked.view_type),
            size=page_bound(call, default=1000),
            token=asked.page_token,
        )
        answer: dict[str, object] = {
            "experiments": [experiment_fields(one) for one in page.experiments]
        }
        return {**answer, "next_page_token": page.next_token} if page.next_token else answer

    async def _datasets(self, call: Call) -> Answer:
        experiment_ids = list(call.message.experiment_ids)
        if not experiment_ids:
            raise InvalidParameter(
                "SearchDatasets request must specify at least one experiment_id."
            )
        if len(experiment_ids) > _MOST_EXPERIMENTS:
            raise InvalidParameter(
                f"SearchDatasets request cannot specify more than {_MOST_EXPERIMENTS} "
                f"experiment_ids. Received {len(experiment_ids)} experiment_ids."
            )
        used = await self._search.datasets(call.principal, experiment_ids)
        return {"dataset_summaries": [_summary_fields(one) for one in used]}

    async def _update(self, call: Call) -> Answer:
        change = ExperimentChange(name=call.message.new_name)
        await self._experiments.update(call.principal, call.message.experiment_id, change)
        return None

    async def _delete(self, call: Call) -> Answer:
        with _no_experiment_in_that_stage(call.message.experiment_id):
            await self._experiments.delete(call.principal, call.message.experiment_id)
        return None

    async def _restore(self, call: Call) -> Answer:
        with _no_experiment_in_that_stage(call.message.experiment_id):
            await self._experiments.restore(call.principal, call.message.experiment_id)
        return None

    async def _set_tag(self, call: Call) -> Answer:
        key, value = _checked_tag(call.message.key, call.message.value)
        await self._change_tags(call, lambda tags: {**tags, key: value})
        return None

    async def _delete_tag(self, call: Call) -> Answer:
        key, experiment_id = call.message.key, call.message.experiment_id

        def without(tags: Mapping[str, str]) -> Mapping[str, str]:
            if key not in tags:
                raise TagNotFound(key, "experiment", experiment_id)
            return {name: value for name, value in tags.items() if name != key}

        await self._change_tags(call, without)
        return None

    async def _change_tags(
        self, call: Call, changed: Callable[[Mapping[str, str]], Mapping[str, str]]
    ) -> None:
        """Change the tags as they are; somebody else's change in between is kept."""
        experiment_id = call.message.experiment_id
        for attempt in range(_ATTEMPTS):
            found = await self._experiments.get(call.principal, experiment_id=experiment_id)
            change = ExperimentChange(tags=changed(found.tags), etag=found.etag)
            try:
                await self._experiments.update(call.principal, experiment_id, change)
            except StaleEtag:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return


def _summary_fields(used: DatasetUse) -> dict[str, str]:
    dataset = used.dataset
    fields = {
        "experiment_id": used.experiment_id,
        "name": dataset.name,
        "digest": dataset.digest,
    }
    return {**fields, "context": dataset.context} if dataset.context else fields


def _checked_tag(key: str, value: str) -> tuple[str, str]:
    """Return a tag unchanged; the message names the fields as MLflow's does."""
    return check_key(key, "tag", "key"), check_text(value, MAX_TAG_VALUE, "value", "value")


@contextmanager
def _no_experiment_in_that_stage(experiment_id: str) -> Iterator[None]:
    """Say that there is no such experiment, as MLflow does of one that was moved before."""
    try:
        yield
    except ExperimentNotActive:
        raise ExperimentNotFound(
            f"No Experiment with id={experiment_id} exists",
            metadata={"experiment_id": experiment_id},
        ) from None


def page_bound(call: Call, *, default: int, most: int = _MOST_RESULTS) -> int:
    """Return how many results a search may bring.

    Raises:
        InvalidParameter: The caller asked for none, or for more than the server brings.
    """
    if "max_results" not in call.fields and "maxResults" not in call.fields:
        return default
    size: int = call.message.max_results
    if size < 1:
        raise InvalidParameter(
            f"Invalid value {size} for parameter 'max_results' supplied. "
            "It must be a positive integer"
        )
    if size > most:
        raise InvalidParameter(
            f"Invalid value {size} for parameter 'max_results' supplied. It must be at most {most}"
        )
    return size
