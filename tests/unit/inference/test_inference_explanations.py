"""ExplainRequest: the row, the model's making, who may ask, and what is told of what is missing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.adapters.memory import (
    InMemoryEndpoints,
    InMemoryModels,
    InMemoryOrigins,
    InMemoryPayloads,
)
from services.inference.convert.explanations import explanation_message
from services.inference.domain.endpoint import Endpoint, InferenceTable
from services.inference.domain.explanation import (
    LineageNode,
    LineageStep,
    NodeKind,
    RunFacts,
    UsedTable,
    origins_of,
)
from services.inference.errors import (
    EndpointNotFound,
    InvalidExplanation,
    RequestAmbiguous,
    RequestNotFound,
    RequestNotWritten,
)
from services.inference.handlers.explanations import Explanations
from tessera.catalog.v1 import securable_pb2
from tessera.inference.v1 import explanation_pb2
from tessera_kit.clock import ManualClock
from tessera_kit.ids import new_id
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.identity import Principal
from tests.contract.test_inference_endpoints import make_endpoint
from tests.integration.inference.test_inference_tables import make_row

ADA, MIA, BOB = Principal("ada"), Principal("mia"), Principal("bob")
MODEL = "a.b.m"
RUN = RunFacts(
    run_id="run-1",
    name="train",
    experiment_id="7",
    created_by="alice",
    started_at=datetime(2026, 11, 20, tzinfo=UTC),
    git_commit="0123abc",
    job_id="job-1",
    tables=(UsedTable("a.b.rows", "v3", "training"),),
)


def node(kind: str, name: str) -> LineageNode:
    return LineageNode(NodeKind(kind), name)


def step(source: LineageNode, target: LineageNode) -> LineageStep:
    return LineageStep(source, target)


VERSION, LOGGED, RUN_NODE = (
    node("MODEL_VERSION", f"{MODEL}/2"),
    node("LOGGED_MODEL", "lm-1"),
    node("RUN", "run-1"),
)
JOB, ROWS, OLDER = node("JOB", "job-1"), node("TABLE", "a.b.rows"), node("TABLE", "a.b.payload")
STEPS = [
    step(LOGGED, VERSION),
    step(RUN_NODE, LOGGED),
    step(RUN_NODE, VERSION),
    step(JOB, RUN_NODE),
    step(ROWS, RUN_NODE),
    LineageStep(node("TABLE", "a.b.more"), RUN_NODE, "v7"),
    # What the table came from is another model's story.
    step(node("ENDPOINT", "old"), ROWS),
    step(node("MODEL_VERSION", f"{MODEL}/1"), node("ENDPOINT", "old")),
    step(OLDER, node("RUN", "run-0")),
    step(node("RUN", "run-0"), node("MODEL_VERSION", f"{MODEL}/1")),
]


class World:
    """An endpoint whose table `ada` may read; `mia` manages the endpoint, `bob` has nothing."""

    def __init__(self) -> None:
        self.endpoints, self.rows = InMemoryEndpoints(), InMemoryPayloads()
        self.models, self.origins = InMemoryModels(), InMemoryOrigins()
        self.authority = InMemoryAuthority()
        self.models.put(MODEL, 2, {}, run_id="run-1")
        self.origins.put(RUN)
        self.origins.steps = list(STEPS)
        self.explanations = Explanations(
            tables=self.endpoints,
            endpoints=self.endpoints,
            reader=self.rows,
            models=self.models,
            lineage=self.origins,
            runs=self.origins,
            authority=self.authority,
            clock=ManualClock(datetime.now(UTC)),
        )

    async def add(self, name: str = "flights", prefix: str = "") -> Endpoint:
        table = InferenceTable(f"a.b.{prefix or name}_payload", "a_b", prefix or name)
        endpoint = replace(make_endpoint(name), table=table)
        for principal, privilege, kind, on in (
            ("ada", "SELECT", "TABLE", table.full_name),
            ("mia", "MANAGE", "ENDPOINT", name),
        ):
            self.authority.grant(
                principal,
                [securable_pb2.Privilege.Value(f"PRIVILEGE_{privilege}")],
                securable_pb2.SecurableType.Value(f"SECURABLE_TYPE_{kind}"),
                on,
            )
        return await self.endpoints.add(endpoint, "", [])

    async def put(self, endpoint: Endpoint, identifier: str = "", **values: Any) -> str:
        row = make_row(
            identifier,
            **{
                "endpoint": endpoint.name,
                "model_name": MODEL,
                "model_version": 2,
                "served_entity_id": "m-2",
                "config_version": 4,
                "route": "PRIMARY",
                **values,
            },
        )
        await self.rows.insert(endpoint.table, [row], row.request_id)
        return row.request_id


async def test_an_answer_is_led_back_to_run_commit_and_tables() -> None:
    world = World()
    endpoint = await world.add()
    request_id = await world.put(
        endpoint, duration_ms=2.5, route="FALLBACK", failed_entity_ids=["m-1"]
    )
    for caller in (ADA, MIA):
        found = await world.explanations.explain(caller, request_id)
        message = explanation_message(found)
        assert (message.endpoint, message.config_version) == ("flights", 4)
        assert message.route == explanation_pb2.ANSWER_ROUTE_FALLBACK
        assert list(message.failed_served_entities) == ["m-1"]
        assert message.inference_table_full_name == endpoint.table.full_name
        model = message.model
        assert (model.model_name, model.model_version, model.created_by) == (MODEL, 2, "alice")
        assert (model.run.run_id, model.run.git_commit, model.job_id) == (
            *("run-1", "0123abc"),
            "job-1",
        )
        assert not model.run.HasField("ended_at")
        assert list(model.logged_model_ids) == ["lm-1"]
        tables = [(one.full_name, one.version, one.context) for one in model.tables]
        assert tables == [("a.b.more", "v7", ""), ("a.b.rows", "v3", "training")]
        assert not message.gaps
        assert message.duration.ToMilliseconds() == 2


async def test_a_request_that_reached_no_model_has_none() -> None:
    world = World()
    request_id = await world.put(
        await world.add(), model_version=0, model_name="", route="REFUSED", status_code=3
    )
    found = explanation_message(await world.explanations.explain(ADA, request_id))
    assert (found.status_code, found.HasField("model"), list(found.gaps)) == (3, False, [])


async def test_what_cannot_be_told_is_named_with_its_reason() -> None:
    world = World()
    request_id = await world.put(await world.add())
    world.models.deny("ada", MODEL)
    world.origins.denied.add("ada")
    found = await world.explanations.explain(ADA, request_id)
    assert {gap.part for gap in found.gaps} == {"model_version", "lineage"}
    assert any("needs READ" in gap.reason for gap in found.gaps)
    assert found.origin is not None
    assert (found.origin.model_version, found.origin.run) == (2, None)
    world = World()
    request_id = await world.put(await world.add())
    world.origins.up = False
    found = await world.explanations.explain(ADA, request_id)
    assert [gap.part for gap in found.gaps] == ["lineage", "run"]
    assert "does not answer" in found.gaps[0].reason


async def test_a_version_without_a_run_is_led_back_by_lineage() -> None:
    world = World()
    world.models.put(MODEL, 2, {})
    request_id = await world.put(await world.add())
    found = await world.explanations.explain(ADA, request_id)
    assert found.origin is not None
    assert found.origin.run == RUN


async def test_who_may_neither_read_the_table_nor_manage_learns_nothing() -> None:
    world = World()
    endpoint = await world.add()
    request_id = await world.put(endpoint)
    with pytest.raises(RequestNotWritten, match="about a second"):
        await world.explanations.explain(BOB, request_id)
    with pytest.raises(EndpointNotFound):
        await world.explanations.explain(BOB, request_id, endpoint="flights")
    # After the endpoint is gone its readers go on, and a later one of the name opens nothing.
    await world.endpoints.delete(endpoint, [])
    await world.add(prefix="second")
    assert (await world.explanations.explain(ADA, request_id)).table == "a.b.flights_payload"
    assert (await world.explanations.explain(ADA, request_id, endpoint="flights")).table
    with pytest.raises(RequestNotWritten):
        await world.explanations.explain(MIA, request_id)


async def test_rows_that_are_not_there_are_told_apart_by_age() -> None:
    world = World()
    await world.add()
    young, old = new_id(), "01890000-0000-7000-8000-000000000000"
    with pytest.raises(RequestNotWritten) as caught:
        await world.explanations.explain(ADA, young)
    assert caught.value.retry_after == 1.0
    with pytest.raises(RequestNotWritten):
        await world.explanations.explain(ADA, f"{young}.s0")
    for unknown in (old, "no uuid", "00000000-0000-4000-8000-000000000000", "'; DROP TABLE x"):
        with pytest.raises(RequestNotFound, match="not sampled"):
            await world.explanations.explain(ADA, unknown)


async def test_a_callers_own_id_counts_when_it_is_unique() -> None:
    world = World()
    endpoint = await world.add()
    first = await world.put(endpoint, client_request_id="mine")
    await world.put(endpoint, f"{first}.s0", client_request_id="mine", route="SHADOW")
    found = await world.explanations.explain(ADA, "", "mine", "flights")
    assert found.request.request_id == first
    second = await world.put(endpoint, client_request_id="mine")
    with pytest.raises(RequestAmbiguous) as caught:
        await world.explanations.explain(ADA, "", "mine", "flights")
    assert caught.value.metadata["tessera_request_ids"] == f"{second},{first}"
    with pytest.raises(RequestNotFound, match="'other'"):
        await world.explanations.explain(ADA, "", "other", "flights")
    for request_id, client_id, name in (("", "", ""), ("a", "b", "flights"), ("", "b", "")):
        with pytest.raises(InvalidExplanation):
            await world.explanations.explain(ADA, request_id, client_id, name)


def test_only_the_making_of_a_version_belongs_to_it() -> None:
    found = origins_of(VERSION, STEPS)
    assert (found.runs, found.jobs) == (("run-1",), ("job-1",))
    assert found.logged_models == ("lm-1",)
    assert found.tables == (UsedTable("a.b.rows"), UsedTable("a.b.more", "v7"))


NODES = st.builds(LineageNode, st.sampled_from(list(NodeKind)), st.sampled_from("abc"))


@given(st.lists(st.builds(LineageStep, NODES, NODES), max_size=30), NODES)
@settings(deadline=None)
def test_any_graph_is_walked_once(steps: list[LineageStep], version: LineageNode) -> None:
    """Cycles end, names are told once, and each was really a source of something reached."""
    found = origins_of(version, steps)
    sources = {one.source for one in steps}
    for kind, names in (
        (NodeKind.RUN, found.runs),
        (NodeKind.JOB, found.jobs),
        (NodeKind.LOGGED_MODEL, found.logged_models),
        (NodeKind.TABLE, tuple(table.full_name for table in found.tables)),
    ):
        assert len(set(names)) == len(names)
        assert {LineageNode(kind, name) for name in names} <= sources
    assert found == origins_of(version, [*steps, *steps])
