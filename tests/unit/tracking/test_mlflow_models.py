"""The MLflow door: logged models, and what runs tell of models and data sets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tessera.events.v1 import catalog_events_pb2, tracking_events_pb2
from tests.mlflow_door import BOB, Door

INVALID = (400, "INVALID_PARAMETER_VALUE")
MISSING = (404, "RESOURCE_DOES_NOT_EXIST")


@pytest.fixture
async def door() -> Door:
    door = Door()
    await door.cases.experiments.ensure_default()
    return door


async def model(door: Door, **fields: Any) -> str:
    created = await door.ok("POST", "logged-models", {"experiment_id": "0", **fields})
    model_id: str = created["model"]["info"]["model_id"]
    return model_id


async def test_a_model_lives_from_pending_to_deleted(door: Door) -> None:
    run_id = await door.run()
    model_id = await model(
        door,
        name="net",
        model_type="cnn",
        source_run_id=run_id,
        params=[{"key": "lr", "value": "0.1"}],
        tags=[{"key": "a", "value": "1"}],
    )
    path = f"logged-models/{model_id}"
    info = (await door.ok("GET", path))["model"]["info"]
    assert (info["status"], info["name"]) == ("LOGGED_MODEL_PENDING", "net")
    assert (info["model_type"], info["source_run_id"]) == ("cnn", run_id)
    await door.ok("PATCH", path, {"model_id": model_id, "status": "LOGGED_MODEL_READY"})
    await door.ok("PATCH", f"{path}/tags", {"tags": [{"key": "b/c", "value": "2"}]})
    await door.ok("DELETE", f"{path}/tags/a")
    assert (await door.call("DELETE", f"{path}/tags/a")).error == MISSING
    params = {"params": [{"key": "depth", "value": "3"}]}
    await door.ok("POST", f"{path}/params", params)
    found = (await door.ok("GET", path))["model"]
    assert found["info"]["status"] == "LOGGED_MODEL_READY"
    assert found["info"]["tags"] == [{"key": "b/c", "value": "2"}]
    assert {one["key"]: one["value"] for one in found["data"]["params"]} == {
        "lr": "0.1",
        "depth": "3",
    }
    changed = {"params": [{"key": "depth", "value": "4"}]}
    assert (await door.call("POST", f"{path}/params", changed)).error == INVALID
    await door.ok("DELETE", path)
    assert (await door.call("GET", path)).error == MISSING
    assert (await door.ok("GET", path, {"allow_deleted": "true"}))["model"]


async def test_models_have_the_metrics_that_are_theirs(door: Door) -> None:
    run_id, model_id = await door.run(), await model(door)
    metric = {"key": "acc", "value": 0.5, "timestamp": 1, "step": 1, "model_id": model_id}
    await door.ok("POST", "runs/log-metric", {"run_id": run_id, **metric})
    later = {**metric, "value": 0.75, "step": 2, "dataset_name": "d", "dataset_digest": "1"}
    batch = [{**metric, "value": 0.6, "step": 2}, later, {**metric, "key": "nan", "value": "NaN"}]
    await door.ok("POST", "runs/log-batch", {"run_id": run_id, "metrics": batch})
    data = (await door.ok("GET", f"logged-models/{model_id}"))["model"]["data"]
    told = {(one["key"], one.get("dataset_name")): one["value"] for one in data["metrics"]}
    assert told == {("acc", None): 0.6, ("acc", "d"): 0.75, ("nan", None): "NaN"}
    assert data["metrics"][0]["run_id"] == run_id


async def test_models_are_searched_by_filter_order_data_set_and_page(door: Door) -> None:
    run_id = await door.run()
    for number in range(5):
        tags = [{"key": "even", "value": str(number % 2 == 0)}]
        model_id = await model(door, name=f"m{number}", tags=tags)
        metric = {"key": "acc", "value": number / 10, "timestamp": 1, "model_id": model_id}
        await door.ok("POST", "runs/log-metric", {"run_id": run_id, **metric})

    async def names(**fields: Any) -> list[str]:
        answer = await door.ok("POST", "logged-models/search", {"experiment_ids": ["0"], **fields})
        return [one["info"]["name"] for one in answer["models"]]

    assert await names(filter="metrics.acc >= 0.3") == ["m4", "m3"]
    assert await names(filter="name LIKE 'm%' AND tags.even = 'False'") == ["m3", "m1"]
    order = [{"field_name": "metrics.acc", "ascending": True}]
    assert await names(order_by=order, max_results=2) == ["m0", "m1"]
    assert await names(filter="metrics.acc > 0", datasets=[{"dataset_name": "d"}]) == []
    search = {"experiment_ids": ["0"], "max_results": 3}
    first = await door.ok("POST", "logged-models/search", search)
    rest = await names(**{**search, "page_token": first["next_page_token"]})
    assert rest == ["m1", "m0"]
    wrong = {"experiment_ids": ["0"], "filter": "colour = 'red'"}
    assert (await door.call("POST", "logged-models/search", wrong)).error == INVALID


async def test_data_sets_are_told_back_whole(door: Door) -> None:
    run_id = await door.run()
    dataset = {
        "name": "flights",
        "digest": "abc",
        "source_type": "local",
        "source": "{}",
        "schema": '{"a":1}',
        "profile": '{"rows":2}',
    }
    tags = [{"key": "mlflow.data.context", "value": "training"}]
    fields = {"run_id": run_id, "datasets": [{"dataset": dataset, "tags": tags}]}
    await door.ok("POST", "runs/log-inputs", fields)
    await door.ok("POST", "runs/log-inputs", fields)
    run = (await door.ok("GET", "runs/get", {"run_id": run_id}))["run"]
    assert run["inputs"]["dataset_inputs"] == [{"dataset": dataset, "tags": tags}]
    search = {"experiment_ids": ["0"], "filter": "dataset.name = 'flights'"}
    [found] = (await door.ok("POST", "runs/search", search))["runs"]
    assert found["inputs"] == run["inputs"]
    del dataset["source"]
    assert (await door.call("POST", "runs/log-inputs", fields)).error == INVALID


async def test_runs_know_the_models_that_they_used_and_made(door: Door) -> None:
    run_id, used, made = await door.run(), await model(door), await model(door)
    await door.ok("POST", "runs/log-inputs", {"run_id": run_id, "models": [{"model_id": used}]})
    outputs = {"run_id": run_id, "models": [{"model_id": made, "step": 7}]}
    await door.ok("POST", "runs/outputs", outputs)
    run = (await door.ok("GET", "runs/get", {"run_id": run_id}))["run"]
    assert run["inputs"]["model_inputs"] == [{"model_id": used}]
    assert run["outputs"]["model_outputs"] == [{"model_id": made, "step": 7}]
    unknown = {"run_id": run_id, "models": [{"model_id": "m-0"}]}
    assert (await door.call("POST", "runs/outputs", unknown)).error == MISSING


async def test_a_model_in_a_run_is_noted_as_old_clients_do(door: Door) -> None:
    run_id = await door.run()
    told = {"artifact_path": "model", "flavors": {}, "utc_time_created": "now", "run_id": run_id}
    fields = {"run_id": run_id, "model_json": json.dumps(told)}
    await door.ok("POST", "runs/log-model", fields)
    await door.ok("POST", "runs/log-model", fields)
    run = (await door.ok("GET", "runs/get", {"run_id": run_id}))["run"]
    tags = {one["key"]: one["value"] for one in run["data"]["tags"]}
    assert json.loads(tags["mlflow.log-model.history"]) == [told]
    for wrong in ("{", "5", "{}"):
        answer = await door.call("POST", "runs/log-model", {**fields, "model_json": wrong})
        assert answer.error == INVALID


async def test_models_are_their_experiment_s(door: Door) -> None:
    experiment = await door.experiment()
    model_id = await model(door, experiment_id=experiment)
    path = f"logged-models/{model_id}"
    for method, where, fields in (
        ("GET", path, None),
        ("DELETE", path, None),
        ("PATCH", f"{path}/tags", {"tags": [{"key": "a", "value": "b"}]}),
        ("POST", "logged-models", {"experiment_id": experiment}),
    ):
        answer = await door.call(method, where, fields, token=BOB)
        assert answer.error == (403, "PERMISSION_DENIED")
    search = {"experiment_ids": [experiment]}
    assert (await door.ok("POST", "logged-models/search", search, token=BOB))["models"] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "a/b"},
        {"name": "a:b"},
        {"name": "x" * 501},
        {"experiment_id": ""},
        {"params": [{"key": "", "value": "x"}]},
        {"tags": [{"key": "k" * 251, "value": "x"}]},
    ],
)
async def test_a_wrong_model_is_refused(door: Door, fields: Any) -> None:
    answer = await door.call("POST", "logged-models", {"experiment_id": "0", **fields})
    assert answer.error == INVALID


def edges(door: Door) -> list[tuple[str, str]]:
    """The edges of lineage that were told, in order."""
    return [
        (edge.source.name, edge.target.name)
        for event in door.store.told
        if isinstance(event.data, catalog_events_pb2.LineageObserved)
        for edge in event.data.edges
    ]


async def test_a_model_that_is_ready_is_told_once_with_its_run(door: Door) -> None:
    run_id = await door.run()
    model_id = await model(door, name="net", model_type="cnn", source_run_id=run_id)
    path = f"logged-models/{model_id}"
    assert edges(door) == []
    for status in ("UPLOAD_FAILED", "READY", "READY"):
        await door.ok("PATCH", path, {"model_id": model_id, "status": f"LOGGED_MODEL_{status}"})
    logged = [
        event
        for event in door.store.told
        if isinstance(event.data, tracking_events_pb2.ModelLogged)
    ]
    assert [(event.key, event.data) for event in logged] == [
        (
            run_id,
            tracking_events_pb2.ModelLogged(
                model_id=model_id,
                experiment_id="0",
                run_id=run_id,
                name="net",
                model_type="cnn",
                created_by="alice",
            ),
        )
    ]
    assert edges(door) == [(run_id, model_id)]


async def test_a_model_that_no_run_made_is_told_by_itself(door: Door) -> None:
    model_id = await model(door, name="net")
    ready = {"model_id": model_id, "status": "LOGGED_MODEL_READY"}
    await door.ok("PATCH", f"logged-models/{model_id}", ready)
    assert [event.key for event in door.store.told] == [model_id]


async def test_models_that_runs_use_and_make_are_told_as_lineage(door: Door) -> None:
    run_id, used, made = await door.run(), await model(door), await model(door)
    await door.ok("POST", "runs/log-inputs", {"run_id": run_id, "models": [{"model_id": used}]})
    outputs = [{"model_id": made, "step": step} for step in (1, 2)]
    await door.ok("POST", "runs/outputs", {"run_id": run_id, "models": outputs})
    assert edges(door) == [(used, run_id), (run_id, made)]
