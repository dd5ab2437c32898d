"""One body over every implementation of the store's models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.tracking.domain.experiment import Experiment
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.logged_model import (
    LoggedModel,
    ModelLink,
    ModelMetric,
    ModelStatus,
    RunDataset,
)
from services.tracking.domain.metrics import Point
from services.tracking.ports.store import Store
from tests.tracking_database import STORES, opened_store


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(request, tmp_path) as store:
        yield store


def experiment(name: str) -> Experiment:
    return Experiment(
        experiment_id=name,
        name=name,
        artifact_location="",
        created_by="ada",
        created_at=1,
        updated_at=1,
        etag="",
    )


async def test_a_logged_model_is_read_as_it_was_stored(store: Store) -> None:
    point = Point("acc", 2, 3, 0.1)
    metrics = (ModelMetric(point, "r1", "d", "1"), ModelMetric(point._replace(value=1e300), ""))
    model = LoggedModel(
        model_id="m-1",
        experiment_id="e1",
        name="net",
        created_by="ada",
        created_at=5,
        updated_at=6,
        params={"lr": "0.1"},
        tags={"a": "ü"},
        metrics=metrics,
    )
    newer = replace(model, model_id="m-2", created_at=7)
    other = replace(model, model_id="m-3", experiment_id="e2")
    async with store.write() as work:
        await work.experiments.add(experiment("e1"))
        await work.experiments.add(experiment("e2"))
        for one in (model, newer, other):
            await work.models.add(one)
        await work.commit()
    async with store.read() as view:
        assert await view.models.get("m-1") == model
        assert await view.models.get("m-9") is None
        assert await view.models.of_experiments(["e1"]) == [newer, model]
    ready = replace(model, status=ModelStatus.READY)
    gone = replace(newer, stage=LifecycleStage.DELETED)
    async with store.write() as work:
        assert await work.models.lock("m-1") == model
        await work.models.put(ready)
        await work.models.put(gone)
        await work.commit()
    async with store.read() as view:
        assert await view.models.of_experiments(["e1", "e2"]) == [other, ready]
        assert await view.models.get("m-2") == gone


async def test_links_to_models_are_a_set(store: Store) -> None:
    used, made = ModelLink("m-1", is_output=False), ModelLink("m-2", is_output=True, step=3)
    for links in ([used], [used, made], []):
        async with store.write() as work:
            await work.models.link("r1", links)
            await work.commit()
    async with store.read() as view:
        assert await view.models.links(["r1", "r2"]) == {"r1": [used, made]}
        assert await view.models.links([]) == {}


async def test_a_later_word_on_a_data_set_replaces_an_earlier_one(store: Store) -> None:
    first = RunDataset(name="d", digest="1", context="training", source="here", tags={"a": "b"})
    evaluated = RunDataset(name="d", digest="1", context="eval")
    for datasets in ([first], [replace(first, source="there"), evaluated]):
        async with store.write() as work:
            await work.models.describe("r1", datasets)
            await work.commit()
    async with store.read() as view:
        told = await view.models.described(["r1", "r2"])
    assert told == {"r1": [evaluated, replace(first, source="there")]}
