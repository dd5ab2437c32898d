"""No door is open by oversight: every rpc and route asks for a token, and tells nothing without a
grant.

The rpcs are taken from the contracts and the routes from the services' tables, so that a new one is
here before anybody thinks of it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import service_pb2

from devstack import Stack
from services.tracking.run_pages import page_routes
from tessera import AsyncClient
from tessera.catalog.v1 import authorization_service_pb2 as auth_pb2
from tessera.monitoring.v1 import monitor_pb2
from tessera.training.v1 import job_pb2
from tests.e2e.world import Served, User, new_user
from tests.gateway_door import GatewayDoor
from tests.helpers import unique_name
from tests.mlflow_door import Door

pytestmark = pytest.mark.timeout(420)

SERVICES = ("catalog", "tracking", "training", "inference", "monitoring")
DOORS = (*SERVICES, "gateway")
BY_THE_GATEWAY = frozenset({"PredictionService", "GRPCInferenceService"})
CALL_SECONDS = 60.0

SECURABLE = {"type": "SECURABLE_TYPE_MODEL", "fullName": "{model}"}
VERSION = {"modelName": "{model}", "version": "1"}
MODEL_NAME = {"modelName": "{model}"}
TABLE = {"fullName": "{table}"}
RUN = {"runId": "{run}"}
EXPERIMENT = {"experimentId": "{experiment}"}
JOB = {"jobId": "{job}"}
ENDPOINT = {"name": "{endpoint}"}
MONITOR = {"name": "{monitor}"}
GRANT = {"principal": "{user}", "privilege": "PRIVILEGE_MANAGE"}
ENTITY = {"name": "v1", "modelName": "{model}", "modelVersion": "1", "trafficPercent": 100}
COLUMN = {"name": "n", "dataType": "Int64"}

FILE = {**VERSION, "path": "model.json"}
INFER = {
    "modelName": "{endpoint}",
    "inputs": [
        {"name": "n", "datatype": "INT64", "shape": ["1"], "contents": {"int64Contents": ["1"]}}
    ],
}

REQUESTS: Mapping[str, Mapping[str, Any]] = {
    "AuthorizationService/CreatePrincipal": {
        "principal": {"name": "{new}", "kind": "PRINCIPAL_KIND_USER"}
    },
    "AuthorizationService/GetPrincipal": {"name": "admin"},
    "AuthorizationService/ListPrincipals": {},
    "AuthorizationService/DeletePrincipal": {"name": "{other}"},
    "AuthorizationService/UpdateGroupMembers": {"group": "{group}", "add": ["{user}"]},
    "AuthorizationService/CreateToken": {"principal": "{other}"},
    "AuthorizationService/ListTokens": {"principal": "{other}"},
    "AuthorizationService/RevokeToken": {"tokenId": "{other_token}"},
    "AuthorizationService/WhoAmI": {},
    "AuthorizationService/UpdateGrants": {"securable": SECURABLE, "add": [GRANT]},
    "AuthorizationService/ListGrants": {"securable": SECURABLE},
    "AuthorizationService/GetEffectivePermissions": {
        "securable": SECURABLE,
        "principal": "{other}",
    },
    "AuthorizationService/Authenticate": {"tokenSha256": "0" * 43 + "="},
    "AuthorizationService/Decide": {
        "principal": "{other}",
        "questions": [{"securable": SECURABLE, "privilege": "PRIVILEGE_EXECUTE"}],
    },
    "AuthorizationService/RegisterSecurable": {
        "securable": {"type": "SECURABLE_TYPE_JOB", "fullName": "{new}"},
        "owner": "{user}",
    },
    "AuthorizationService/UnregisterSecurable": {
        "securable": {"type": "SECURABLE_TYPE_ENDPOINT", "fullName": "{endpoint}"}
    },
    "CatalogService/CreateCatalog": {"catalog": {"name": "{new}"}},
    "CatalogService/GetCatalog": {"name": "{catalog}"},
    "CatalogService/ListCatalogs": {},
    "CatalogService/UpdateCatalog": {
        "catalog": {"name": "{catalog}", "comment": "mine"},
        "updateMask": "comment",
    },
    "CatalogService/DeleteCatalog": {"name": "{catalog}"},
    "CatalogService/CreateSchema": {"schema": {"fullName": "{catalog}.{new}"}},
    "CatalogService/GetSchema": {"fullName": "{schema}"},
    "CatalogService/ListSchemas": {"catalogName": "{catalog}"},
    "CatalogService/UpdateSchema": {
        "schema": {"fullName": "{schema}", "comment": "mine"},
        "updateMask": "comment",
    },
    "CatalogService/DeleteSchema": {"fullName": "{schema}"},
    "CatalogService/CreateTable": {
        "table": {"fullName": "{schema}.{new}", "type": "TABLE_TYPE_MANAGED", "columns": [COLUMN]}
    },
    "CatalogService/GetTable": TABLE,
    "CatalogService/ListTables": {"schemaFullName": "{schema}"},
    "CatalogService/UpdateTable": {
        "table": {"fullName": "{table}", "type": "TABLE_TYPE_MANAGED", "comment": "mine"},
        "updateMask": "comment",
    },
    "CatalogService/DeleteTable": TABLE,
    "CatalogService/CreateVolume": {"volume": {"fullName": "{schema}.{new}"}},
    "CatalogService/GetVolume": {"fullName": "{volume}"},
    "CatalogService/ListVolumes": {"schemaFullName": "{schema}"},
    "CatalogService/DeleteVolume": {"fullName": "{volume}"},
    "CatalogService/UpdateTags": {"securable": SECURABLE, "set": {"mine": "yes"}},
    "CatalogService/SearchSecurables": {},
    "LineageService/GetLineage": {
        "node": {"type": "LINEAGE_NODE_TYPE_ENDPOINT", "name": "{endpoint}"},
        "direction": "LINEAGE_DIRECTION_BOTH",
    },
    "ModelService/CreateRegisteredModel": {"registeredModel": {"fullName": "{schema}.{new}"}},
    "ModelService/GetRegisteredModel": {"fullName": "{model}"},
    "ModelService/ListRegisteredModels": {"schemaFullName": "{schema}"},
    "ModelService/UpdateRegisteredModel": {
        "registeredModel": {"fullName": "{model}", "comment": "mine"},
        "updateMask": "comment",
    },
    "ModelService/RenameRegisteredModel": {
        "fullName": "{model}",
        "newFullName": "{schema}.{new}",
    },
    "ModelService/DeleteRegisteredModel": {"fullName": "{model}", "force": True},
    "ModelService/CreateModelVersion": MODEL_NAME,
    "ModelService/UploadModelFile": {"header": FILE},
    "ModelService/DownloadModelFile": FILE,
    "ModelService/ListModelFiles": VERSION,
    "ModelService/FinalizeModelVersion": VERSION,
    "ModelService/GetModelVersion": VERSION,
    "ModelService/GetModelVersionByAlias": {**MODEL_NAME, "alias": "champion"},
    "ModelService/ListModelVersions": MODEL_NAME,
    "ModelService/DeleteModelVersion": VERSION,
    "ModelService/SetModelAlias": {**VERSION, "alias": "champion"},
    "ModelService/DeleteModelAlias": {**MODEL_NAME, "alias": "champion"},
    "TableDataService/ReadTable": TABLE,
    "TableDataService/AppendRows": {"header": TABLE},
    "TableDataService/CountRows": TABLE,
    "TrackingService/CreateExperiment": {"experiment": {"name": "{new}"}},
    "TrackingService/GetExperiment": EXPERIMENT,
    "TrackingService/UpdateExperiment": {
        "experiment": {**EXPERIMENT, "name": "{new}"},
        "updateMask": "name",
    },
    "TrackingService/SearchExperiments": {},
    "TrackingService/DeleteExperiment": EXPERIMENT,
    "TrackingService/RestoreExperiment": EXPERIMENT,
    "TrackingService/CreateRun": EXPERIMENT,
    "TrackingService/GetRun": RUN,
    "TrackingService/UpdateRun": {"run": {**RUN, "name": "mine"}, "updateMask": "name"},
    "TrackingService/DeleteRun": RUN,
    "TrackingService/RestoreRun": RUN,
    "TrackingService/LogBatch": {**RUN, "params": [{"key": "mine", "value": "1"}]},
    "TrackingService/StreamMetrics": {
        **RUN,
        "sequence": "1",
        "metrics": [{"key": "loss", "value": 1.0, "timestamp": "2026-01-01T00:00:00Z"}],
    },
    "TrackingService/GetMetricHistory": {**RUN, "key": "loss"},
    "TrackingService/DownsampleMetric": {**RUN, "key": "loss", "buckets": 10},
    "TrackingService/DownsampleMetrics": {**RUN, "keys": ["loss"], "buckets": 10},
    "TrackingService/TailRun": RUN,
    "TrackingService/ExportMetrics": {"runIds": ["{run}"]},
    "TrackingService/SearchRuns": {"experimentIds": ["{experiment}"]},
    "TrackingService/UploadArtifact": {"header": {**RUN, "path": "mine.txt"}},
    "TrackingService/DownloadArtifact": {**RUN, "path": "mine.txt"},
    "TrackingService/ListArtifacts": RUN,
    "TrackingService/ListGivenUpDeliveries": {},
    "TrainingService/SubmitJob": {
        "spec": {"name": "mine", "file": {"name": "job.py", "content": "print()"}}
    },
    "TrainingService/GetJob": JOB,
    "TrainingService/ListJobs": {},
    "TrainingService/CancelJob": JOB,
    "TrainingService/WatchJob": JOB,
    "TrainingService/ReadJobLogs": JOB,
    "TrainingService/CreateTrigger": {
        "trigger": {
            "name": "{new}",
            "event": "TRIGGER_EVENT_ALERT_FIRED",
            "subject": "{monitor}",
            "job": {"name": "mine", "file": {"name": "job.py", "content": "print()"}},
        }
    },
    "TrainingService/GetTrigger": {"name": "{trigger}"},
    "TrainingService/ListTriggers": {},
    "TrainingService/DeleteTrigger": {"name": "{trigger}"},
    "JobRuntimeService/ReportProgress": {**JOB, "progress": {"step": "1"}},
    "JobRuntimeService/UploadCheckpointFile": {"header": {**JOB, "step": "1", "path": "a"}},
    "JobRuntimeService/CommitCheckpoint": {**JOB, "step": "1"},
    "JobRuntimeService/GetLatestCheckpoint": JOB,
    "JobRuntimeService/DownloadCheckpointFile": {**JOB, "step": "1", "path": "a"},
    "JobRuntimeService/ReportModelVersion": {**JOB, **VERSION},
    "InferenceService/CreateEndpoint": {
        "name": "{new}",
        "config": {"servedEntities": [ENTITY]},
        "inferenceTable": {"schemaFullName": "{schema}"},
    },
    "InferenceService/GetEndpoint": ENDPOINT,
    "InferenceService/ListEndpoints": {},
    "InferenceService/UpdateEndpointConfig": {**ENDPOINT, "config": {"servedEntities": [ENTITY]}},
    "InferenceService/UpdateTraffic": {**ENDPOINT, "trafficPercent": {"v1": 100}},
    "InferenceService/UpdateEndpoint": {
        "endpoint": {**ENDPOINT, "comment": "mine"},
        "updateMask": "comment",
    },
    "InferenceService/CancelEndpointUpdate": ENDPOINT,
    "InferenceService/RollbackEndpoint": ENDPOINT,
    "InferenceService/ListEndpointConfigs": ENDPOINT,
    "InferenceService/StartCanary": {
        **ENDPOINT,
        "plan": {
            "servedEntity": "v1",
            "steps": [{"percent": 1, "duration": "1s"}, {"percent": 100}],
        },
    },
    "InferenceService/EndCanary": ENDPOINT,
    "InferenceService/WatchEndpoint": ENDPOINT,
    "InferenceService/DeleteEndpoint": ENDPOINT,
    "InferenceService/GetInferenceTableStatistics": ENDPOINT,
    "InferenceService/ExplainRequest": {
        "requestId": "01a21b50-0000-7000-8000-000000000000",
        "endpoint": "{endpoint}",
    },
    "InferenceService/ReadPayloadBody": {
        "tableFullName": "{table}",
        "requestId": "01a21b50-0000-7000-8000-000000000000",
        "side": "PAYLOAD_SIDE_REQUEST",
    },
    "PredictionService/Predict": {
        "endpoint": "{endpoint}",
        "columns": [{"name": "n", "integers": {"values": ["1"]}}],
    },
    "GRPCInferenceService/ModelReady": ENDPOINT,
    "GRPCInferenceService/ModelMetadata": ENDPOINT,
    "GRPCInferenceService/ModelConfig": ENDPOINT,
    "GRPCInferenceService/ModelStatistics": ENDPOINT,
    "GRPCInferenceService/RepositoryIndex": {},
    "GRPCInferenceService/ModelInfer": INFER,
    "GRPCInferenceService/ModelStreamInfer": INFER,
    "MonitoringService/CreateMonitor": {
        "monitor": {"name": "{new}", "tableFullName": "{table}", "snapshot": {}}
    },
    "MonitoringService/GetMonitor": MONITOR,
    "MonitoringService/ListMonitors": {},
    "MonitoringService/UpdateMonitor": {
        "monitor": {**MONITOR, "tableFullName": "{table}", "snapshot": {}, "columns": ["n"]},
        "updateMask": "columns",
    },
    "MonitoringService/DeleteMonitor": MONITOR,
    "MonitoringService/RefreshMonitor": MONITOR,
    "MonitoringService/CloseWindows": MONITOR,
    "MonitoringService/ListWindows": MONITOR,
    "MonitoringService/ListMetrics": MONITOR,
    "MonitoringService/ListAlerts": {"monitor": "{monitor}"},
    "MonitoringService/WatchAlerts": {"monitor": "{monitor}"},
}
"""A request of every rpc that its caller would like: about things of somebody else."""

REFUSALS = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED})
PUBLIC = frozenset(
    {
        # Names of principals, which grants need.
        "AuthorizationService/GetPrincipal",
        "AuthorizationService/ListPrincipals",
        "AuthorizationService/WhoAmI",
    }
)
"""What everybody with a token may ask."""
LISTS = frozenset(
    {
        "CatalogService/ListCatalogs",
        "CatalogService/SearchSecurables",
        # Not ready, as of an endpoint that is not there.
        "GRPCInferenceService/ModelReady",
        "GRPCInferenceService/RepositoryIndex",
        "InferenceService/ListEndpoints",
        "MonitoringService/ListMonitors",
        # With the experiment that MLflow's clients expect to be there.
        "TrackingService/SearchExperiments",
        "TrackingService/SearchRuns",
        "TrainingService/ListJobs",
        "TrainingService/ListTriggers",
    }
)
"""What lists to each caller their own things, and nothing of others'."""
OPEN = frozenset({"ServerLive", "ServerReady", "ServerMetadata"})
"""What the inference protocol has its server answer to everybody."""
OPEN_ROUTES = frozenset(
    {"/health", "/ping", "/version", "/v2", "/v2/health/live", "/v2/health/ready"}
)
"""What the HTTP doors answer to everybody: that they are well, and what they are."""


def rpcs() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every rpc of the five services and the gateway's, with the door that it is at."""
    for service in SERVICES:
        package = importlib.import_module(f"tessera.{service}.v1")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("_service_pb2"):
                continue
            descriptor = importlib.import_module(module.name).DESCRIPTOR
            for defined in descriptor.services_by_name.values():
                door = "gateway" if defined.name in BY_THE_GATEWAY else service
                for method in defined.methods:
                    yield door, method
    gateway = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    offered = {request.partition("/")[2] for request in REQUESTS if gateway.name in request}
    yield from (("gateway", method) for method in gateway.methods if method.name in offered)


def short(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}/{method.name}"


def test_every_rpc_has_a_request_here() -> None:
    assert {short(method) for _, method in rpcs()} == set(REQUESTS)


@dataclass(frozen=True, slots=True)
class World:
    """Things of the administrator's, and the door to each service."""

    names: Mapping[str, str]
    channels: Mapping[str, grpc.aio.Channel]

    def request(self, method: MethodDescriptor) -> Message:
        message: Message = GetMessageClass(method.input_type)()
        ParseDict(_filled(REQUESTS[short(method)], {**self.names, "new": unique_name()}), message)
        return message

    async def call(
        self, service: str, method: MethodDescriptor, token: str | None
    ) -> tuple[grpc.StatusCode, bytes]:
        """The status of a call, and the bytes that it answered."""
        channel = self.channels[service]
        path = f"/{method.containing_service.full_name}/{method.name}"
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        options: dict[str, Any] = {"metadata": metadata, "timeout": CALL_SECONDS}
        request = self.request(method).SerializeToString()
        try:
            if method.client_streaming and method.server_streaming:
                call = channel.stream_stream(path)(iter([request]), **options)
                return _in_band(method, await _first(call))
            if method.client_streaming:
                return grpc.StatusCode.OK, await channel.stream_unary(path)(
                    iter([request]), **options
                )
            if method.server_streaming:
                return grpc.StatusCode.OK, await _first(
                    channel.unary_stream(path)(request, **options)
                )
            return grpc.StatusCode.OK, await channel.unary_unary(path)(request, **options)
        except grpc.aio.AioRpcError as error:
            return error.code(), (error.details() or "").encode()


async def _first(call: Any) -> bytes:
    async for response in call:
        call.cancel()
        return bytes(response)
    return b""


def _in_band(method: MethodDescriptor, answer: bytes) -> tuple[grpc.StatusCode, bytes]:
    """The status within an answer of the inference protocol's stream, which has no other."""
    if method.name != "ModelStreamInfer":
        return grpc.StatusCode.OK, answer
    response = service_pb2.ModelStreamInferResponse.FromString(answer)
    code = response.infer_response.parameters["tessera_status_code"].int64_param
    by_number = {status.value[0]: status for status in grpc.StatusCode}
    return by_number[code], response.error_message.encode()


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return value.format_map(names)
    if isinstance(value, Mapping):
        return {key: _filled(inner, names) for key, inner in value.items()}
    return [_filled(inner, names) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
async def stranger(client: AsyncClient) -> User:
    return await new_user(client)


@pytest.fixture(scope="module")
async def world(
    platform: Stack, client: AsyncClient, served: Served, stranger: User
) -> AsyncIterator[World]:
    other = await new_user(client)
    unique = unique_name("closed")
    await client.access.create_principal(unique, auth_pb2.PRINCIPAL_KIND_GROUP)
    volume = await client.catalog.create_volume(f"{served.schema}.{unique}")
    experiment = await client.tracking.create_experiment(unique)
    run = await client.tracking.create_run(experiment.experiment_id)
    job = await client.training.submit(
        job_pb2.JobSpec(name=unique, file=job_pb2.FileSource(name="job.py", content="print()\n"))
    )
    await client.monitoring.create(
        monitor_pb2.Monitor(
            name=unique,
            table_full_name=served.table,
            snapshot=monitor_pb2.SnapshotProfile(),
        )
    )
    await client.training.create_trigger(
        job_pb2.Trigger(
            name=unique,
            event=job_pb2.TRIGGER_EVENT_ALERT_FIRED,
            subject=unique,
            job=job_pb2.JobSpec(
                name=unique, file=job_pb2.FileSource(name="job.py", content="print()\n")
            ),
        )
    )
    names = {
        "user": stranger.name,
        "other": other.name,
        "other_token": other.token_id,
        "catalog": served.schema.partition(".")[0],
        "schema": served.schema,
        "model": served.model,
        "table": served.table,
        "endpoint": served.endpoint,
        "volume": volume.full_name,
        "experiment": experiment.experiment_id,
        "run": run.run_id,
        "job": job.job_id,
        "monitor": unique,
        "trigger": unique,
        "group": unique,
    }
    channels = {name: grpc.aio.insecure_channel(platform.urls[name]) for name in DOORS}
    yield World(names, channels)
    for channel in channels.values():
        await channel.close()


@pytest.mark.parametrize("token", [None, "", "tsr_unknown", "a b"])
async def test_no_rpc_answers_without_a_token_that_is_good(world: World, token: str | None) -> None:
    answers = {
        short(method): (await world.call(service, method, token))[0] for service, method in rpcs()
    }
    assert {name: code for name, code in answers.items() if code.name != "UNAUTHENTICATED"} == {}


async def routes() -> Sequence[tuple[str, str, str]]:
    """Every route of the HTTP doors: the door, the method and a path, its parameters filled in."""
    tracking = Door()
    tables = {
        "tracking_http": [*tracking.routes, *page_routes(tracking.cases, None)],
        "gateway_http": GatewayDoor().http_routes,
    }
    return [
        (door, route.method, re.sub(r"\{[^}]*\}", "1", route.path))
        for door, table in tables.items()
        for route in table
        if route.path not in OPEN_ROUTES
    ]


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Bearer tsr_unknown", "Basic Og=="])
async def test_no_route_answers_without_a_token_that_is_good(
    platform: Stack, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answers: dict[str, Any] = {}
    async with aiohttp.ClientSession(headers=headers) as session:
        for door, method, path in await routes():
            url = platform.urls[door]
            async with session.request(method, f"{url}{path}") as answer:
                answers[f"{method} {path}"] = answer.status
    assert len(answers) > 100
    assert {route: status for route, status in answers.items() if status != 401} == {}


async def test_the_gateway_offers_no_other_rpcs(world: World) -> None:
    channel = world.channels["gateway"]
    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        if short(method) in REQUESTS or method.name in OPEN or method.client_streaming:
            continue
        path = f"/{method.containing_service.full_name}/{method.name}"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(path)(b"", timeout=CALL_SECONDS)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED, method.name


async def test_no_rpc_tells_or_changes_anything_without_a_grant(
    world: World, stranger: User
) -> None:
    secrets = [
        value.encode()
        for name, value in world.names.items()
        if name not in ("user", "catalog", "group", "trigger")
    ]
    wrong: dict[str, Any] = {}
    for service, method in rpcs():
        code, answer = await world.call(service, method, stranger.token)
        if code is grpc.StatusCode.OK:
            told = [secret for secret in secrets if secret in answer]
            if short(method) not in PUBLIC and (told or short(method) not in LISTS):
                wrong[short(method)] = (told, answer)
        elif code not in REFUSALS:
            wrong[short(method)] = (code.name, answer)
    assert not wrong, "\n".join(f"{name}: {answer}" for name, answer in sorted(wrong.items()))
