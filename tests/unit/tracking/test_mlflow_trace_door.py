"""The MLflow door: traces, assessments, data sets and scorers as messages, and bad input."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from tests.mlflow_door import BOB, Answer, Door

INVALID = (400, "INVALID_PARAMETER_VALUE")
MISSING = (404, "RESOURCE_DOES_NOT_EXIST")
V3 = "/api/3.0/mlflow/"
OTEL_ID = "5b8efff798038103d269b633813fc60c"
TRACE_ID = f"tr-{OTEL_ID}"
SPAN = {
    "traceId": OTEL_ID,
    "spanId": "eee19b7ec3c1b174",
    "name": "chat",
    "startTimeUnixNano": "1544712660123456789",
    "endTimeUnixNano": "1544712661123456789",
    "attributes": [
        {"key": "tokens", "value": {"intValue": "5"}},
        {"key": "deep", "value": {"kvlistValue": {"values": [{"key": "a", "value": {}}]}}},
    ],
}


@pytest.fixture
async def door() -> Door:
    door = Door()
    await door.cases.experiments.ensure_default()
    return door


async def export(door: Door, *spans: Any, experiment: str | None = "0", **named: Any) -> Answer:
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}).encode()
    headers = {} if experiment is None else {"x-mlflow-experiment-id": experiment}
    return await door.send("POST", "/v1/traces", body, extra=headers, **named)


async def start(door: Door, **changes: Any) -> Answer:
    info = {
        "trace_id": TRACE_ID,
        "trace_location": {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": "0"},
        },
        "request_time": "2026-11-26T12:00:00.123456Z",
        "execution_duration": "1.5s",
        "state": "OK",
        "tags": {"a": "b"},
        **changes,
    }
    return await door.call("POST", f"{V3}traces", {"trace": {"trace_info": info}})


async def test_a_trace_is_told_and_read(door: Door) -> None:
    assert (await start(door, client_request_id="mine")).status == 200
    assert (await export(door, SPAN)).status == 200
    info = (await door.ok("GET", f"{V3}traces/{TRACE_ID}"))["trace"]["trace_info"]
    assert info["request_time"] == "2026-11-26T12:00:00.123456Z"
    assert info["execution_duration"] == "1.500000s"
    assert info["client_request_id"] == "mine"
    assert info["tags"] == {
        "a": "b",
        "mlflow.artifactLocation": f"mlflow-artifacts:/0/traces/{TRACE_ID}/artifacts",
        "mlflow.trace.spansLocation": "TRACKING_STORE",
    }
    whole = (await door.ok("GET", f"{V3}traces/get", {"trace_id": TRACE_ID}))["trace"]
    assert whole["trace_info"] == info
    (span,) = whole["spans"]
    assert span["trace_id"] == base64.b64encode(bytes.fromhex(OTEL_ID)).decode()
    assert span["attributes"][0] == {"key": "tokens", "value": {"int_value": "5"}}
    many = await door.ok("GET", f"{V3}traces/batchGet", {"trace_ids": [TRACE_ID, "tr-none"]})
    assert many["traces"] == [whole]
    infos = {"trace_ids": [TRACE_ID], "experiment_ids": ["9"]}
    assert await door.ok("POST", f"{V3}traces/batchGetInfos", infos) == {"trace_infos": []}


async def test_traces_are_searched_page_by_page(door: Door) -> None:
    for number in range(3):
        await start(door, trace_id=f"tr-{number:032x}", request_time=f"2026-11-26T12:00:0{number}Z")
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    asked: dict[str, Any] = {"locations": [location], "max_results": 2, "filter": "tag.a = 'b'"}
    first = await door.ok("POST", f"{V3}traces/search", asked)
    asked["page_token"] = first["next_page_token"]
    second = await door.ok("POST", f"{V3}traces/search", asked)
    assert "next_page_token" not in second
    ids = [one["trace_id"][-1] for one in first["traces"] + second["traces"]]
    assert ids == ["2", "1", "0"]
    wrong = await door.call("POST", f"{V3}traces/search", {**asked, "filter": "nope = 1"})
    assert wrong.error == INVALID
    assert "at character 1" in wrong.json()["message"]
    v2 = {"experiment_ids": ["0"], "order_by": ["timestamp_ms ASC"]}
    old = await door.ok("GET", "traces", v2)
    assert [one["request_id"][-1] for one in old["traces"]] == ["0", "1", "2"]


async def test_clients_before_3_0_begin_and_end_traces(door: Door) -> None:
    pair = {"key": "k", "value": "v"}
    begun = {"experiment_id": "0", "timestamp_ms": 1000, "request_metadata": [pair], "tags": [pair]}
    info = (await door.ok("POST", "traces", begun))["trace_info"]
    assert info["status"] == "IN_PROGRESS"
    path = f"traces/{info['request_id']}"
    ended = {"timestamp_ms": 3500, "status": "ERROR", "tags": [{"key": "t", "value": "u"}]}
    info = (await door.ok("PATCH", path, ended))["trace_info"]
    assert (info["status"], info["execution_time_ms"]) == ("ERROR", 2500)
    assert (await door.ok("GET", f"{path}/info"))["trace_info"] == info
    assert {"key": "t", "value": "u"} in info["tags"]
    assert info["request_metadata"] == [pair]
    await door.ok("PATCH", f"{path}/tags", {"key": "t", "value": "new"})
    await door.ok("DELETE", f"{path}/tags", {"key": "t"})
    assert (await door.call("DELETE", f"{path}/tags", {"key": "t"})).error == MISSING
    gone = {"experiment_id": "0", "max_timestamp_millis": 1000}
    assert await door.ok("POST", "traces/delete-traces", gone) == {"traces_deleted": 1}
    assert (await door.call("GET", f"{path}/info")).error == MISSING


async def test_assessments_are_written_and_changed(door: Door) -> None:
    await start(door)
    path = f"{V3}traces/{TRACE_ID}/assessments"
    feedback = {
        "assessment_name": "good",
        "feedback": {"value": [1, {"a": None}], "error": {"error_code": "E"}},
        "source": {"source_type": "CODE", "source_id": "me"},
        "create_time": "2026-11-26T12:00:00Z",
        "metadata": {"k": "v"},
        "valid": True,
    }
    made = (await door.ok("POST", path, {"assessment": feedback}))["assessment"]
    assert made["trace_id"] == TRACE_ID
    assert made["feedback"] == feedback["feedback"]
    one = f"{path}/{made['assessment_id']}"
    assert (await door.ok("GET", one))["assessment"] == made
    change = {"assessment": {"rationale": "so"}, "update_mask": "rationale"}
    changed = (await door.ok("PATCH", one, change))["assessment"]
    assert changed["rationale"] == "so"
    assert changed["feedback"] == made["feedback"]
    for wrong in (
        {"assessment": {"source": {}}, "update_mask": "source"},
        {"assessment": {"expectation": {"value": 1}}, "update_mask": "expectation"},
        {"assessment": {}, "update_mask": "feedback"},
    ):
        assert (await door.call("PATCH", one, wrong)).error == INVALID
    await door.ok("DELETE", one)
    assert (await door.call("GET", one)).error == MISSING
    nothing = {"assessment": {"assessment_name": "x"}}
    assert (await door.call("POST", path, nothing)).error == INVALID
    unnamed = {"assessment": {"feedback": {"value": 1}}}
    assert (await door.call("POST", path, unnamed)).error == INVALID
    elsewhere = f"{V3}traces/tr-none/assessments"
    assert (await door.call("POST", elsewhere, {"assessment": feedback})).error == MISSING


async def test_files_of_a_trace_are_its_experiment_s(door: Door) -> None:
    root = "/api/2.0/mlflow-artifacts/artifacts"
    await start(door)
    path = f"{root}/0/traces/{TRACE_ID}/artifacts/attachments/a.png"
    assert (await door.send("PUT", path, b"picture", content_type="image/png")).status == 200
    assert (await door.send("GET", path)).body == b"picture"
    assert await door.keys() == [f"tracking/0/traces/{TRACE_ID}/artifacts/attachments/a.png"]
    other = await door.experiment("other")
    for wrong in (
        path.replace("/0/", f"/{other}/"),
        path.replace(TRACE_ID, "tr-none"),
        path.replace("a.png", "b.png"),
    ):
        assert (await door.send("GET", wrong)).error == MISSING
    up = path.replace("attachments", "..%2F..")
    assert (await door.send("PUT", up, b"x", content_type="image/png")).status == 400
    private = TRACE_ID[:-1] + "0"
    location = {"mlflow_experiment": {"experiment_id": other}}
    assert (await start(door, trace_id=private, trace_location=location)).status == 200
    theirs = f"{root}/{other}/traces/{private}/artifacts/x"
    assert (await door.send("PUT", theirs, b"x", token=BOB)).status == 403
    assert (await door.send("GET", theirs, token=BOB)).status == 403


async def test_figures_are_answered(door: Door) -> None:
    await start(door)
    asked = {
        "experiment_ids": ["0"],
        "view_type": "TRACES",
        "metric_name": "latency",
        "aggregations": [
            {"aggregation_type": "AVG"},
            {"aggregation_type": "PERCENTILE", "percentile_value": 95},
        ],
    }
    answer = await door.ok("POST", f"{V3}traces/metrics", asked)
    (point,) = answer["data_points"]
    assert point == {
        "metric_name": "latency",
        "dimensions": {},
        "values": {"AVG": 1500.0, "P95.0": 1500.0},
    }
    asked["metric_name"] = "nope"
    assert (await door.call("POST", f"{V3}traces/metrics", asked)).error == INVALID


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_id": ""},
        {"trace_id": "t" * 251},
        {"trace_id": "a\0b"},
        {"trace_location": {}},
        {"trace_location": {"inference_table": {"full_table_name": "a.b.c"}}},
        {"tags": {"k": "v" * 8001}},
        {"tags": {"k" * 251: "v"}},
        {"trace_metadata": {"": "v"}},
        {"request_time": "yesterday"},
        {"request_time": 5},
        {"execution_duration": "long"},
        {"state": ["OK"]},
        {"assessments": [{"assessment_name": "x"}]},
        {"client_request_id": "c\0"},
        {"request_preview": "p\0"},
    ],
)
async def test_traces_that_break_the_rules_are_refused(door: Door, changes: Any) -> None:
    assert (await start(door, **changes)).error == INVALID
    location = {"mlflow_experiment": {"experiment_id": "0"}}
    assert await door.ok("POST", f"{V3}traces/search", {"locations": [location]}) == {"traces": []}


async def test_exports_are_all_or_nothing(door: Door) -> None:
    nameless = {**SPAN, "spanId": ""}
    for answer in (
        await export(door, SPAN, nameless),
        await export(door, SPAN, content_type="text/plain"),
        await export(door, SPAN, experiment=None),
        await door.send("POST", "/v1/traces", b"\xff", extra={"x-mlflow-experiment-id": "0"}),
    ):
        assert answer.status == 400
    assert (await export(door, SPAN, experiment="9")).error == MISSING
    assert (await export(door, SPAN, token=None)).status == 401
    private = await door.experiment("private")
    assert (await export(door, SPAN, experiment=private, token=BOB)).status == 403
    assert (await door.call("GET", f"{V3}traces/{TRACE_ID}")).error == MISSING
    accepted = await export(door, SPAN)
    assert (accepted.status, accepted.json()) == (200, {})


async def test_large_and_compressed_exports_are_read_too(door: Door) -> None:
    ids = [f"{number:016x}" for number in range(1, 501)]
    spans = [
        {**SPAN, "spanId": one, "parentSpanId": ids[0] if one != ids[0] else ""} for one in ids
    ]
    assert (await export(door, *spans)).status == 200
    whole = await door.ok("GET", f"{V3}traces/get", {"trace_id": TRACE_ID})
    assert len(whole["trace"]["spans"]) == 500
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [SPAN]}]}]}).encode()
    headers = {"x-mlflow-experiment-id": "0", "content-encoding": "gzip"}
    answer = await door.send("POST", "/v1/traces", gzip.compress(body), extra=headers)
    assert answer.status == 200
    assert (await door.send("POST", "/v1/traces", body, extra=headers)).status == 400


async def test_data_sets_and_their_records(door: Door) -> None:
    fields = {"name": "set", "experiment_ids": ["0"], "tags": '{"mlflow.user": "ada"}'}
    made = (await door.ok("POST", f"{V3}datasets/create", fields))["dataset"]
    assert (made["created_by"], json.loads(made["tags"])) == ("ada", {"mlflow.user": "ada"})
    path = f"{V3}datasets/{made['dataset_id']}"
    records = json.dumps([{"inputs": {"q": 1}, "outputs": "x"}, {"inputs": {"q": 2}}])
    done = await door.ok("POST", f"{path}/records", {"records": records})
    assert done == {"inserted_count": 2, "updated_count": 0}
    page = await door.ok("GET", f"{path}/records", {"max_results": 1})
    rest = await door.ok("GET", f"{path}/records", {"page_token": page["next_page_token"]})
    (first,), (second,) = json.loads(page["records"]), json.loads(rest["records"])
    assert {first["inputs"]["q"], second["inputs"]["q"]} == {1, 2}
    ids = {"dataset_record_ids": [first["dataset_record_id"]]}
    assert await door.ok("DELETE", f"{path}/records", ids) == {"deleted_count": 1}
    found = (await door.ok("GET", path))["dataset"]
    assert json.loads(found["profile"]) == {"num_records": 1}
    assert json.loads(found["schema"])["inputs"] == {"q": "integer"}
    assert found["digest"] != made["digest"]
    for wrong in ("{", "{}", "[1]", '[{"inputs": 5}]', '[{"inputs": {}, "tags": []}]'):
        assert (await door.call("POST", f"{path}/records", {"records": wrong})).error == INVALID
    other = await door.experiment("other")
    await door.ok("POST", f"{path}/add-experiments", {"experiment_ids": [other]})
    await door.ok("POST", f"{path}/remove-experiments", {"experiment_ids": ["0"]})
    assert await door.ok("GET", f"{path}/experiment-ids") == {"experiment_ids": [other]}
    assert (await door.call("GET", path, token=BOB)).error == MISSING
    await door.ok("DELETE", path, token=BOB)
    assert (await door.call("GET", path)).status == 200
    await door.ok("DELETE", path)
    assert (await door.call("GET", path)).error == MISSING


async def test_scorers(door: Door) -> None:
    scorer = {"experiment_id": "0", "name": "digits", "serialized_scorer": '{"a": 1}'}
    for version in (1, 2):
        made = await door.ok("POST", f"{V3}scorers/register", scorer)
        assert made["version"] == version
    named = {"experiment_id": "0", "name": "digits"}
    assert (await door.ok("GET", f"{V3}scorers/get", named))["scorer"]["scorer_version"] == 2
    versions = (await door.ok("GET", f"{V3}scorers/versions", named))["scorers"]
    assert [one["scorer_version"] for one in versions] == [1, 2]
    await door.ok("DELETE", f"{V3}scorers/delete", {**named, "version": 2})
    listed = (await door.ok("GET", f"{V3}scorers/list", {"experiment_id": "0"}))["scorers"]
    assert [one["scorer_version"] for one in listed] == [1]
    gone = await door.call("GET", f"{V3}scorers/get", {**named, "version": 2})
    assert gone.error == MISSING
    for wrong in ({"name": " "}, {"name": "a\nb"}, {"serialized_scorer": "[]"}):
        refused = await door.call("POST", f"{V3}scorers/register", {**scorer, **wrong})
        assert refused.error == INVALID
