"""The MLflow door: experiments, runs and what they log, with MLflow's limits and complaints."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.mlflow_door import BOB, Door

INVALID = (400, "INVALID_PARAMETER_VALUE")
MISSING = (404, "RESOURCE_DOES_NOT_EXIST")


@pytest.fixture
async def door() -> Door:
    door = Door()
    await door.cases.experiments.ensure_default()
    return door


def metric(key: str = "loss", value: Any = 0.5, timestamp: Any = 1000, step: Any = 0) -> Any:
    return {"key": key, "value": value, "timestamp": timestamp, "step": step}


async def logged(door: Door, run_id: str) -> Any:
    return (await door.ok("GET", "runs/get", {"run_id": run_id}))["run"]


# Experiments


async def test_an_experiment_lives_as_mlflow_s_do(door: Door) -> None:
    created = await door.experiment("flights", tags=[{"key": "team", "value": "ml"}])
    found = (await door.ok("GET", "experiments/get", {"experiment_id": created}))["experiment"]
    named = await door.ok("GET", "experiments/get-by-name", {"experiment_name": "flights"})
    assert named["experiment"] == found
    assert found["lifecycle_stage"] == "active"
    assert found["tags"] == [{"key": "team", "value": "ml"}]
    assert found["artifact_location"] == f"mlflow-artifacts:/{created}"
    await door.ok("POST", "experiments/update", {"experiment_id": created, "new_name": "new"})
    tag = {"experiment_id": created, "key": "k", "value": "v"}
    await door.ok("POST", "experiments/set-experiment-tag", tag)
    await door.ok("POST", "experiments/delete-experiment-tag", {**tag, "key": "team"})
    found = (await door.ok("GET", "experiments/get", {"experiment_id": created}))["experiment"]
    assert (found["name"], found["tags"]) == ("new", [{"key": "k", "value": "v"}])
    again = await door.call("POST", "experiments/delete-experiment-tag", {**tag, "key": "team"})
    assert again.error == MISSING
    await door.ok("POST", "experiments/delete", {"experiment_id": created})
    taken = await door.call("POST", "experiments/create", {"name": "new"})
    assert taken.error == (400, "RESOURCE_ALREADY_EXISTS")
    again = await door.call("POST", "experiments/delete", {"experiment_id": created})
    assert again.error == MISSING
    assert again.json()["message"] == f"No Experiment with id={created} exists"
    await door.ok("POST", "experiments/restore", {"experiment_id": created})
    again = await door.call("POST", "experiments/restore", {"experiment_id": created})
    assert again.error == MISSING


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ({"key": "a?", "value": ""}, "Invalid value \"a?\" for parameter 'key' supplied: Names"),
        ({"key": "k" * 251, "value": ""}, "'key' exceeds the maximum length of 250 characters"),
        ({"key": "k", "value": "v" * 20_001}, "'value' exceeds the maximum length of 20000"),
    ],
)
async def test_tags_of_experiments_have_limits(door: Door, tag: Any, told: str) -> None:
    for path, fields in (
        ("set-experiment-tag", {"experiment_id": await door.experiment(), **tag}),
        ("create", {"name": "tagged", "tags": [tag]}),
    ):
        answer = await door.call("POST", f"experiments/{path}", fields)
        assert answer.error == INVALID
        assert told in answer.json()["message"]


async def test_experiments_are_searched_by_either_method_and_any_stage(door: Door) -> None:
    gone = await door.experiment("gone")
    await door.experiment("kept")
    await door.ok("POST", "experiments/delete", {"experiment_id": gone})

    async def names(method: str, **fields: Any) -> list[str]:
        answer = await door.ok(method, "experiments/search", {"max_results": 10, **fields})
        return [one["name"] for one in answer["experiments"]]

    assert set(await names("POST")) == {"kept", "Default"}
    assert await names("POST", view_type="DELETED_ONLY") == ["gone"]
    assert set(await names("GET", view_type="ALL")) == {"gone", "kept", "Default"}
    assert await names("GET", filter="name LIKE 'ke%'") == ["kept"]
    first = await door.ok("POST", "experiments/search", {"max_results": 1})
    token = {"max_results": 1, "page_token": first["next_page_token"]}
    second = await door.ok("POST", "experiments/search", token)
    assert second["experiments"] != first["experiments"]


@pytest.mark.parametrize("size", [0, -1, 50_001])
async def test_a_page_has_bounds(door: Door, size: int) -> None:
    for path in ("experiments/search", "runs/search"):
        answer = await door.call("POST", path, {"max_results": size})
        assert answer.error == INVALID
        assert str(size) in answer.json()["message"]


# Runs


async def test_a_run_is_created_with_its_name_in_both_places(door: Door) -> None:
    fields = {"run_name": "first", "tags": [{"key": "mlflow.user", "value": "me"}]}
    run = await logged(door, await door.run(**fields))
    assert run["info"]["run_name"] == "first"
    assert run["info"]["status"] == "RUNNING"
    assert run["info"]["start_time"] == 1000
    assert {"key": "mlflow.runName", "value": "first"} in run["data"]["tags"]
    tagged = await logged(door, await door.run(tags=[{"key": "mlflow.runName", "value": "t"}]))
    assert tagged["info"]["run_name"] == "t"
    both = {
        "experiment_id": "0",
        "run_name": "a",
        "tags": [{"key": "mlflow.runName", "value": "b"}],
    }
    assert (await door.call("POST", "runs/create", both)).error == INVALID


async def test_runs_that_are_created_at_once_share_a_commit_and_not_a_fate(door: Door) -> None:
    gone = await door.experiment("gone")
    await door.ok("POST", "experiments/delete", {"experiment_id": gone})
    asked = ["0", gone, "0", "none", "0"] * 8
    answers = await asyncio.gather(
        *(door.call("POST", "runs/create", {"experiment_id": one}) for one in asked)
    )
    assert [answer.status for answer in answers] == [200, 400, 200, 404, 200] * 8
    made = {answer.json()["run"]["info"]["run_id"] for answer in answers if answer.status == 200}
    assert len(made) == 24
    told = [event.key for event in door.store.told]
    assert sorted(told) == sorted(made)


async def test_a_name_is_changed_in_both_places(door: Door) -> None:
    run_id = await door.run(run_name="old")
    await door.ok("POST", "runs/update", {"run_id": run_id, "run_name": "new"})
    run = await logged(door, run_id)
    assert run["info"]["run_name"] == "new"
    assert {"key": "mlflow.runName", "value": "new"} in run["data"]["tags"]
    tag = {"run_id": run_id, "key": "mlflow.runName", "value": "newest"}
    await door.ok("POST", "runs/set-tag", tag)
    assert (await logged(door, run_id))["info"]["run_name"] == "newest"
    batch = {"run_id": run_id, "tags": [{"key": "mlflow.runName", "value": "last"}]}
    await door.ok("POST", "runs/log-batch", batch)
    assert (await logged(door, run_id))["info"]["run_name"] == "last"


async def test_a_run_ends_and_goes_on(door: Door) -> None:
    run_id = await door.run()
    ended = {"run_id": run_id, "status": "FINISHED", "end_time": 5000}
    info = (await door.ok("POST", "runs/update", ended))["run_info"]
    assert (info["status"], info["end_time"]) == ("FINISHED", 5000)
    info = (await door.ok("POST", "runs/update", {"run_id": run_id, "status": "RUNNING"}))[
        "run_info"
    ]
    assert "end_time" not in info
    assert (await door.ok("POST", "runs/update", {"run_id": run_id}))["run_info"] == info


async def test_a_deleted_run_takes_nothing_until_it_is_restored(door: Door) -> None:
    run_id = await door.run()
    await door.ok("POST", "runs/delete", {"run_id": run_id})
    refused = await door.call("POST", "runs/log-metric", {"run_id": run_id, **metric()})
    assert refused.error == INVALID
    assert "must be in the 'active' state" in refused.json()["message"]
    await door.ok("POST", "runs/delete", {"run_id": run_id})
    search = {"experiment_ids": ["0"], "run_view_type": "DELETED_ONLY"}
    assert len((await door.ok("POST", "runs/search", search))["runs"]) == 1
    assert (await door.ok("POST", "runs/search", {"experiment_ids": ["0"]}))["runs"] == []
    for _ in range(2):
        await door.ok("POST", "runs/restore", {"run_id": run_id})
    await door.ok("POST", "runs/log-metric", {"run_id": run_id, **metric()})


async def test_runs_are_searched_by_filter_order_and_page(door: Door) -> None:
    for step in range(5):
        run_id = await door.run(start_time=step)
        await door.ok("POST", "runs/log-metric", {"run_id": run_id, **metric("auc", step / 10)})
    search = {
        "experiment_ids": ["0"],
        "filter": "metrics.auc >= 0.1",
        "order_by": ["metrics.auc DESC"],
        "max_results": 3,
    }
    first = await door.ok("POST", "runs/search", search)
    assert [one["data"]["metrics"][0]["value"] for one in first["runs"]] == [0.4, 0.3, 0.2]
    rest = await door.ok("POST", "runs/search", {**search, "page_token": first["next_page_token"]})
    assert [one["data"]["metrics"][0]["value"] for one in rest["runs"]] == [0.1]
    assert "next_page_token" not in rest
    wrong = await door.call("POST", "runs/search", {**search, "filter": "metrics.auc >"})
    assert wrong.error == INVALID


async def test_tags_are_removed_one_by_one(door: Door) -> None:
    run_id = await door.run()
    await door.ok("POST", "runs/set-tag", {"run_id": run_id, "key": "a", "value": "b"})
    await door.ok("POST", "runs/delete-tag", {"run_id": run_id, "key": "a"})
    again = await door.call("POST", "runs/delete-tag", {"run_id": run_id, "key": "a"})
    assert again.error == MISSING
    assert again.json()["message"] == f"No tag with name: a in run with id {run_id}"


# What runs log


async def test_metrics_are_kept_with_their_history(door: Door) -> None:
    run_id = await door.run()
    values = [1, 0.5, "0.25", "NaN", "Infinity", "-Infinity", -3]
    for step, value in enumerate(values):
        fields = {"run_id": run_id, **metric(value=value, step=step, timestamp=str(step))}
        await door.ok("POST", "runs/log-metric", fields)
    bare = f'{{"run_uuid":"{run_id}","key":"loss","value":NaN,"timestamp":9,"step":9}}'
    assert (await door.send("POST", "/api/2.0/mlflow/runs/log-metric", bare.encode())).status == 200
    history = {"run_id": run_id, "metric_key": "loss"}
    found = (await door.ok("GET", "metrics/get-history", history))["metrics"]
    assert [one["value"] for one in found] == [
        *(1.0, 0.5, 0.25, "NaN", "Infinity", "-Infinity", -3.0, "NaN"),
    ]
    page = await door.ok("GET", "metrics/get-history", {**history, "max_results": 3})
    assert len(page["metrics"]) == 3
    rest = {**history, "max_results": 100, "page_token": page["next_page_token"]}
    assert (await door.ok("GET", "metrics/get-history", rest))["metrics"] == found[3:]
    for size in (0, -1):
        answer = await door.call("GET", "metrics/get-history", {**history, "max_results": size})
        assert answer.error == INVALID


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("run_id", None, "Missing value for required parameter 'run_id'."),
        ("key", None, "Missing value for required parameter 'key'."),
        ("key", 5, "Invalid value 5 for parameter 'key'"),
        ("key", "a/../b", "Invalid value \"a/../b\" for parameter 'name' supplied: Names may"),
        ("key", "k" * 251, "'Metric name' exceeds the maximum length of 250 characters"),
        ("value", None, "Missing value for required parameter 'value'."),
        ("value", "high", "Invalid value \"high\" for parameter 'value'"),
        ("value", [1], "Invalid value [1] for parameter 'value'"),
        ("value", True, "Invalid value true for parameter 'value'"),
        ("timestamp", None, "Missing value for required parameter 'timestamp'."),
        ("timestamp", 1.5, "Invalid value 1.5 for parameter 'timestamp'"),
        ("timestamp", -1, "Invalid value -1 for parameter 'timestamp' supplied: metric 'loss'"),
        ("timestamp", 2**63, "Invalid value 9223372036854775808"),
        ("step", "x", "Invalid value \"x\" for parameter 'step'"),
        ("step", 2**63, "Invalid value 9223372036854775808"),
    ],
)
async def test_a_wrong_metric_is_refused_and_says_why(
    door: Door, field: str, value: Any, told: str
) -> None:
    fields = {"run_id": await door.run(), **metric(), field: value}
    answer = await door.call("POST", "runs/log-metric", fields)
    assert answer.error == INVALID
    assert told in answer.json()["message"]
    batch = {
        "run_id": fields["run_id"],
        "metrics": [metric("fine"), {name: fields[name] for name in metric()}],
    }
    if field != "run_id":
        answer = await door.call("POST", "runs/log-batch", batch)
        assert answer.error == INVALID
        assert (await logged(door, str(batch["run_id"])))["data"]["metrics"] == []


async def test_params_are_written_once_and_tags_may_change(door: Door) -> None:
    run_id = await door.run()
    param = {"run_id": run_id, "key": "lr", "value": "0.1"}
    await door.ok("POST", "runs/log-parameter", param)
    await door.ok("POST", "runs/log-parameter", param)
    changed = await door.call("POST", "runs/log-parameter", {**param, "value": "0.2"})
    assert changed.error == INVALID
    assert changed.json() == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "error_class": "INVALID_PARAMETER_VALUE",
        "sqlstate": "KAM00",
        "message": "Changing param values is not allowed. Param with key='lr' was already logged "
        f"with value='0.1' for run ID='{run_id}'. Attempted logging new value '0.2'.",
    }
    for value in ("a", "b"):
        await door.ok("POST", "runs/set-tag", {"run_id": run_id, "key": "t", "value": value})
    data = (await logged(door, run_id))["data"]
    assert data["params"] == [{"key": "lr", "value": "0.1"}]
    assert {"key": "t", "value": "b"} in data["tags"]


async def test_long_values_are_cut_as_mlflow_cuts_them(door: Door) -> None:
    tag = {"key": "t", "value": "x" * 8001}
    run_id = await door.run(tags=[{**tag, "key": "first"}])
    param = {"key": "p", "value": "y" * 6001}
    for _ in range(2):
        await door.ok("POST", "runs/log-parameter", {"run_id": run_id, **param})
        await door.ok("POST", "runs/set-tag", {"run_id": run_id, **tag})
    batch = {"params": [param, {**param, "key": "q"}], "tags": [{**tag, "key": "u"}]}
    await door.ok("POST", "runs/log-batch", {"run_id": run_id, **batch})
    data = (await logged(door, run_id))["data"]
    assert {one["key"]: len(one["value"]) for one in data["params"]} == {"p": 6000, "q": 6000}
    tags = {one["key"]: len(one["value"]) for one in data["tags"]}
    assert [tags[key] for key in ("first", "t", "u")] == [8000] * 3


async def test_a_batch_is_all_or_nothing_and_may_be_sent_again(door: Door) -> None:
    run_id = await door.run()
    batch = {
        "run_id": run_id,
        "metrics": [metric("m", step=step) for step in range(3)],
        "params": [{"key": "p", "value": "1"}],
        "tags": [{"key": "t", "value": "2"}],
    }
    await door.ok("POST", "runs/log-batch", batch)
    await door.ok("POST", "runs/log-batch", batch)
    history = {"run_id": run_id, "metric_key": "m"}
    assert len((await door.ok("GET", "metrics/get-history", history))["metrics"]) == 3
    bad = {**batch, "metrics": [metric("new")], "params": [{"key": "p", "value": "other"}]}
    assert (await door.call("POST", "runs/log-batch", bad)).error == INVALID
    assert [one["key"] for one in (await logged(door, run_id))["data"]["metrics"]] == ["m"]


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"metrics": [metric(step=step) for step in range(1001)]}, "at most 1000 metrics"),
        ({"params": [{"key": f"p{n}", "value": ""} for n in range(101)]}, "at most 100 params"),
        ({"tags": [{"key": f"t{n}", "value": ""} for n in range(101)]}, "at most 100 tags"),
        (
            {
                "metrics": [metric(step=step) for step in range(1000)],
                "params": [{"key": "p", "value": ""}],
            },
            "at most 1000 metrics, params, and tags",
        ),
        ({"tags": [{"key": "k" * 251, "value": ""}]}, "'tags[0].key' exceeds the maximum length"),
        ({"params": [{"key": "a//b", "value": ""}]}, "for parameter 'params[0].key' supplied"),
        ({"params": [{"key": "p", "value": "1"}] * 2}, "Duplicate parameter keys"),
        (
            {"metrics": [metric()] * 990, "tags": [{"key": "t", "value": "x" * 10**6}]},
            "1000000 bytes",
        ),
        ({"metrics": {"key": "x"}}, "for parameter 'metrics'"),
        ({"metrics": [5]}, "for parameter 'metrics'"),
        ({"params": [{"value": "x"}]}, "Missing value for required parameter 'params[0].key'"),
    ],
)
async def test_a_batch_has_mlflow_s_limits(door: Door, batch: Any, told: str) -> None:
    answer = await door.call("POST", "runs/log-batch", {"run_id": await door.run(), **batch})
    assert answer.error == INVALID
    assert told in answer.json()["message"]


async def test_many_runs_histories_are_sampled_evenly(door: Door) -> None:
    run_ids = [await door.run() for _ in range(2)]
    for run_id in run_ids:
        points = [metric("m", value=float(step), step=step) for step in range(1000)]
        await door.ok("POST", "runs/log-batch", {"run_id": run_id, "metrics": points})
    path = "metrics/get-history-bulk-interval"
    asked = {"run_ids": run_ids, "metric_key": "m", "max_results": 11}
    found = (await door.ok("GET", path, asked))["metrics"]
    steps = [one["step"] for one in found if one["run_id"] == run_ids[0]]
    assert len(steps) == 11
    assert (steps[0], steps[-1]) == (0, 999)
    some = (await door.ok("GET", path, {**asked, "start_step": 10, "end_step": 14}))["metrics"]
    assert [one["step"] for one in some if one["run_id"] == run_ids[1]] == [10, 11, 12, 13, 14]
    for wrong in (
        {"max_results": 2501},
        {"start_step": 1},
        {"start_step": 5, "end_step": 4},
        {"run_ids": ["r"] * 101},
    ):
        assert (await door.call("GET", path, {**asked, **wrong})).error == INVALID


# The protocol


async def test_what_is_not_offered_says_so(door: Door) -> None:
    answer = await door.call("GET", "/api/3.0/mlflow/gateway/secrets/list")
    assert answer.error == (501, "NOT_IMPLEMENTED")
    assert (await door.call("GET", "nothing")).error == (404, "ENDPOINT_NOT_FOUND")
    assert (await door.call("GET", "runs/create")).error == (405, "BAD_REQUEST")


async def test_health_and_version_need_no_token_and_the_rest_does(door: Door) -> None:
    for path in ("/health", "/version"):
        assert (await door.send("GET", path, token=None)).status == 200
    answer = await door.send("GET", "/api/2.0/mlflow/runs/get", token=None)
    assert answer.error == (401, "UNAUTHENTICATED")


async def test_paths_for_web_pages_answer_too(door: Door) -> None:
    found = await door.ok("GET", "/ajax-api/2.0/mlflow/experiments/get", {"experiment_id": "0"})
    assert found["experiment"]["name"] == "Default"


async def test_grants_apply(door: Door) -> None:
    experiment = await door.experiment("hers")
    run_id = await door.run(experiment)
    for method, path, fields in (
        ("GET", "experiments/get", {"experiment_id": experiment}),
        ("GET", "runs/get", {"run_id": run_id}),
        ("POST", "runs/log-metric", {"run_id": run_id, **metric()}),
        ("POST", "runs/log-batch", {"run_id": run_id}),
        ("POST", "runs/delete", {"run_id": run_id}),
        ("POST", "experiments/create", {"name": "his"}),
    ):
        answer = await door.call(method, path, fields, token=BOB)
        assert answer.error == (403, "PERMISSION_DENIED"), path
    found = await door.ok("POST", "runs/search", {"experiment_ids": [experiment]}, token=BOB)
    assert found["runs"] == []


@pytest.mark.parametrize("body", [b"{", b"[]", b"5", b"\xff", b'{"a":' * 5000, b'"text"'])
async def test_a_body_that_is_no_object_is_refused(door: Door, body: bytes) -> None:
    for path in ("runs/log-metric", "runs/log-batch", "runs/create", "experiments/search"):
        answer = await door.send("POST", f"/api/2.0/mlflow/{path}", body)
        assert answer.error == (400, "BAD_REQUEST")


async def test_only_json_is_taken(door: Door) -> None:
    for content_type in (None, "text/plain", "application/x-www-form-urlencoded"):
        answer = await door.send(
            "POST", "/api/2.0/mlflow/experiments/create", b'{"name":"x"}', content_type=content_type
        )
        assert answer.error == (400, "BAD_REQUEST")
    old = json.dumps(json.dumps({"name": "twice encoded"})).encode()
    assert (await door.send("POST", "/api/2.0/mlflow/experiments/create", old)).status == 200


async def test_unknown_fields_are_passed_over_and_double_spellings_refused(door: Door) -> None:
    await door.ok("POST", "experiments/create", {"name": "x", "colour": "red", "tags": []})
    both = {"experiment_id": "0", "experimentId": "1"}
    assert (await door.call("POST", "runs/create", both)).error == INVALID


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": 5}, "Invalid value 5 for parameter 'name'"),
        ({"name": "x", "tags": "y"}, "Invalid value \"y\" for parameter 'tags'"),
        ({"name": ""}, "Missing value for required parameter 'name'"),
        ({"name": "x" * 501}, "'name' exceeds the maximum length of 500 characters"),
        ({"name": "a\x00b"}, "NUL"),
        ({"name": "x", "artifact_location": "s3://mine"}, "artifact_location"),
    ],
)
async def test_a_wrong_field_is_named(door: Door, fields: Any, told: str) -> None:
    answer = await door.call("POST", "experiments/create", fields)
    assert answer.error == INVALID
    assert told in answer.json()["message"]


async def test_data_sets_of_experiments_are_listed(door: Door) -> None:
    experiment_id = await door.experiment()
    dataset = {"name": "points", "digest": "d", "source_type": "local", "source": "{}"}
    training = {"key": "mlflow.data.context", "value": "training"}
    for tags in ([training], [training], []):
        run_id = await door.run(experiment_id)
        inputs = [{"tags": tags, "dataset": dataset}]
        await door.ok("POST", "runs/log-inputs", {"run_id": run_id, "datasets": inputs})
    path = "experiments/search-datasets"
    told = {"experiment_id": experiment_id, "name": "points", "digest": "d"}
    answer = await door.ok("POST", path, {"experiment_ids": [experiment_id, "0", "none"]})
    assert answer == {"dataset_summaries": [told, {**told, "context": "training"}]}
    hidden = await door.ok("POST", path, {"experiment_ids": [experiment_id]}, token=BOB)
    assert hidden == {"dataset_summaries": []}
    for wrong in ([], ["1"] * 21, "1", [1]):
        answer = await door.call("POST", path, {"experiment_ids": wrong})
        assert answer.error == (400, "INVALID_PARAMETER_VALUE")
