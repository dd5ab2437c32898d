"""Copies experiments from MLflow to Tessera, so that it can be stopped and run again.

Every write is idempotent: a run is created under a request id that its source's id gives, points
are a set, parameters are written once. A run that was copied whole carries a tag that says so, and
is passed over.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.client.sync.tracking import Tracking
from tessera.tracking.v1 import tracking_pb2
from tessera.transfer.mlflow_client import open_mlflow
from tessera_kit.errors import InvalidArgument

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

__all__ = ["COPIED_FROM", "Copied", "Tell", "copy_from_mlflow", "paged"]

COPIED_FROM = "tessera.copied_from_run"
"""Tag of a run that was copied whole: the id of the run that it is a copy of."""

_LONGEST_PARAM = 6000
_LONGEST_TAG = 8000
_DEFAULT = "0"
_PAGE = 1000
_STATUSES = {
    "RUNNING": tracking_pb2.RUN_STATUS_RUNNING,
    "SCHEDULED": tracking_pb2.RUN_STATUS_SCHEDULED,
    "FINISHED": tracking_pb2.RUN_STATUS_FINISHED,
    "FAILED": tracking_pb2.RUN_STATUS_FAILED,
    "KILLED": tracking_pb2.RUN_STATUS_KILLED,
}


@dataclass(slots=True)
class Copied:
    """What a copy did."""

    experiments: int = 0
    """Experiments that were looked at."""
    runs: int = 0
    """Runs that were copied."""
    known: int = 0
    """Runs that an earlier copy had finished."""
    points: int = 0
    """Points of metrics that were copied."""
    files: int = 0
    """Artifacts that were copied."""
    refused: dict[str, str] = field(default_factory=dict)
    """Runs that Tessera does not take: why, by their ids there."""


Tell = Callable[[str, Copied], None]


def copy_from_mlflow(
    tracking: Tracking,
    uri: str,
    *,
    experiments: list[str] | None = None,
    artifacts: bool = True,
    tell: Tell = lambda _name, _copied: None,
) -> Copied:
    """Copy active experiments with their active runs.

    What is longer than Tessera keeps is cut, and a NUL becomes the replacement character.

    Args:
        tracking: Where to.
        uri: Where from: `http://…` of a server, or a folder of a file store.
        experiments: Names of those to copy; all when None.
        artifacts: Whether files are copied too.
        tell: Called after each run, with its experiment's name and what was done so far.

    Raises:
        FailedPrecondition: MLflow's client is not installed.
    """
    source = open_mlflow(uri)
    copied = Copied()
    for experiment in paged(source.search_experiments):
        if experiments is not None and experiment.name not in experiments:
            continue
        target = _DEFAULT
        if experiment.experiment_id != _DEFAULT:
            tags = {key: str(value) for key, value in experiment.tags.items()}
            made = tracking.create_experiment(experiment.name, tags=tags, exist_ok=True)
            target = made.experiment_id
        copied.experiments += 1
        done = _finished(tracking, target)
        for run in paged(partial(source.search_runs, [experiment.experiment_id])):
            if run.info.run_id in done:
                copied.known += 1
            else:
                try:
                    _copy_run(tracking, source, run, target, copied, artifacts=artifacts)
                    copied.runs += 1
                except InvalidArgument as error:
                    # One run that breaks a rule must not keep the others from being copied.
                    copied.refused[run.info.run_id] = error.message
            tell(experiment.name, copied)
    return copied


def paged(search: Callable[..., Any]) -> Iterator[Any]:
    """Yield what all pages of one of MLflow's searches hold."""
    token: str | None = None
    while True:
        page = search(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _finished(tracking: Tracking, experiment_id: str) -> set[str]:
    found = tracking.search_runs([experiment_id], f"tags.`{COPIED_FROM}` IS NOT NULL")
    return {tag.value for run in found for tag in run.tags if tag.key == COPIED_FROM}


def _copy_run(
    tracking: Tracking,
    source: MlflowClient,
    run: MlflowRun,
    experiment_id: str,
    copied: Copied,
    *,
    artifacts: bool,
) -> None:
    info = run.info
    made = tracking.create_run(
        experiment_id,
        name=info.run_name or "",
        started_at=_moment(info.start_time or 0),
        request_id=f"mlflow-{info.run_id}"[:64],
    ).run_id
    for params in _parts(run.data.params, _LONGEST_PARAM):
        tracking.log(made, params=params)
    for tags in _parts(run.data.tags, _LONGEST_TAG):
        tracking.log(made, tags=tags)
    inputs = [_dataset(one) for one in run.inputs.dataset_inputs] if run.inputs else []
    if inputs:
        tracking.log(made, inputs=inputs)
    for key in run.data.metrics:
        points = [_metric(one) for one in source.get_metric_history(info.run_id, key)]
        tracking.log_metrics(made, points)
        copied.points += len(points)
    if artifacts:
        copied.files += _copy_files(tracking, source, info.run_id, made)
    status = _STATUSES.get(info.status, tracking_pb2.RUN_STATUS_FINISHED)
    if status not in (tracking_pb2.RUN_STATUS_RUNNING, tracking_pb2.RUN_STATUS_SCHEDULED):
        tracking.end_run(made, status, ended_at=_moment(info.end_time or info.start_time or 0))
    tracking.log(made, tags={COPIED_FROM: info.run_id})


def _copy_files(tracking: Tracking, source: MlflowClient, run_id: str, made: str) -> int:
    count = 0
    folders = [""]
    with tempfile.TemporaryDirectory(prefix="tessera-import-") as folder:
        while folders:
            for one in source.list_artifacts(run_id, folders.pop() or None):
                if one.is_dir:
                    folders.append(one.path)
                    continue
                file = Path(source.download_artifacts(run_id, one.path, folder))
                tracking.upload_artifact(made, one.path, file)
                file.unlink()
                count += 1
    return count


def _dataset(one: Any) -> tracking_pb2.DatasetInput:
    context = next((tag.value for tag in one.tags if tag.key == "mlflow.data.context"), "")
    return tracking_pb2.DatasetInput(
        name=one.dataset.name, digest=one.dataset.digest, context=context
    )


def _metric(one: Any) -> tracking_pb2.Metric:
    value = math.nan if one.value is None else float(one.value)
    metric = tracking_pb2.Metric(key=one.key, value=value, step=one.step or 0)
    metric.timestamp.FromMilliseconds(max(one.timestamp or 0, 0))
    return metric


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(max(milliseconds, 0) / 1000, UTC)


def _parts(pairs: dict[str, str], longest: int, size: int = 100) -> Iterator[dict[str, str]]:
    items = sorted((key, _kept(value, longest)) for key, value in pairs.items())
    for at in range(0, len(items), size):
        yield dict(items[at : at + size])


def _kept(value: str, longest: int) -> str:
    return value.replace("\0", "\ufffd")[:longest]
