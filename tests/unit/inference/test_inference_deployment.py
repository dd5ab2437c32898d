"""Configurations become ready behind the old one's back; the runtime is kept in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from services.inference.domain.endpoint import EndpointState, UpdateState
from services.inference.errors import EndpointNotFound, StaleEtag, UpdateInProgress
from tessera.catalog.v1 import securable_pb2
from tessera_kit.rpc.deadline import enter_call, time_remaining
from tests.helpers import eventually
from tests.unit.inference.archives import torchscript_archive
from tests.unit.inference.control import ADA, ADMIN, MODEL, Control, entity


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
