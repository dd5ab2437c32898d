"""The domain as MLflow's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from services.tracking.domain.artifacts import Artifact
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.lifecycle import LifecycleStage, Micros
from services.tracking.domain.metrics import Point
from services.tracking.domain.run import Run, RunInfo
from services.tracking.handlers.models import RunLinks
from services.tracking.mlflow.messages import json_number

__all__ = [
    "RUN_NAME_TAG",
    "artifact_uri",
    "experiment_fields",
    "file_fields",
    "metric_fields",
    "millis",
    "run_artifact_uri",
    "run_fields",
    "run_info_fields",
    "stage_of_view",
    "tag_fields",
]

RUN_NAME_TAG: Final = "mlflow.runName"
"""MLflow keeps a run's name twice; this tag is the second place."""

_MILLI: Final = 1000
_STAGES: Final = {
    0: LifecycleStage.ACTIVE,
    1: LifecycleStage.ACTIVE,
    2: LifecycleStage.DELETED,
    3: None,
}


def stage_of_view(view: int) -> LifecycleStage | None:
    """Return what MLflow's ViewType asks for; None for both stages."""
    return _STAGES[view]


def millis(micros: Micros) -> int:
    """Return a time in milliseconds."""
    return micros // _MILLI


def artifact_uri(path: str) -> str:
    """Return where clients find artifacts: through this server, whatever keeps them."""
    return f"mlflow-artifacts:/{path}"


def run_artifact_uri(info: RunInfo) -> str:
    """Return the root of a run's artifacts."""
    return artifact_uri(f"{info.experiment_id}/{info.run_id}/artifacts")


def experiment_fields(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment."""
    return {
        "experiment_id": experiment.experiment_id,
        "name": experiment.name,
        "artifact_location": artifact_uri(experiment.experiment_id),
        "lifecycle_stage": str(experiment.stage),
        "last_update_time": millis(experiment.updated_at),
        "creation_time": millis(experiment.created_at),
        "tags": tag_fields(experiment.tags),
    }


def run_info_fields(info: RunInfo) -> dict[str, Any]:
    """Return a run's own facts."""
    fields: dict[str, Any] = {
        "run_id": info.run_id,
        "run_uuid": info.run_id,
        "run_name": info.name,
        "experiment_id": info.experiment_id,
        "user_id": info.created_by,
        "status": str(info.status),
        "start_time": millis(info.started_at),
        "artifact_uri": run_artifact_uri(info),
        "lifecycle_stage": str(info.stage),
    }
    if info.ended_at is not None:
        fields["end_time"] = millis(info.ended_at)
    return fields


def run_fields(run: Run, links: RunLinks | None = None) -> dict[str, Any]:
    """Return a run with all that was logged to it."""
    links = links or RunLinks()
    tags = dict(run.tags)
    tags.setdefault(RUN_NAME_TAG, run.info.name)
    return {
        "info": run_info_fields(run.info),
        "data": {
            "metrics": [metric_fields(point) for point in run.metrics.values()],
            "params": [{"key": key, "value": value} for key, value in run.params.items()],
            "tags": tag_fields(tags),
        },
        "inputs": {
            "dataset_inputs": _dataset_inputs(run, links),
            "model_inputs": [
                {"model_id": one.model_id} for one in links.models if not one.is_output
            ],
        },
        "outputs": {
            "model_outputs": [
                {"model_id": one.model_id, "step": one.step}
                for one in links.models
                if one.is_output
            ]
        },
    }


def _dataset_inputs(run: Run, links: RunLinks) -> list[dict[str, Any]]:
    told = {(one.name, one.digest, one.context): one for one in links.datasets}
    found: list[dict[str, Any]] = []
    for name, digest, context in run.inputs:
        dataset = told.get((name, digest, context))
        fields = {"name": name, "digest": digest, "source_type": "tessera", "source": name}
        tags: Mapping[str, str] = {"mlflow.data.context": context} if context else {}
        if dataset is not None:
            fields |= {"source_type": dataset.source_type, "source": dataset.source}
            fields |= {"schema": dataset.schema} if dataset.schema else {}
            fields |= {"profile": dataset.profile} if dataset.profile else {}
            tags = dataset.tags
        found.append({"tags": tag_fields(tags), "dataset": fields})
    return found


def metric_fields(point: Point) -> dict[str, Any]:
    """Return a point."""
    return {
        "key": point.key,
        "value": json_number(point.value),
        "timestamp": millis(point.timestamp),
        "step": point.step,
    }


def tag_fields(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags, by key."""
    return [{"key": key, "value": tags[key]} for key in sorted(tags)]


def file_fields(artifact: Artifact, path: str) -> dict[str, Any]:
    """Return a file or folder, under a path that the caller reckons with."""
    if artifact.is_directory:
        return {"path": path, "is_dir": True}
    return {"path": path, "is_dir": False, "file_size": artifact.size}
