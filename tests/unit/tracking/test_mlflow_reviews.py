"""The MLflow door: label schemas, review queues and issues."""

from __future__ import annotations

from typing import Any

import pytest

from tests.mlflow_door import BOB, Answer, Door

API = "/api/3.0/mlflow"
SCHEMAS, QUEUES, ISSUES = f"{API}/label-schemas", f"{API}/review-queues", f"{API}/issues"
MISSING, INVALID = (404, "RESOURCE_DOES_NOT_EXIST"), (400, "INVALID_PARAMETER_VALUE")
TAKEN = (400, "RESOURCE_ALREADY_EXISTS")


@pytest.fixture
async def door() -> Door:
    door = Door()
    await door.cases.experiments.ensure_default()
    return door


async def made(door: Door, **fields: Any) -> Any:
    asked = {"experiment_id": "0", "name": "good?", "type": "FEEDBACK", "input": {"text": {}}}
    answer = await door.ok("POST", f"{SCHEMAS}/create", {**asked, **fields})
    return answer["label_schema"]


async def made_queue(door: Door, **fields: Any) -> Any:
    asked = {"experiment_id": "0", "name": "Mine", "queue_type": "CUSTOM", **fields}
    return (await door.ok("POST", f"{QUEUES}/create", asked))["review_queue"]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 251},
        {"name": " feedback "},
        {"type": "LABEL_SCHEMA_TYPE_UNSPECIFIED"},
        {"type": "OTHER"},
        {"input": {}},
        {"input": None},
        {"input": {"pass_fail": {"positive_label": "a", "negative_label": "a"}}},
        {"input": {"pass_fail": {}}},
        {"input": {"categorical": {"options": []}}},
        {"input": {"categorical": {"options": ["a", "a"]}}},
        {"input": {"categorical": {"options": [str(one) for one in range(11)]}}},
        {"input": {"numeric": {"min_value": 2, "max_value": 2}}},
        {"input": {"numeric": {"min_value": "NaN"}}},
        {"input": {"text": {"max_length": 0}}},
        {"instruction": "x" * 1001},
        {"unknown": {"a": 1}, "input": {"other": {}}},
    ],
)
async def test_questions_that_cannot_be_asked_are_refused(
    door: Door, fields: dict[str, Any]
) -> None:
    asked = {"experiment_id": "0", "name": "q", "type": "FEEDBACK", "input": {"text": {}}}
    before = await door.ok("GET", f"{SCHEMAS}/list", {"experiment_id": "0"})
    answer = await door.call("POST", f"{SCHEMAS}/create", {**asked, **fields})
    assert answer.status == 400, answer.json()
    assert await door.ok("GET", f"{SCHEMAS}/list", {"experiment_id": "0"}) == before


async def test_questions_live_and_an_experiment_has_its_own(door: Door) -> None:
    options = {"categorical": {"options": ["a", "b"], "multi_select": True}}
    first = await made(door, input=options, instruction="say", enable_comment=True)
    assert (first["type"], first["input"]) == ("FEEDBACK", options)
    assert await door.ok("GET", f"{SCHEMAS}/get", {"schema_id": first["schema_id"]}) == {
        "label_schema": first
    }
    named = {"experiment_id": "0", "name": "good?"}
    assert (await door.ok("GET", f"{SCHEMAS}/get-by-name", named))["label_schema"] == first
    again = {**named, "type": "FEEDBACK", "input": {"text": {}}}
    assert (await door.call("POST", f"{SCHEMAS}/create", again)).error == TAKEN
    listed = await door.ok("GET", f"{SCHEMAS}/list", {"experiment_id": "0", "max_results": 1})
    rest = await door.ok(
        "GET",
        f"{SCHEMAS}/list",
        {"experiment_id": "0", "page_token": listed["next_page_token"]},
    )
    every = [*listed["label_schemas"], *rest["label_schemas"]]
    assert sorted(one["name"] for one in every) == ["Feedback", "good?"]
    own = next(one["schema_id"] for one in every if one["is_default"])
    update = f"{SCHEMAS}/update"
    wider = {"categorical": {"options": ["a", "b", "c"], "multi_select": True}}
    changed = await door.ok("PATCH", update, {"schema_id": first["schema_id"], "input": wider})
    assert changed["label_schema"]["input"] == wider
    for fields in (
        {"schema_id": own, "name": "x"},
        {"schema_id": first["schema_id"], "input": {"text": {}}},
        {"schema_id": first["schema_id"], "input": {"categorical": {"options": ["a"]}}},
        {"schema_id": first["schema_id"], "name": "FEEDBACK"},
    ):
        assert (await door.call("PATCH", update, fields)).error == INVALID, fields
    delete = f"{SCHEMAS}/delete"
    assert (await door.call("DELETE", delete, {"schema_id": own})).error == INVALID
    for _ in range(2):
        await door.ok("DELETE", delete, {"schema_id": first["schema_id"]})
    gone = await door.call("GET", f"{SCHEMAS}/get", {"schema_id": first["schema_id"]})
    assert gone.error == MISSING


async def test_queues_hold_traces_that_people_decide_on(door: Door) -> None:
    question = await made(door)
    queue = await made_queue(
        door, users=[" Ada ", "bob", "ada"], schema_ids=[question["schema_id"]], created_by="eve"
    )
    queue_id = queue["queue_id"]
    assert (queue["users"], queue["created_by"]) == (["ada", "bob"], "alice")
    again = {"experiment_id": "0", "name": "mINE", "queue_type": "CUSTOM"}
    assert (await door.call("POST", f"{QUEUES}/create", again)).error == TAKEN
    trace_id = await traced(door)
    items = f"{QUEUES}/items"
    added = await door.ok(
        "POST", f"{items}/add", {"queue_id": queue_id, "item_ids": [trace_id, trace_id]}
    )
    assert [(one["item_id"], one["status"]) for one in added["items"]] == [(trace_id, "PENDING")]
    unknown = {"queue_id": queue_id, "item_ids": [trace_id, "tr-none"]}
    assert (await door.call("POST", f"{items}/add", unknown)).error == MISSING
    done = {"queue_id": queue_id, "item_id": trace_id, "status": "COMPLETE", "completed_by": "eve"}
    first = (await door.ok("POST", f"{items}/set-status", done))["item"]
    assert (first["status"], first["completed_by"]) == ("COMPLETE", "alice")
    listed = await door.ok("GET", f"{items}/list", {"queue_id": queue_id, "status": "COMPLETE"})
    assert listed["items"] == [first]
    assert await door.ok("GET", f"{items}/list", {"queue_id": queue_id, "status": "DECLINED"}) == {
        "items": []
    }
    reopened = (await door.ok("POST", f"{items}/set-status", {**done, "status": "PENDING"}))["item"]
    assert "completed_by" not in reopened
    frozen = {"queue_id": queue_id, "update_schema_ids": True, "schema_ids": []}
    assert (await door.call("POST", f"{QUEUES}/update", frozen)).error == INVALID
    mine = {"experiment_id": "0", "user": "ADA", "item_id": trace_id}
    assert len((await door.ok("GET", f"{QUEUES}/list", mine))["review_queues"]) == 1
    await door.ok("POST", f"{items}/remove", {"queue_id": queue_id, "item_ids": [trace_id]})
    changed = {**frozen, "name": "Yours", "new_owner": "bob", "update_users": True}
    updated = (await door.ok("POST", f"{QUEUES}/update", changed))["review_queue"]
    assert (updated["name"], updated["users"], updated["schema_ids"]) == ("Yours", [], [])
    for _ in range(2):
        await door.ok("POST", f"{QUEUES}/delete", {"queue_id": queue_id})
    assert (await door.call("GET", f"{QUEUES}/get", {"queue_id": queue_id})).error == MISSING


async def test_a_trace_that_is_deleted_leaves_its_queues(door: Door) -> None:
    queue_id = (await made_queue(door))["queue_id"]
    asked = {"queue_id": queue_id, "item_ids": [await traced(door)]}
    await door.ok("POST", f"{QUEUES}/items/add", asked)
    gone = {"experiment_id": "0", "request_ids": ["tr-1"]}
    await door.ok("POST", f"{API}/traces/delete-traces", gone)
    listed = await door.ok("GET", f"{QUEUES}/items/list", {"queue_id": queue_id})
    assert listed == {"items": []}


async def test_a_user_has_one_queue(door: Door) -> None:
    asked = {"experiment_id": "0", "user": " Ada"}
    queues = [
        (await door.ok("POST", f"{QUEUES}/get-or-create-user", asked))["review_queue"]
        for _ in range(2)
    ]
    assert queues[0] == queues[1]
    assert (queues[0]["name"], queues[0]["users"]) == ("ada", ["ada"])
    rename = {"queue_id": queues[0]["queue_id"], "name": "x"}
    assert (await door.call("POST", f"{QUEUES}/update", rename)).error == INVALID
    await made_queue(door, name="bob")
    taken = {"experiment_id": "0", "user": "Bob"}
    assert (await door.call("POST", f"{QUEUES}/get-or-create-user", taken)).error == TAKEN


@pytest.mark.parametrize(
    ("path", "fields", "error"),
    [
        ("create", {"name": "Default", "queue_type": "CUSTOM"}, INVALID),
        ("create", {"name": "q"}, INVALID),
        ("create", {"name": "q", "queue_type": "USER", "users": ["other"]}, INVALID),
        ("create", {"name": "q", "queue_type": "CUSTOM", "schema_ids": ["ls-none"]}, INVALID),
        ("create", {"name": "q", "queue_type": "CUSTOM", "users": [*"abcdefghijk"]}, INVALID),
        ("create", {"name": "q", "queue_type": "CUSTOM", "experiment_id": "99"}, MISSING),
        ("items/add", {"queue_id": "rq-none", "item_ids": ["tr-1"]}, MISSING),
        ("items/add", {"queue_id": "rq-none", "item_ids": []}, INVALID),
        ("items/set-status", {"queue_id": "rq-none", "item_id": "a", "status": "DONE"}, None),
        ("items/set-status", {"queue_id": "rq-none", "item_id": "a"}, INVALID),
        ("update", {"queue_id": "rq-none"}, MISSING),
    ],
)
async def test_what_is_wrong_with_queues_is_told(
    door: Door, path: str, fields: dict[str, Any], error: tuple[int, str] | None
) -> None:
    answer = await door.call("POST", f"{QUEUES}/{path}", {"experiment_id": "0", **fields})
    assert answer.status in {400, 404}
    assert error in {None, answer.error}
    listed = await door.ok("GET", f"{QUEUES}/list", {"experiment_id": "0"})
    assert listed == {"review_queues": []}


async def test_issues_are_found_by_severity_status_and_traces(door: Door) -> None:
    asked = {"experiment_id": "0", "description": "d"}
    first = await issue(door, {**asked, "name": "slow", "severity": "low", "root_causes": ["x"]})
    second = await issue(door, {**asked, "name": "wrong", "severity": "high"})
    assert (first["status"], first["root_causes"]) == ("pending", ["x"])
    resolved = await door.ok(
        "PATCH", f"{ISSUES}/{first['issue_id']}", {"status": "resolved", "severity": "medium"}
    )
    assert resolved["issue"]["status"] == "resolved"
    assert await door.ok("GET", f"{ISSUES}/{first['issue_id']}") == resolved
    found = await search(door, experiment_id="0", include_trace_count=True)
    assert [(one["name"], one["trace_count"]) for one in found] == [("wrong", 0), ("slow", 0)]
    assert [one["name"] for one in await search(door, filter_string="status = 'pending'")] == [
        "wrong"
    ]
    page = await door.ok("POST", f"{ISSUES}/search", {"max_results": 1})
    rest = await search(door, page_token=page["next_page_token"])
    assert [page["issues"][0]["issue_id"], rest[0]["issue_id"]] == [
        second["issue_id"],
        first["issue_id"],
    ]
    for method, path, fields, error in (
        ("POST", ISSUES, {**asked, "name": "n", "severity": "worst"}, INVALID),
        ("POST", ISSUES, {**asked, "name": "n", "status": "open"}, INVALID),
        ("POST", ISSUES, {"experiment_id": "0", "name": "n"}, INVALID),
        ("PATCH", f"{ISSUES}/{first['issue_id']}", {"status": "x"}, INVALID),
        ("GET", f"{ISSUES}/iss-none", None, MISSING),
        ("POST", f"{ISSUES}/search", {"filter_string": "name = 'x'"}, INVALID),
        ("POST", f"{ISSUES}/search", {"max_results": 0}, INVALID),
    ):
        assert (await door.call(method, path, fields)).error == error, (path, fields)


async def test_an_experiment_s_grants_hold(door: Door) -> None:
    created = await door.ok("POST", "experiments/create", {"name": "private"})
    mine = {"experiment_id": created["experiment_id"]}
    question = await made(door, **mine)
    queue = await made_queue(door, **mine)
    found = await issue(door, {**mine, "name": "n", "description": "d"})
    before = door.store.snapshot()
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"{SCHEMAS}/list", mine),
        ("GET", f"{SCHEMAS}/get", {"schema_id": question["schema_id"]}),
        ("PATCH", f"{SCHEMAS}/update", {"schema_id": question["schema_id"], "name": "x"}),
        ("DELETE", f"{SCHEMAS}/delete", {"schema_id": question["schema_id"]}),
        ("POST", f"{QUEUES}/create", {**mine, "name": "x", "queue_type": "CUSTOM"}),
        ("GET", f"{QUEUES}/list", mine),
        ("POST", f"{QUEUES}/delete", {"queue_id": queue["queue_id"]}),
        ("GET", f"{QUEUES}/items/list", {"queue_id": queue["queue_id"]}),
        ("POST", f"{QUEUES}/items/add", {"queue_id": queue["queue_id"], "item_ids": ["tr-1"]}),
        ("GET", f"{ISSUES}/{found['issue_id']}", None),
        ("PATCH", f"{ISSUES}/{found['issue_id']}", {"name": "x"}),
        ("POST", f"{ISSUES}/search", mine),
    ]
    for method, path, fields in calls:
        answer: Answer = await door.call(method, path, fields, token=BOB)
        assert answer.error == (403, "PERMISSION_DENIED"), path
    hidden = await door.call("POST", f"{ISSUES}/search", {}, token=BOB)
    assert hidden.json() == {"issues": []}
    assert door.store.snapshot() == before


async def issue(door: Door, fields: dict[str, Any]) -> Any:
    return (await door.ok("POST", ISSUES, fields))["issue"]


async def search(door: Door, **fields: Any) -> list[Any]:
    found: list[Any] = (await door.ok("POST", f"{ISSUES}/search", fields))["issues"]
    return found


async def traced(door: Door) -> str:
    """A trace of the default experiment."""
    told = {
        "trace_id": "tr-1",
        "trace_location": {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": "0"},
        },
        "request_time": "2013-05-01T00:00:00Z",
        "state": "OK",
    }
    await door.ok("POST", f"{API}/traces", {"trace": {"trace_info": told}})
    return "tr-1"
