"""A request of every rpc about things of somebody else, and what everybody may ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    "AuthorizationService/GetAccessRevision": {},
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
    "TableDataService/GetTableVersion": TABLE,
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
    "TrackingService/PurgeDeleted": {"dry_run": True},
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
    "JobRuntimeService/ReportInputTable": {**JOB, "tableFullName": "{table}"},
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
    {"/", "/health", "/ping", "/version", "/v2", "/v2/health/live", "/v2/health/ready"}
)
"""What the HTTP doors answer to everybody: that they are well, and what they are.

`/` is one page for all, which leads browsers from the links that MLflow's clients print.
"""
