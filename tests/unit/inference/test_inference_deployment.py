"""Configurations become ready behind the old one's back; the runtime is kept in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from services.inference.adapters.memory import (
    InMemoryBundles,
    InMemoryEndpoints,
    InMemoryPayloads,
    InMemoryRuntime,
    InMemorySecrets,
)
from services.inference.adapters.memory_catalog import InMemoryModels, InMemoryTables
from services.inference.domain.endpoint import (
    Endpoint,
    EndpointState,
    EntityRequest,
    UpdateState,
)
from services.inference.domain.runtime_options import RuntimeOptions, SequenceOptions
from services.inference.domain.signature import Flavor
from services.inference.errors import (
    CodeNotAllowed,
    EndpointExists,
    EndpointNotFound,
    InvalidConfig,
    ModelNotServable,
    RequestIdReused,
    StaleEtag,
    TableUnavailable,
    UpdateInProgress,
)
from services.inference.gateway.routing import RouteTable
from services.inference.handlers.changes import Changes
from services.inference.handlers.deployment import Deployer
from services.inference.handlers.endpoints import EndpointHandlers
from services.inference.handlers.resolution import Resolver
from tessera.catalog.v1 import securable_pb2
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.clock import ManualClock
from tessera_kit.errors import NotFound, PermissionDenied
from tessera_kit.rpc.authority import InMemoryAuthority
from tessera_kit.rpc.deadline import enter_call, time_remaining
from tessera_kit.rpc.identity import Principal
from tests.helpers import eventually
from tests.unit.inference.archives import torchscript_archive

MODEL = "main.flights.delay"
SCHEMA = "main.flights"
ADA = Principal("ada")
BOB = Principal("bob")
ADMIN = Principal("root", is_admin=True)


class Control:
    """The control plane with twins around it."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.manifest = {**manifest, "flavor": "torchscript", "file": "model.pt"}
        self.endpoints = InMemoryEndpoints()
        self.models = InMemoryModels()
        self.runtime = InMemoryRuntime(self._answer)
        self.tables = InMemoryTables([SCHEMA])
        self.authority = InMemoryAuthority()
        self.authority.grant(
            "ada",
            [securable_pb2.PRIVILEGE_CREATE_ENDPOINT],
            securable_pb2.SECURABLE_TYPE_METASTORE,
            "metastore",
        )
        self.authority.grant(
            "ada",
            [securable_pb2.PRIVILEGE_EXECUTE],
            securable_pb2.SECURABLE_TYPE_MODEL,
            MODEL,
        )
        self.routes = RouteTable()
        self.changes = Changes()
        self.clock = ManualClock()
        self.bundles = InMemoryBundles()
        self.secrets = InMemorySecrets()
        self.payloads = InMemoryPayloads()
        self.deployer = self.new_deployer()
        for version in (1, 2):
            self.put_version(version)
        self.handlers = EndpointHandlers(
            endpoints=self.endpoints,
            tables=self.tables,
            reader=self.payloads,
            resolver=Resolver(self.models, self.authority),
            deployer=self.deployer,
            authority=self.authority,
            changes=self.changes,
            clock=self.clock,
        )

    def share(self, other: Control) -> None:
        """Stand on the same store and runtime as another process does."""
        self.endpoints, self.models = other.endpoints, other.models
        self.runtime, self.bundles = other.runtime, other.bundles
        self.secrets = other.secrets
        self.deployer = self.new_deployer()

    def new_deployer(self) -> Deployer:
        return Deployer(
            endpoints=self.endpoints,
            models=self.models,
            runtime=self.runtime,
            bundles=self.bundles,
            secrets=self.secrets,
            routes=self.routes,
            changes=self.changes,
            clock=self.clock,
            interval_seconds=0.01,
        )

    @staticmethod
    async def _answer(request: bytes) -> bytes:
        return request

    def put_version(self, version: int, *, content: bytes = b"", ready: bool = True) -> None:
        self.models.put(
            MODEL,
            version,
            {
                "model.json": json.dumps(self.manifest).encode(),
                "model.pt": content or torchscript_archive(version),
            },
            ready=ready,
        )

    async def create(self, name: str = "delays", **changes: Any) -> Endpoint:
        arguments: dict[str, Any] = {
            "caller": ADA,
            "name": name,
            "comment": "",
            "entities": [entity(1)],
            "schema": SCHEMA,
            "table_prefix": "",
            "request_id": "",
            **changes,
        }
        return await self.handlers.create(**arguments)

    async def created(self, name: str = "delays", **changes: Any) -> Endpoint:
        await self.create(name, **changes)
        await self.deployer.idle()
        return await self.endpoints.get(name)

    def steps(self) -> list[str]:
        """What the events say was done, in order."""
        prefix = "ENDPOINT_STEP_"
        return [
            pb.EndpointStep.Name(event.data.step).removeprefix(prefix)
            for event in self.endpoints.told
            if isinstance(event.data, pb.EndpointChanged)
        ]

    def told(self) -> list[str]:
        return [event.type.rpartition(".")[2] for event in self.endpoints.told]


def entity(version: int = 1, share: int = 100, **changes: Any) -> EntityRequest:
    return replace(EntityRequest("", MODEL, version, "", share, 1), **changes)


@pytest.fixture
async def control(manifest: dict[str, Any]) -> AsyncIterator[Control]:
    control = Control(manifest)
    yield control
    await control.deployer.idle()


async def test_a_new_endpoint_becomes_ready(control: Control) -> None:
    starting = await control.create()
    assert (starting.state, starting.update_state) == (
        EndpointState.NOT_READY,
        UpdateState.IN_PROGRESS,
    )
    await control.deployer.idle()
    endpoint = await control.endpoints.get("delays")
    assert endpoint.state is EndpointState.READY
    assert endpoint.config is not None
    (served,) = endpoint.config.entities
    assert served.name == "delay-1"
    assert await control.runtime.loaded() == {served.runtime_name}
    assert control.routes.find("delays").config_version == 1
    assert control.tables.owners == {"main.flights.delays_payload": "ada"}
    assert control.told() == ["EndpointChanged", "EndpointChanged", "LineageObserved"]
    edges = control.endpoints.told[-1].data.edges
    assert [(edge.source.name, edge.target.name) for edge in edges] == [
        (f"{MODEL}/1", "delays"),
        ("delays", "main.flights.delays_payload"),
    ]
    owner = control.authority.owner_of(securable_pb2.SECURABLE_TYPE_ENDPOINT, "delays")
    assert owner == "ada"


async def test_a_deployment_outlives_the_deadline_of_its_call(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[float | None] = []
    load = control.runtime.load

    async def watched(*arguments: Any) -> None:
        left.append(time_remaining())
        await load(*arguments)

    monkeypatch.setattr(control.runtime, "load", watched)

    async def call() -> None:
        enter_call(0.0)
        await control.create()

    await asyncio.create_task(call())
    await control.deployer.idle()
    assert left == [None]


async def test_an_alias_is_resolved_once(control: Control) -> None:
    control.models.put_alias(MODEL, "champion", 1)
    endpoint = await control.created(entities=[entity(0, model_alias="champion")])
    control.models.put_alias(MODEL, "champion", 2)
    assert endpoint.config is not None
    assert (endpoint.config.entities[0].model_version) == 1
    assert (endpoint.config.entities[0].model_alias) == "champion"


async def test_the_old_configuration_answers_and_then_goes(control: Control) -> None:
    first = await control.created()
    assert first.config is not None
    route = control.routes.find("delays")
    in_flight = route.choose("")
    in_flight.enter()
    updating = await control.handlers.update_config(ADA, "delays", [entity(2)], first.etag)
    assert updating.config == first.config
    await eventually(lambda: control.routes.find("delays").config_version == 2)
    old = first.config.entities[0].runtime_name
    new = control.routes.find("delays").entities[0].runtime_name
    assert await control.runtime.loaded() == {old, new}, "a request is still in the old one"
    in_flight.leave()
    await control.deployer.idle()
    assert await control.runtime.loaded() == {new}


async def test_a_failed_update_leaves_the_old_one(control: Control) -> None:
    first = await control.created()
    control.put_version(2, content=torchscript_archive(99))
    control.runtime.refuse(b"99", "no such layer")
    await control.handlers.update_config(ADA, "delays", [entity(2)], "")
    await control.deployer.idle()
    endpoint = await control.endpoints.get("delays")
    assert endpoint.config == first.config
    assert (endpoint.update_state, endpoint.pending) == (UpdateState.FAILED, None)
    assert "delay-2" in endpoint.update_message
    assert first.config is not None
    assert await control.runtime.loaded() == {first.config.entities[0].runtime_name}
    control.put_version(2)
    await control.handlers.update_config(ADA, "delays", [entity(2)], "")
    await control.deployer.idle()
    endpoint = await control.endpoints.get("delays")
    assert endpoint.config is not None
    assert endpoint.config.version == 3


async def test_an_unsafe_file_fails_the_update(control: Control) -> None:
    control.put_version(1, content=b"\x80\x04pickle")
    endpoint = await control.created()
    assert endpoint.update_state is UpdateState.FAILED
    assert "not an archive" in endpoint.update_message
    assert endpoint.state is EndpointState.NOT_READY


async def test_a_second_update_must_wait(control: Control) -> None:
    await control.created()
    control.runtime.up = False
    await control.handlers.update_config(ADA, "delays", [entity(2)], "")
    with pytest.raises(UpdateInProgress):
        await control.handlers.update_config(ADA, "delays", [entity(1)], "")
    control.runtime.up = True
    await control.deployer.idle()
    assert control.routes.find("delays").config_version == 2


async def test_shares_change_at_once(control: Control) -> None:
    await control.created(entities=[entity(1, 90), entity(2, 10)])
    moved = await control.handlers.update_traffic(ADA, "delays", {"delay-1": 0, "delay-2": 100}, "")
    route = control.routes.find("delays")
    assert {route.choose("").name for _ in range(10)} == {"delay-2"}
    with pytest.raises(StaleEtag):
        await control.handlers.update_traffic(ADA, "delays", {"delay-1": 100, "delay-2": 0}, "old")
    assert moved.config is not None
    assert moved.config.version == 1


async def test_a_killed_runtime_gets_its_models_back(control: Control) -> None:
    endpoint = await control.created()
    assert endpoint.config is not None
    name = endpoint.config.entities[0].runtime_name
    running = asyncio.create_task(control.deployer.run())
    control.runtime.restart()
    control.models.deny("ada", MODEL)
    await eventually(lambda: control.runtime.has(name))
    running.cancel()
    await asyncio.wait([running])


async def test_what_is_asked_for_is_loaded_before_others(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for letter in "abcd":
        endpoint = await control.created(f"delays-{letter}")
        assert endpoint.config is not None
        names.append(endpoint.config.entities[0].runtime_name)
    control.runtime.restart()
    loads: list[str] = []
    load = control.runtime.load

    async def note(name: str, config: str, files: Mapping[str, bytes]) -> None:
        loads.append(name)
        await load(name, config, files)

    monkeypatch.setattr(control.runtime, "load", note)
    control.deployer.suspect(names[3])
    await control.deployer.reconcile()
    assert loads[0] == names[3]
    assert sorted(loads) == names


async def test_what_nobody_routes_to_is_unloaded(control: Control) -> None:
    endpoint = await control.created()
    assert endpoint.config is not None
    await control.runtime.load("tessera-orphan-1-0", "{}", {})
    await control.runtime.load("somebody-elses", "{}", {})
    await control.deployer.reconcile()
    assert await control.runtime.loaded() == {
        endpoint.config.entities[0].runtime_name,
        "somebody-elses",
    }


async def test_a_restarted_service_goes_on(control: Control) -> None:
    await control.created()
    control.runtime.up = False
    await control.handlers.update_config(ADA, "delays", [entity(2)], "")
    running = asyncio.create_task(control.deployer.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    control.runtime.restart()
    control.runtime.up = True
    control.routes.remove("delays")
    restarted = control.new_deployer()
    await restarted.start()
    assert control.routes.find("delays").config_version == 1
    await restarted.idle()
    assert control.routes.find("delays").config_version == 2


async def test_a_deleted_endpoint_is_gone_and_its_table_stays(control: Control) -> None:
    await control.created()
    await control.handlers.delete(ADA, "delays", "")
    await control.deployer.idle()
    assert await control.runtime.loaded() == set()
    with pytest.raises(EndpointNotFound):
        control.routes.find("delays")
    with pytest.raises(EndpointNotFound):
        await control.handlers.get(ADMIN, "delays")
    assert await control.endpoints.table_of("delays") is not None
    assert control.told()[-1] == "EndpointDeleted"
    owner = control.authority.owner_of(securable_pb2.SECURABLE_TYPE_ENDPOINT, "delays")
    assert owner is None


async def test_an_endpoint_can_be_deleted_while_it_is_made_ready(control: Control) -> None:
    control.runtime.up = False
    await control.create()
    await control.handlers.delete(ADA, "delays", "")
    control.runtime.up = True
    await control.deployer.idle()
    await control.deployer.reconcile()
    assert await control.runtime.loaded() == set()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"caller": BOB}, PermissionDenied),
        ({"entities": [entity(3)]}, NotFound),
        ({"entities": [entity(0, model_alias="champion")]}, NotFound),
        ({"entities": [entity(1, model_name="main.flights.other")]}, PermissionDenied),
        ({"entities": [entity(1, 60)]}, InvalidConfig),
        ({"entities": [entity(1, 50), entity(1, 50)]}, InvalidConfig),
        ({"schema": "main.other"}, NotFound),
    ],
)
async def test_what_cannot_be_served_is_refused_and_changes_nothing(
    control: Control, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await control.create(**changes)
    assert await control.endpoints.all() == []
    assert control.endpoints.told == []
    assert control.tables.owners == {}


async def test_a_version_that_is_not_ready_is_refused(control: Control) -> None:
    control.put_version(3, ready=False)
    with pytest.raises(ModelNotServable, match="not ready"):
        await control.create(entities=[entity(3)])


async def test_a_version_without_a_manifest_is_refused(control: Control) -> None:
    control.models.put(MODEL, 3, {"model.pt": b""})
    with pytest.raises(ModelNotServable, match=r"model\.json"):
        await control.create(entities=[entity(3)])


MLMODEL = b"""
flavors: {python_function: {loader_module: mlflow.sklearn}}
signature: {inputs: '[{"type": "long", "name": "n"}]', outputs: '[{"type": "long"}]'}
"""


async def test_a_model_that_brings_code_must_be_allowed(control: Control) -> None:
    control.models.put(MODEL, 3, {"MLmodel": MLMODEL, "model.pkl": b"x"})
    with pytest.raises(CodeNotAllowed, match=r"served_entities\[0\].allow_code must be true"):
        await control.create(entities=[entity(3)])
    endpoint = await control.created(entities=[entity(3, allow_code=True)])
    assert endpoint.config is not None
    assert endpoint.config.entities[0].signature.flavor is Flavor.MLFLOW
    told = control.endpoints.told[0].data
    assert told.endpoint.pending_config.served_entities[0].allow_code
    assert told.principal == "ada"


def a_class(**changes: Any) -> dict[str, bytes]:
    column = {"name": "x", "datatype": "FP32", "shape": [-1, 1]}
    manifest = {"flavor": "python", "entry": "m:M", "inputs": [column], "outputs": [column]}
    return {
        "model.json": json.dumps({**manifest, **changes}).encode(),
        "code/m.py": b"class M: ...",
    }


async def test_a_class_that_keeps_state_is_asked_by_sequence(control: Control) -> None:
    control.models.put(MODEL, 3, a_class(stateful=True))
    with pytest.raises(CodeNotAllowed, match="flavor python brings code"):
        await control.create(entities=[entity(3)])
    endpoint = await control.created(entities=[entity(3, allow_code=True)])
    assert endpoint.config is not None
    assert endpoint.config.has_sequences
    config = json.loads(control.runtime.config(endpoint.config.entities[0].runtime_name))
    assert "sequence_batching" in config
    control.models.put(MODEL, 4, a_class())
    stateful = RuntimeOptions(sequences=SequenceOptions())
    with pytest.raises(InvalidConfig, match="needs a class that keeps state"):
        await control.handlers.update_config(
            ADA, "delays", [entity(4, allow_code=True, runtime=stateful)], ""
        )


async def test_a_class_that_streams_is_decoupled(control: Control) -> None:
    control.models.put(MODEL, 3, a_class(streams=True))
    endpoint = await control.created(entities=[entity(3, allow_code=True)])
    assert endpoint.config is not None
    config = json.loads(control.runtime.config(endpoint.config.entities[0].runtime_name))
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert "dynamic_batching" not in config


async def test_only_the_creator_allows_code(control: Control) -> None:
    control.models.put(MODEL, 3, {"MLmodel": MLMODEL})
    await control.created()
    control.authority.grant(
        "bob", [securable_pb2.PRIVILEGE_MANAGE], securable_pb2.SECURABLE_TYPE_ENDPOINT, "delays"
    )
    allowed = [entity(3, allow_code=True)]
    with pytest.raises(PermissionDenied, match="only ada"):
        await control.handlers.update_config(BOB, "delays", allowed, "")
    await control.handlers.update_config(ADA, "delays", allowed, "")
    await control.deployer.idle()
    await control.handlers.update_config(BOB, "delays", [entity(1)], "")


async def test_entities_must_share_an_interface(control: Control) -> None:
    control.manifest["inputs"][0]["shape"] = [-1, 5]
    control.put_version(2)
    with pytest.raises(InvalidConfig, match="other tensors"):
        await control.create(entities=[entity(1, 50), entity(2, 50)])


async def test_names_are_taken_once(control: Control) -> None:
    await control.created()
    with pytest.raises(EndpointExists):
        await control.create()
    with pytest.raises(TableUnavailable, match="table_name_prefix"):
        await control.create("others", table_prefix="delays")


async def test_a_request_id_makes_creation_idempotent(control: Control) -> None:
    first = await control.created(request_id="r1")
    again = await control.create(request_id="r1")
    assert again.endpoint_id == first.endpoint_id
    with pytest.raises(RequestIdReused):
        await control.create("others", request_id="r1")


async def test_strangers_see_and_change_nothing(control: Control) -> None:
    endpoint = await control.created()
    with pytest.raises(EndpointNotFound):
        await control.handlers.get(BOB, "delays")
    assert await control.handlers.page(BOB, "", 10) == ([], "")
    control.authority.grant(
        "bob",
        [securable_pb2.PRIVILEGE_EXECUTE],
        securable_pb2.SECURABLE_TYPE_ENDPOINT,
        "delays",
    )
    assert (await control.handlers.get(BOB, "delays")).etag == endpoint.etag
    for change in (
        control.handlers.delete(BOB, "delays", ""),
        control.handlers.update_traffic(BOB, "delays", {"delay-1": 100}, ""),
        control.handlers.update_config(BOB, "delays", [entity(2)], ""),
        control.handlers.statistics(BOB, "delays", None),
    ):
        with pytest.raises(PermissionDenied):
            await change


async def test_pages_hold_what_the_caller_sees(control: Control) -> None:
    for name in ("a", "b", "c", "d"):
        await control.created(name)
    found, after = await control.handlers.page(ADA, "", 3)
    assert ([one.name for one in found], after) == (["a", "b", "c"], "c")
    found, after = await control.handlers.page(ADA, after, 3)
    assert ([one.name for one in found], after) == (["d"], "")


async def test_followers_see_every_state_and_the_end(control: Control) -> None:
    control.runtime.up = False
    await control.create()
    states = []

    async def follow() -> None:
        async for endpoint in control.handlers.watch(ADA, "delays"):
            states.append(endpoint.update_state)

    following = asyncio.create_task(follow())
    await eventually(lambda: len(states) == 1)
    control.runtime.up = True
    await control.deployer.idle()
    await eventually(lambda: len(states) == 2)
    await control.handlers.delete(ADA, "delays", "")
    await asyncio.wait_for(following, 10)
    assert states == [UpdateState.IN_PROGRESS, UpdateState.NOT_UPDATING]


async def test_the_creators_rights_must_suffice_for_an_update(control: Control) -> None:
    await control.created()
    control.authority.revoke(
        "ada",
        [securable_pb2.PRIVILEGE_EXECUTE],
        securable_pb2.SECURABLE_TYPE_MODEL,
        MODEL,
    )
    with pytest.raises(PermissionDenied):
        await control.handlers.update_config(ADMIN, "delays", [entity(2)], "")
