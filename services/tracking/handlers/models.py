"""Use cases of logged models, and of what runs tell of models and data sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.tracking.convert.events import model_logged, models_linked, version_made
from services.tracking.domain.lifecycle import LifecycleStage, micros_of
from services.tracking.domain.logged_model import (
    LoggedModel,
    ModelLink,
    ModelMetric,
    ModelStatus,
    RunDataset,
    check_model_name,
    with_metrics,
)
from services.tracking.domain.naming import random_run_name
from services.tracking.domain.search.evaluate import matches
from services.tracking.domain.search.model_fields import in_order, model_values
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import LOGGED_MODELS
from services.tracking.errors import (
    ExperimentNotActive,
    ExperimentNotFound,
    LoggedModelNotFound,
    ParamChanged,
    RunNotFound,
    TagNotFound,
)
from services.tracking.handlers.access import Access
from services.tracking.ports.store import Store
from tessera_kit.bus.event import Event
from tessera_kit.clock import Clock
from tessera_kit.errors import PermissionDenied
from tessera_kit.ids import new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["LoggedModels", "RunLinks"]


@dataclass(frozen=True, slots=True)
class RunLinks:
    """What one run tells of models and data sets."""

    models: Sequence[ModelLink] = ()
    datasets: Sequence[RunDataset] = ()


class LoggedModels:
    """Creates, reads, changes and finds logged models.

    Args:
        store: Where they are kept.
        access: Who may do what: a model is its experiment's.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, access: Access, clock: Clock) -> None:
        self._store = store
        self._access = access
        self._clock = clock

    async def create(
        self,
        principal: Principal,
        *,
        experiment_id: str,
        name: str,
        model_type: str = "",
        source_run_id: str = "",
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> LoggedModel:
        """Create a model whose files are still to come.

        Raises:
            ExperimentNotFound, RunNotFound: There is no such thing.
            ExperimentNotActive: It was deleted.
            PermissionDenied: The caller may not write to the experiment.
            InvalidValue: The name breaks the rules.
        """
        check_model_name(name)
        async with self._store.read() as view:
            experiment = await view.experiments.get(experiment_id)
            run = await view.runs.info(source_run_id) if source_run_id else None
        if experiment is None:
            raise ExperimentNotFound(f"No Experiment with id={experiment_id} exists")
        if source_run_id and (run is None or run.experiment_id != experiment_id):
            raise RunNotFound(source_run_id)
        await self._access.write(principal, experiment_id)
        if experiment.stage is not LifecycleStage.ACTIVE:
            raise ExperimentNotActive(experiment_id)
        now = micros_of(self._clock.now())
        model = LoggedModel(
            model_id=f"m-{new_id().replace('-', '')}",
            experiment_id=experiment_id,
            name=name or random_run_name(),
            model_type=model_type,
            source_run_id=source_run_id,
            created_by=principal.name,
            created_at=now,
            updated_at=now,
            params=dict(params),
            tags=dict(tags),
        )
        async with self._store.write() as work:
            await work.models.add(model)
            await work.commit()
        return model

    async def get(
        self, principal: Principal, model_id: str, *, deleted: bool = False
    ) -> LoggedModel:
        """Return a model; a deleted one only when it is asked for.

        Raises:
            LoggedModelNotFound: There is none.
            PermissionDenied: The caller may not read it.
        """
        async with self._store.read() as view:
            model = await view.models.get(model_id)
        if model is None:
            raise LoggedModelNotFound(model_id)
        await self._access.read(principal, model.experiment_id)
        if model.stage is not LifecycleStage.ACTIVE and not deleted:
            raise LoggedModelNotFound(model_id)
        return model

    async def finalize(
        self, principal: Principal, model_id: str, status: ModelStatus
    ) -> LoggedModel:
        """Note how the upload of a model's files went; tell that the model is there when it is."""

        def events(before: LoggedModel, after: LoggedModel) -> list[Event]:
            if after.status is not ModelStatus.READY or before.status is ModelStatus.READY:
                return []
            return model_logged(after, principal=principal.name, now=after.updated_at)

        return await self._change(
            principal, model_id, lambda model: replace(model, status=status), events
        )

    async def delete(self, principal: Principal, model_id: str) -> None:
        """Mark a model as deleted."""
        gone = LifecycleStage.DELETED
        await self._change(principal, model_id, lambda model: replace(model, stage=gone))

    async def set_tags(
        self, principal: Principal, model_id: str, tags: Mapping[str, str]
    ) -> LoggedModel:
        """Set tags of a model; the others stay."""
        return await self._change(
            principal, model_id, lambda model: replace(model, tags={**model.tags, **tags})
        )

    async def delete_tag(self, principal: Principal, model_id: str, key: str) -> None:
        """Remove a tag of a model.

        Raises:
            TagNotFound: It has none of this name.
        """

        def without(model: LoggedModel) -> LoggedModel:
            if key not in model.tags:
                raise TagNotFound(key, "model", model_id)
            tags = {name: value for name, value in model.tags.items() if name != key}
            return replace(model, tags=tags)

        await self._change(principal, model_id, without)

    async def log_params(
        self, principal: Principal, model_id: str, params: Mapping[str, str]
    ) -> None:
        """Write parameters of a model.

        Raises:
            ParamChanged: One has another value already.
        """

        def changed(model: LoggedModel) -> LoggedModel:
            for key, value in params.items():
                if model.params.get(key, value) != value:
                    raise ParamChanged(
                        f"Changing param values is not allowed. Param '{key}' of model "
                        f"'{model_id}' is '{model.params[key]}' already.",
                        metadata={"model_id": model_id, "key": key},
                    )
            return replace(model, params={**model.params, **params})

        await self._change(principal, model_id, changed)

    async def log_metrics(
        self, principal: Principal, model_id: str, metrics: Collection[ModelMetric]
    ) -> None:
        """Write points of a model's metrics; of each, run and data set the latest is kept."""
        now = micros_of(self._clock.now())
        await self._change(principal, model_id, lambda model: with_metrics(model, metrics, now=now))

    async def find(
        self,
        principal: Principal,
        *,
        experiment_ids: Collection[str],
        text: str = "",
        order_by: Sequence[str] = (),
        datasets: Collection[tuple[str, str]] = (),
    ) -> list[LoggedModel]:
        """Return the models that match, in order, then the newest first.

        Args:
            principal: Who asks; experiments that it may not read have no models.
            experiment_ids: Where to look.
            text: A filter in MLflow's grammar.
            order_by: Fields, each with ASC or DESC.
            datasets: Names and digests; metrics on other data sets do not count. An empty digest is
                any.

        Raises:
            InvalidFilter, InvalidOrderBy: A text does not parse.
        """
        conditions = parse_filter(text, LOGGED_MODELS)
        order = parse_order_by(order_by, LOGGED_MODELS)
        readable = await self._access.readable(principal, experiment_ids)
        async with self._store.read() as view:
            models = await view.models.of_experiments(readable)
        found = [
            (values, model)
            for model in models
            if matches(values := model_values(model, datasets), conditions)
        ]
        return in_order(found, order)

    async def link(self, principal: Principal, run_id: str, links: Collection[ModelLink]) -> None:
        """Note which models a run used and made.

        Raises:
            RunNotFound, LoggedModelNotFound: There is no such thing.
            PermissionDenied: The caller may not write the run, or not read a model.
        """
        await self._access.write_run(principal, run_id)
        for model_id in {one.model_id for one in links}:
            await self.get(principal, model_id)
        now = micros_of(self._clock.now())
        async with self._store.write() as work:
            await work.runs.lock([run_id])
            await work.models.link(run_id, links)
            for event in models_linked(run_id, links, principal=principal.name, now=now):
                work.publish(event)
            await work.commit()

    async def registered(
        self, principal: Principal, version: str, *, model_id: str = "", copied_from: str = ""
    ) -> None:
        """Tell what a version of a registered model was made from; nothing when from neither.

        Args:
            principal: Who registered it; a logged model that it may not read is not told.
            version: The model's full name and the version, as `main.flights.delay/3`.
            model_id: The logged model that it was made from.
            copied_from: The version that it was copied from.
        """
        if model_id:
            try:
                await self.get(principal, model_id)
            except (LoggedModelNotFound, PermissionDenied):
                model_id = ""
        if not model_id and not copied_from:
            return
        event = version_made(
            version,
            model_id=model_id,
            copied_from=copied_from,
            principal=principal.name,
            now=micros_of(self._clock.now()),
        )
        async with self._store.write() as work:
            work.publish(event)
            await work.commit()

    async def describe(
        self, principal: Principal, run_id: str, datasets: Collection[RunDataset]
    ) -> None:
        """Note what is told of data sets that a run used."""
        await self._access.write_run(principal, run_id)
        async with self._store.write() as work:
            await work.runs.lock([run_id])
            await work.models.describe(run_id, datasets)
            await work.commit()

    async def links_of(self, run_ids: Iterable[str]) -> Mapping[str, RunLinks]:
        """Return what runs, which the caller was let read, tell of models and data sets."""
        wanted = list(run_ids)
        async with self._store.read() as view:
            models = await view.models.links(wanted)
            datasets = await view.models.described(wanted)
        return {
            run_id: RunLinks(models.get(run_id, ()), datasets.get(run_id, ()))
            for run_id in models.keys() | datasets.keys()
        }

    async def _change(
        self,
        principal: Principal,
        model_id: str,
        changed: Callable[[LoggedModel], LoggedModel],
        events: Callable[[LoggedModel, LoggedModel], Sequence[Event]] = lambda before, after: (),
    ) -> LoggedModel:
        async with self._store.read() as view:
            model = await view.models.get(model_id)
        if model is None:
            raise LoggedModelNotFound(model_id)
        await self._access.write(principal, model.experiment_id)
        async with self._store.write() as work:
            current = await work.models.lock(model_id)
            if current is None or current.stage is not LifecycleStage.ACTIVE:
                raise LoggedModelNotFound(model_id)
            new = replace(changed(current), updated_at=micros_of(self._clock.now()))
            await work.models.put(new)
            for event in events(current, new):
                work.publish(event)
            await work.commit()
        return new
