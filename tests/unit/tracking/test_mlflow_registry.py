"""The MLflow door: the registry, over a real catalog on adapters in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.catalog.domain.privileges import Privilege
from services.catalog.servicers.bindings import bindings
from services.tracking.adapters.catalog import CatalogRegistry
from services.tracking.handlers.registry import Registry
from services.tracking.handlers.version_files import Caller, VersionFiles
from tessera.catalog.v1 import authorization_service_pb2 as auth
from tessera.catalog.v1 import authorization_service_pb2_grpc as auth_rpc
from tessera.events.v1 import catalog_events_pb2
from tessera_kit.config import RpcConfig, Secret
from tessera_kit.rpc.catalog_authority import CatalogAuthority
from tessera_kit.rpc.client import open_channel
from tessera_kit.rpc.server import build_server
from tests.catalog_world import ADMIN_TOKEN, SERVICE_TOKEN, World, let_pass, schema
from tests.helpers import eventually
from tests.mlflow_door import Door

INVALID = (400, "INVALID_PARAMETER_VALUE")
MISSING = (404, "RESOURCE_DOES_NOT_EXIST")
ROOT = "/api/2.0/mlflow-artifacts/artifacts"
MODELS, VERSIONS = "registered-models", "model-versions"


@pytest.fixture
async def world() -> World:
    world = World()
    await world.begin()
    await world.make(schema("main.other"))
    return world


@pytest.fixture
async def tokens() -> dict[str, str]:
    return {}


@pytest.fixture
async def door(world: World, tokens: dict[str, str]) -> AsyncIterator[Door]:
    config = RpcConfig(listen="127.0.0.1:0", drain_seconds=0.1)
    server = build_server(config, bindings(world.cases), authenticator=world.cases.tokens)
    await server.start()
    own = open_channel(server.address, token=Secret(SERVICE_TOKEN))
    bare = open_channel(server.address)
    try:
        for name in ("alice", "bob"):
            await world.user(name)
            stub: Any = auth_rpc.AuthorizationServiceStub(bare)  # type: ignore[arg-type]
            made = await stub.CreateToken(
                auth.CreateTokenRequest(principal=name),
                metadata=(("authorization", f"Bearer {ADMIN_TOKEN}"),),
            )
            tokens[name] = made.secret
        await let_pass(world, "alice", [Privilege.CREATE_MODEL, Privilege.CREATE_EXPERIMENT])
        door = Door(CatalogAuthority(own), CatalogRegistry(bare), token=tokens["alice"])
        await door.cases.experiments.ensure_default()
        yield door
    finally:
        await own.close()
        await bare.close()
        await server.stop()


async def source(door: Door, content: bytes = b"flavors:") -> tuple[str, str]:
    """A run with a model's files; returns the run's id and the source's URI."""
    run_id = await door.run()
    for name in ("model/MLmodel", "model/data/weights"):
        path = f"{ROOT}/0/{run_id}/artifacts/{name}"
        assert (await door.send("PUT", path, content, content_type="text/plain")).status == 200
    return run_id, f"mlflow-artifacts:/0/{run_id}/artifacts/model"


async def registered(door: Door, name: str = "net", **fields: Any) -> Any:
    answer = await door.ok("POST", f"{MODELS}/create", {"name": name, **fields})
    return answer["registered_model"]


async def versioned(door: Door, name: str = "net", **fields: Any) -> Any:
    run_id, uri = await source(door)
    asked = {"name": name, "source": uri, "run_id": run_id, **fields}
    return (await door.ok("POST", f"{VERSIONS}/create", asked))["model_version"]


async def test_a_model_is_registered_described_and_deleted(door: Door) -> None:
    tags = [{"key": "team", "value": "ml"}]
    made = await registered(door, description="first", tags=tags)
    assert (made["name"], made["description"], made["tags"]) == ("net", "first", tags)
    taken = await door.call("POST", f"{MODELS}/create", {"name": "net"})
    assert taken.error == (400, "RESOURCE_ALREADY_EXISTS")
    await door.ok("PATCH", f"{MODELS}/update", {"name": "net", "description": "second"})
    await door.ok("POST", f"{MODELS}/set-tag", {"name": "net", "key": "a", "value": "b"})
    await door.ok("DELETE", f"{MODELS}/delete-tag", {"name": "net", "key": "team"})
    found = (await door.ok("GET", f"{MODELS}/get", {"name": "net"}))["registered_model"]
    assert found["description"] == "second"
    assert found["tags"] == [{"key": "a", "value": "b"}]
    await door.ok("DELETE", f"{MODELS}/delete", {"name": "net"})
    gone = await door.call("GET", f"{MODELS}/get", {"name": "net"})
    assert gone.error == MISSING
    assert gone.json()["message"] == "Registered Model with name=net not found"


async def test_a_renamed_model_keeps_what_it_had_and_its_old_name_is_gone(door: Door) -> None:
    await registered(door, "My Net", tags=[{"key": "team", "value": "ml"}])
    await registered(door, "other")
    made = await versioned(door, "My Net")
    alias = {"name": "My Net", "alias": "champion", "version": "1"}
    await door.ok("POST", f"{MODELS}/alias", alias)
    rename = f"{MODELS}/rename"
    renamed = await door.ok("POST", rename, {"name": "My Net", "new_name": "Your Net"})
    told = renamed["registered_model"]
    assert (told["name"], told["tags"]) == ("Your Net", [{"key": "team", "value": "ml"}])
    assert told["aliases"] == [{"alias": "champion", "version": "1"}]
    [version] = told["latest_versions"]
    assert (version["name"], version["source"]) == ("Your Net", made["source"])
    asked = {"name": "Your Net", "version": "1"}
    uri = (await door.ok("GET", f"{VERSIONS}/get-download-uri", asked))["artifact_uri"]
    assert uri == "mlflow-artifacts:/registry/main.default.your_net/1"
    assert (await door.call("GET", f"{MODELS}/get", {"name": "My Net"})).error == MISSING
    for body, error in (
        ({"name": "My Net", "new_name": "x"}, MISSING),
        ({"name": "Your Net", "new_name": "other"}, (400, "RESOURCE_ALREADY_EXISTS")),
        ({"name": "Your Net", "new_name": "___"}, (400, "INVALID_PARAMETER_VALUE")),
        ({"name": "Your Net"}, (400, "INVALID_PARAMETER_VALUE")),
        ({"name": "Your Net", "new_name": "main.none.net"}, MISSING),
    ):
        assert (await door.call("POST", rename, body)).error == error, body
    found = await door.ok("GET", f"{MODELS}/search")
    assert [one["name"] for one in found["registered_models"]] == ["Your Net", "other"]
    plain = await door.ok("POST", rename, {"name": "Your Net", "new_name": "your_net"})
    assert plain["registered_model"]["name"] == "your_net"


async def test_plain_names_land_in_the_default_schema_and_full_names_where_they_say(
    door: Door,
) -> None:
    await registered(door, "My Model")
    await registered(door, "main.other.net")
    full = await door.ok("GET", f"{MODELS}/get", {"name": "main.default.my_model"})
    assert full["registered_model"]["name"] == "main.default.my_model"
    names = [one["name"] for one in (await door.ok("GET", f"{MODELS}/search"))["registered_models"]]
    assert names == ["My Model", "main.other.net"]
    for wrong in ("", "___", "ü" * 3, "x" * 200, "main.none.net"):
        answer = await door.call("POST", f"{MODELS}/create", {"name": wrong})
        assert answer.status in {400, 403, 404}, wrong


async def test_a_version_holds_the_files_of_its_source(door: Door) -> None:
    await registered(door)
    run_id, uri = await source(door)
    asked = {"name": "net", "source": uri, "run_id": run_id, "description": "d"}
    made = (await door.ok("POST", f"{VERSIONS}/create", asked))["model_version"]
    assert (made["version"], made["status"], made["source"]) == ("1", "READY", uri)
    assert (made["run_id"], made["description"]) == (run_id, "d")
    place = {"name": "net", "version": "1"}
    told = (await door.ok("GET", f"{VERSIONS}/get-download-uri", place))["artifact_uri"]
    assert told == "mlflow-artifacts:/registry/main.default.net/1"
    path = told.removeprefix("mlflow-artifacts:/")
    listed = (await door.ok("GET", ROOT, {"path": path}))["files"]
    assert [(one["path"], one["is_dir"]) for one in listed] == [("MLmodel", False), ("data", True)]
    below = (await door.ok("GET", ROOT, {"path": f"{path}/data"}))["files"]
    assert below == [{"path": "weights", "is_dir": False, "file_size": 8}]
    read = await door.send("GET", f"{ROOT}/{path}/data/weights", content_type=None)
    assert read.body == b"flavors:"
    for method in ("PUT", "DELETE"):
        refused = await door.send(method, f"{ROOT}/{path}/MLmodel", b"x")
        assert 400 <= refused.status < 500
    missing = await door.send("GET", f"{ROOT}/{path}/none", content_type=None)
    assert missing.status == 404


async def test_versions_are_made_of_logged_models_and_of_versions(door: Door) -> None:
    await registered(door)
    await registered(door, "copy")
    model = (await door.ok("POST", "logged-models", {"experiment_id": "0"}))["model"]["info"]
    model_id = model["model_id"]
    await door.ok(
        "POST", f"logged-models/{model_id}/params", {"params": [{"key": "lr", "value": "1"}]}
    )
    path = f"{ROOT}/0/models/{model_id}/artifacts/MLmodel"
    await door.send("PUT", path, b"x", content_type="text/plain")
    asked = {"name": "net", "source": f"models:/{model_id}", "model_id": model_id}
    made = (await door.ok("POST", f"{VERSIONS}/create", asked))["model_version"]
    assert made["model_id"] == model_id
    found = await door.ok("GET", f"{VERSIONS}/get", {"name": "net", "version": "1"})
    assert found["model_version"]["model_params"] == [{"name": "lr", "value": "1"}]
    again = {"name": "copy", "source": "models:/net/1"}
    copied = (await door.ok("POST", f"{VERSIONS}/create", again))["model_version"]
    assert (copied["name"], copied["status"]) == ("copy", "READY")


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "./model",
        "mlflow-artifacts:/0/../../x",
        "mlflow-artifacts:/0/%2e%2e/x",
        "mlflow-artifacts:/0/none/artifacts/model",
        "mlflow-artifacts://host/0/r/artifacts",
        "runs:/none/model",
        "models:/m-none",
        "models:/none/1",
        "s3://bucket/../x",
        "",
    ],
)
async def test_a_source_that_is_not_there_or_not_ours_is_refused(door: Door, uri: str) -> None:
    await registered(door)
    answer = await door.call("POST", f"{VERSIONS}/create", {"name": "net", "source": uri})
    assert answer.error in {INVALID, MISSING}
    versions = await door.ok("GET", f"{VERSIONS}/search", {"filter": "name='net'"})
    assert versions["model_versions"] == []


async def test_a_source_elsewhere_is_kept_as_it_is(door: Door) -> None:
    await registered(door)
    asked = {"name": "net", "source": "s3://bucket/model"}
    made = (await door.ok("POST", f"{VERSIONS}/create", asked))["model_version"]
    assert (made["status"], made["source"]) == ("READY", "s3://bucket/model")


async def test_aliases_tags_and_descriptions_of_versions(door: Door) -> None:
    await registered(door)
    none = await door.call("GET", f"{MODELS}/alias", {"name": "net", "alias": "latest"})
    assert none.error == MISSING
    await versioned(door, tags=[{"key": "a", "value": "1"}])
    await versioned(door)
    place = {"name": "net", "version": "1"}
    await door.ok("POST", f"{MODELS}/alias", {**place, "alias": "Champion"})
    by_alias = {"name": "net", "alias": "champion"}
    found = (await door.ok("GET", f"{MODELS}/alias", by_alias))["model_version"]
    assert (found["version"], found["aliases"]) == ("1", ["champion"])
    model = (await door.ok("GET", f"{MODELS}/get", {"name": "net"}))["registered_model"]
    assert model["aliases"] == [{"alias": "champion", "version": "1"}]
    newest = {"name": "net", "alias": "latest"}
    found = (await door.ok("GET", f"{MODELS}/alias", newest))["model_version"]
    assert found["version"] == "2"
    await door.ok("DELETE", f"{MODELS}/alias", by_alias)
    await door.ok("DELETE", f"{MODELS}/alias", by_alias)
    assert (await door.call("GET", f"{MODELS}/alias", by_alias)).error == INVALID
    await door.ok("POST", f"{VERSIONS}/set-tag", {**place, "key": "b", "value": "2"})
    await door.ok("DELETE", f"{VERSIONS}/delete-tag", {**place, "key": "a"})
    await door.ok("PATCH", f"{VERSIONS}/update", {**place, "description": "good"})
    found = (await door.ok("GET", f"{VERSIONS}/get", place))["model_version"]
    assert found["tags"] == [{"key": "b", "value": "2"}]
    assert found["description"] == "good"
    long = {**place, "key": "text", "value": "x" * 100_000}
    await door.ok("POST", f"{VERSIONS}/set-tag", long)
    answer = await door.call("POST", f"{VERSIONS}/set-tag", {**long, "value": "x" * 100_001})
    assert answer.error == INVALID
    own = {**place, "key": "tessera.mlflow.source", "value": "s3://mine"}
    assert (await door.call("POST", f"{VERSIONS}/set-tag", own)).error == INVALID
    await door.ok("DELETE", f"{VERSIONS}/delete", place)
    assert (await door.call("GET", f"{VERSIONS}/get", place)).error == MISSING
    for wrong in ("x", "0", "-1", "9" * 30):
        answer = await door.call("GET", f"{VERSIONS}/get", {"name": "net", "version": wrong})
        assert answer.error == INVALID


@pytest.mark.parametrize(
    ("alias", "told"),
    [
        ("latest", "'latest' alias name (case insensitive) is reserved."),
        ("v12", "Version alias name 'v12' is reserved."),
        ("a b", "Invalid alias name: 'a b'. Names may only contain alphanumerics"),
        ("a" * 256, "'Registered model alias name' exceeds the maximum length of 255 characters"),
    ],
)
async def test_aliases_that_cannot_be_are_refused_in_mlflow_s_words(
    door: Door, alias: str, told: str
) -> None:
    await registered(door)
    await versioned(door)
    place = {"name": "net", "version": "1", "alias": alias}
    answer = await door.call("POST", f"{MODELS}/alias", place)
    assert answer.error == INVALID
    assert told in answer.json()["message"]


async def test_names_and_tags_of_models_have_mlflow_s_rules(door: Door) -> None:
    await registered(door)
    for name in ("a/b", "a:b"):
        told = f"Invalid model name '{name}'. Names cannot contain '/' or ':'."
        for path, fields in (
            ("create", {"name": name}),
            ("rename", {"name": "net", "new_name": name}),
        ):
            answer = await door.call("POST", f"{MODELS}/{path}", fields)
            assert (answer.error, answer.json()["message"]) == (INVALID, told)
    for key, told in (
        ("a//b", "Invalid value \"a//b\" for parameter 'key' supplied"),
        ("k" * 251, "'key' exceeds the maximum length of 250 characters"),
    ):
        tag = {"name": "net", "key": key, "value": "v"}
        answer = await door.call("POST", f"{MODELS}/set-tag", tag)
        assert answer.error == INVALID
        assert told in answer.json()["message"]


async def test_stages_move_as_mlflow_s_did(door: Door) -> None:
    await registered(door)
    for _ in range(3):
        await versioned(door)
    move = f"{VERSIONS}/transition-stage"
    first = {"name": "net", "version": "1", "stage": "production"}
    moved = (await door.ok("POST", move, first))["model_version"]
    assert moved["current_stage"] == "Production"
    second = {**first, "version": "2", "archive_existing_versions": True}
    await door.ok("POST", move, second)
    latest = await door.ok("POST", f"{MODELS}/get-latest-versions", {"name": "net"})
    assert {one["current_stage"]: one["version"] for one in latest["model_versions"]} == {
        "Archived": "1",
        "Production": "2",
        "None": "3",
    }
    only = {"name": "net", "stages": ["Production"]}
    [one] = (await door.ok("GET", f"{MODELS}/get-latest-versions", only))["model_versions"]
    assert one["version"] == "2"
    for wrong in ({"stage": "Live"}, {"stage": "None", "archive_existing_versions": True}):
        assert (await door.call("POST", move, {**first, **wrong})).error == INVALID


async def test_models_and_versions_are_searched(door: Door) -> None:
    await registered(door, "alpha", tags=[{"key": "team", "value": "a"}])
    await registered(door, "beta")
    await registered(door, "say", tags=[{"key": "mlflow.prompt.is_prompt", "value": "true"}])
    for name in ("alpha", "alpha", "beta"):
        await versioned(door, name)

    async def models(**fields: Any) -> list[str]:
        answer = await door.ok("GET", f"{MODELS}/search", fields)
        return [one["name"] for one in answer["registered_models"]]

    assert await models() == ["alpha", "beta"]
    assert await models(filter="name LIKE 'al%'") == ["alpha"]
    assert await models(filter="tags.team = 'a'") == ["alpha"]
    assert await models(order_by=["name DESC"]) == ["beta", "alpha"]
    assert await models(filter="tags.`mlflow.prompt.is_prompt` = 'true'") == ["say"]
    no_prompts = "tag.`mlflow.prompt.is_prompt` != 'true'"
    assert await models(filter=f"name = 'beta' AND {no_prompts}") == ["beta"]
    page = await door.ok("GET", f"{MODELS}/search", {"max_results": 1})
    assert await models(max_results=5, page_token=page["next_page_token"]) == ["beta"]

    async def versions(**fields: Any) -> list[tuple[str, str]]:
        answer = await door.ok("GET", f"{VERSIONS}/search", fields)
        return sorted((one["name"], one["version"]) for one in answer["model_versions"])

    assert await versions() == [("alpha", "1"), ("alpha", "2"), ("beta", "1")]
    assert await versions(filter="name='alpha' AND version_number > 1") == [("alpha", "2")]
    assert await versions(filter="name = 'none'") == []
    found = await door.ok("GET", f"{VERSIONS}/search", {"filter": "name='beta'"})
    run_id = found["model_versions"][0]["run_id"]
    assert await versions(filter=f"run_id = '{run_id}'") == [("beta", "1")]
    wrong = await door.call("GET", f"{VERSIONS}/search", {"filter": "colour = 1"})
    assert wrong.error == INVALID


async def test_the_catalog_s_grants_apply(door: Door, world: World, tokens: dict[str, str]) -> None:
    await registered(door)
    await versioned(door)
    bob = {"token": tokens["bob"]}
    assert (await door.call("GET", f"{MODELS}/get", {"name": "net"}, **bob)).error == MISSING
    refused = await door.call("POST", f"{MODELS}/create", {"name": "mine"}, **bob)
    assert refused.status in {403, 404}
    assert (await door.ok("GET", f"{MODELS}/search", **bob)) == {"registered_models": []}
    path = f"{ROOT}/registry/main.default.net/1/MLmodel"
    assert (await door.send("GET", path, content_type=None, **bob)).status in {403, 404}
    tag = {"name": "net", "version": "1", "key": "a", "value": "b"}
    assert (await door.call("POST", f"{VERSIONS}/set-tag", tag, **bob)).status in {403, 404}


async def test_an_experiment_s_files_are_not_registered_by_who_may_not_read_them(
    door: Door, world: World, tokens: dict[str, str]
) -> None:
    await let_pass(world, "bob", [Privilege.CREATE_MODEL])
    experiment = await door.experiment("hers")
    run_id = await door.run(experiment)
    path = f"{ROOT}/{experiment}/{run_id}/artifacts/MLmodel"
    await door.send("PUT", path, b"secret", content_type="text/plain")
    bob = {"token": tokens["bob"]}
    await door.ok("POST", f"{MODELS}/create", {"name": "his"}, **bob)
    asked = {"name": "his", "source": f"runs:/{run_id}/", "run_id": run_id}
    answer = await door.call("POST", f"{VERSIONS}/create", asked, **bob)
    assert answer.error == (403, "PERMISSION_DENIED")


async def test_a_version_whose_copy_takes_long_is_ready_later(
    door: Door, world: World, tokens: dict[str, str]
) -> None:
    await registered(door)
    run_id, uri = await source(door)
    assert door.registry is not None
    files = VersionFiles(
        door.registry,
        door.cases.artifacts,
        door.cases.models,
        default_schema="main.default",
        soon_seconds=0.0,
    )
    registry = Registry(door.registry, files, default_schema="main.default")
    caller = Caller(await world.caller("alice"), tokens["alice"])
    version = await registry.create_version(
        caller, "net", source=uri, run_id=run_id, model_id="", run_link="", description="", tags={}
    )
    assert not version.is_ready

    async def ready() -> bool:
        return (await registry.get_version(caller, "net", 1)).is_ready

    await eventually(ready)
    other = await registry.create_version(
        caller, "net", source=uri, run_id=run_id, model_id="", run_link="", description="", tags={}
    )
    await files.close()
    found = await registry.get_version(caller, "net", other.version)
    assert found.failed or found.is_ready


async def test_what_a_version_was_made_from_is_told_as_lineage(
    door: Door, world: World, tokens: dict[str, str]
) -> None:
    await registered(door)
    created = await door.ok("POST", "logged-models", {"experiment_id": "0", "name": "net"})
    model_id = created["model"]["info"]["model_id"]
    path = f"{ROOT}/0/models/{model_id}/artifacts/MLmodel"
    assert (await door.send("PUT", path, b"flavors:", content_type="text/plain")).status == 200
    for uri in (f"models:/{model_id}", "models:/net/1", "s3://bucket/elsewhere"):
        await door.ok("POST", f"{VERSIONS}/create", {"name": "net", "source": uri})
    edges = [
        (edge.source.name, edge.target.name)
        for event in door.store.told
        if isinstance(event.data, catalog_events_pb2.LineageObserved)
        for edge in event.data.edges
    ]
    assert edges == [
        (model_id, "main.default.net/1"),
        ("main.default.net/1", "main.default.net/2"),
    ]

    hidden = await door.experiment("hers")
    created = await door.ok("POST", "logged-models", {"experiment_id": hidden, "name": "net"})
    told = len(door.store.told)
    await let_pass(world, "bob", [Privilege.CREATE_MODEL])
    bob = {"token": tokens["bob"]}
    await door.ok("POST", f"{MODELS}/create", {"name": "his"}, **bob)
    foreign = {"source": "s3://bucket/x", "model_id": created["model"]["info"]["model_id"]}
    await door.ok("POST", f"{VERSIONS}/create", {"name": "his", **foreign}, **bob)
    assert len(door.store.told) == told
