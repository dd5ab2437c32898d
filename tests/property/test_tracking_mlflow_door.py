"""Whatever is sent to any rpc of the MLflow door: an answer of the protocol, no defect of ours."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.tracking.adapters.memory.store import Snapshot
from services.tracking.mlflow.protos import Rpc, all_rpcs
from tests.mlflow_door import BOB, Answer, Door

SETTINGS = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["", "0", "../..", "a\x00b", "\ud800", "m-0", "x" * 5000, "NaN", "' OR 1=1"]),
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -1, 1, 2**31, 2**63 - 1, 2**63, 1e308]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def bodies(draw: st.DrawFn, descriptor: Any, depth: int = 0) -> dict[str, Any]:
    """A JSON object that looks like a message, with anything in the place of some fields."""
    fields: dict[str, Any] = {}
    for field in descriptor.fields:
        if depth and not draw(st.booleans()):
            continue
        name = field.name if draw(st.booleans()) else field.json_name
        fields[name] = (
            draw(VALUES) if draw(st.integers(0, 9)) == 0 else _fitting(draw, field, depth)
        )
    fields |= draw(st.dictionaries(TEXTS, SCALARS, max_size=1))
    return fields


def _fitting(draw: st.DrawFn, field: Any, depth: int) -> Any:
    def one() -> Any:
        if field.message_type is not None:
            if depth > 2 or field.message_type.full_name.startswith("google.protobuf."):
                return draw(VALUES)
            return draw(bodies(field.message_type, depth + 1))
        if field.enum_type is not None:
            return draw(st.sampled_from([*field.enum_type.values_by_name, "NONE", 1, 99]))
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return draw(TEXTS)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return draw(st.booleans())
        return draw(NUMBERS)

    if field.is_repeated:
        return [one() for _ in range(draw(st.integers(0, 2)))]
    return one()


@st.composite
def calls(draw: st.DrawFn) -> tuple[Rpc, str, str, dict[str, Any]]:
    """An rpc, its method, a path with its parameters filled in, and fields."""
    rpc = draw(st.sampled_from(list(all_rpcs())))
    method, path = draw(st.sampled_from(list(rpc.endpoints)))
    filled = re.sub(
        r"\{[^}]+\}",
        lambda _: quote(draw(TEXTS).encode("utf-8", "surrogatepass"), safe="") or "x",
        path,
    )
    return rpc, method, filled, draw(bodies(rpc.request.DESCRIPTOR))


def checked(answer: Answer) -> None:
    """The answer is one of the protocol."""
    assert answer.status in {200, 400, 401, 403, 404, 405, 409, 413, 429, 501, 503}, answer
    if answer.status != 200:
        told = answer.json()
        assert isinstance(told["error_code"], str)
        assert isinstance(told["message"], str)


def checked_and_unchanged(answer: Answer, door: Door, before: Snapshot) -> None:
    """As `checked`; and what was refused changed nothing."""
    checked(answer)
    if answer.status != 200:
        assert door.store.snapshot() == before


async def _door_with_a_run() -> tuple[Door, str]:
    door = Door()
    await door.cases.experiments.ensure_default()
    return door, await door.run()


@given(calls())
@SETTINGS
def test_every_rpc_answers_anything(call: tuple[Rpc, str, str, dict[str, Any]]) -> None:
    async def check() -> None:
        door, run_id = await _door_with_a_run()
        before = door.store.snapshot()
        _, method, path, fields = call
        for key in ("run_id", "run_uuid"):
            if key in fields and isinstance(fields[key], str):
                fields[key] = run_id
        if method == "GET":
            answer = await door.send(method, path, query=_query(fields))
        else:
            answer = await door.send(method, path, json.dumps(fields).encode())
        checked_and_unchanged(answer, door, before)

    asyncio.run(check())


@given(st.binary(max_size=200), st.sampled_from(list(all_rpcs())))
@example(b"\xff\xfe", all_rpcs()[0])
@example(b'{"a":' * 2000, all_rpcs()[0])
@example(b"[" * 100_000, all_rpcs()[0])
@SETTINGS
def test_any_bytes_are_answered(body: bytes, rpc: Rpc) -> None:
    async def check() -> None:
        door, _ = await _door_with_a_run()
        before = door.store.snapshot()
        method, path = rpc.endpoints[0]
        filled = re.sub(r"\{[^}]+\}", "x", path)
        checked_and_unchanged(await door.send(method, filled, body), door, before)

    asyncio.run(check())


@given(
    st.lists(
        st.fixed_dictionaries(
            {"key": TEXTS, "value": VALUES, "timestamp": VALUES}, optional={"step": VALUES}
        ),
        max_size=4,
    ),
    st.lists(st.fixed_dictionaries({"key": TEXTS, "value": VALUES}), max_size=3),
    st.lists(st.fixed_dictionaries({"key": TEXTS, "value": VALUES}), max_size=3),
)
@SETTINGS
def test_a_batch_is_stored_whole_or_not_at_all(
    metrics: list[Any], params: list[Any], tags: list[Any]
) -> None:
    async def check() -> None:
        door, run_id = await _door_with_a_run()
        batch = {"run_id": run_id, "metrics": metrics, "params": params, "tags": tags}
        answer = await door.send(
            "POST", "/api/2.0/mlflow/runs/log-batch", json.dumps(batch).encode()
        )
        checked(answer)
        data = (await door.ok("GET", "runs/get", {"run_id": run_id}))["run"]["data"]
        stored = {name: {one["key"] for one in data[name]} for name in ("metrics", "params")}
        if answer.status == 200:
            assert stored["metrics"] == {one["key"] for one in metrics}
            assert stored["params"] == {one["key"] for one in params}
        else:
            assert stored == {"metrics": set(), "params": set()}

    asyncio.run(check())


@pytest.mark.parametrize("token", [None, "nobody's", "x" * 5000, "a b", "\u00fc"])
async def test_no_rpc_answers_without_a_good_token(token: str | None) -> None:
    door, run_id = await _door_with_a_run()
    before = door.store.snapshot()
    for rpc in all_rpcs():
        for method, path in rpc.endpoints:
            filled = re.sub(r"\{[^}]+\}", run_id, path)
            body = json.dumps({"run_id": run_id, "experiment_id": "0"}).encode()
            answer = await door.send(method, filled, body, token=token)
            assert answer.error == (401, "UNAUTHENTICATED"), (rpc.name, answer)
    assert door.store.snapshot() == before


@given(calls())
@SETTINGS
def test_who_holds_no_grants_changes_nothing(
    call: tuple[Rpc, str, str, dict[str, Any]],
) -> None:
    async def check() -> None:
        door = Door()
        await door.cases.experiments.ensure_default()
        hers = {"experiment_id": await door.experiment("hers")}
        hers["run_id"] = await door.run(hers["experiment_id"], tags=[{"key": "a", "value": "b"}])
        model = await door.ok("POST", "logged-models", hers)
        hers["model_id"] = model["model"]["info"]["model_id"]
        before = door.store.snapshot()
        rpc, method, path, fields = call
        if rpc.name == "MlflowService/createDataset" and not fields.get("experiment_ids"):
            # A data set of no experiment is its maker's.
            fields["experiment_ids"] = ["0"]
        aimed = _aimed(fields, {**hers, "run_uuid": hers["run_id"]})
        answer = (
            await door.send(method, path, query=_query(aimed), token=BOB)
            if method == "GET"
            else await door.send(method, path, json.dumps(aimed).encode(), token=BOB)
        )
        checked(answer)
        assert door.store.snapshot() == before, answer

    asyncio.run(check())


def _aimed(value: Any, ids: Mapping[str, str]) -> Any:
    """The same with every id of a kind in the place of what stood there, one or a list."""
    if isinstance(value, list):
        return [_aimed(one, ids) for one in value]
    if not isinstance(value, dict):
        return value
    aimed = {key: _aimed(one, ids) for key, one in value.items()}
    for key in value:
        # As either spelling has it: experiment_id, experimentIds.
        kind = re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), key).removesuffix("s")
        if kind in ids:
            aimed[key] = [ids[kind]] if key.endswith("s") else ids[kind]
    return aimed


FILTERS = {
    "runs/search": ["metrics.auc > 0.5", "params.`a b` = 'x'", "attributes.run_id IN ('r', 's')"],
    "experiments/search": ["name LIKE 'a%'", "tags.team = 'ml' AND creation_time > 5"],
    "/api/3.0/mlflow/traces/search": ["trace.status = 'OK'", "feedback.x RLIKE '^a'"],
}


@given(
    st.sampled_from([(path, text) for path, texts in FILTERS.items() for text in texts]),
    st.integers(0, 30),
    st.integers(0, 30),
    st.text(alphabet="'\"`()=<>.%\\;ANDORinlike 0é\x00", max_size=6),
)
@SETTINGS
def test_a_filter_that_does_not_parse_says_where(
    searched: tuple[str, str], at: int, until: int, put: str
) -> None:
    async def check() -> None:
        door, _ = await _door_with_a_run()
        path, text = searched
        broken = text[:at] + put + text[max(at, until) :]
        places = {"locations": [{"mlflow_experiment": {"experiment_id": "0"}}]}
        asked = {"filter": broken, **(places if "traces" in path else {"experiment_ids": ["0"]})}
        if "experiments" in path:
            del asked["experiment_ids"]
        answer = await door.call("POST", path, asked)
        if answer.status != 200:
            assert answer.error == (400, "INVALID_PARAMETER_VALUE")
            found = re.search(r"at character (\d+)", answer.json()["message"])
            assert found is not None, answer
            assert 1 <= int(found[1]) <= len(broken) + 1

    asyncio.run(check())


def _query(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as a client can put them into a query."""

    def one(value: Any) -> str:
        return str(value).encode("utf-8", "replace").decode()

    return {
        name: [one(each) for each in value] if isinstance(value, list) else one(value)
        for name, value in fields.items()
        if name.isprintable() and name.isascii()
    }
