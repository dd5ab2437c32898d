"""Copies experiments from Tessera to MLflow, so that it can be stopped and run again.

MLflow has no idempotent writes: a run that a stopped copy left half done is deleted and copied
anew; one that carries the tag of a whole copy is passed over.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tessera.client.sync.tracking import Tracking
from tessera.tracking.v1 import tracking_pb2
from tessera.transfer.from_mlflow import Copied, Tell, paged
from tessera.transfer.mlflow_client import open_mlflow

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["copy_to_mlflow"]

Item = TypeVar("Item")

_RUN: Final = "tessera.run_id"
_WHOLE: Final = "tessera.copied_whole"
_POINTS: Final = 1000
_PAIRS: Final = 100


def copy_to_mlflow(
    tracking: Tracking,
    uri: str,
    experiments: Sequence[str],
    *,
    artifacts: bool = True,
    tell: Tell = lambda _name, _copied: None,
) -> Copied:
    """Copy experiments with their active runs.

    Args:
        tracking: Where from.
        uri: Where to: `http://…` of an MLflow server, or a folder for a file store.
        experiments: Their names.
        artifacts: Whether files are copied too.
        tell: Called after each run, with its experiment's name and what was done so far.

    Raises:
        FailedPrecondition: MLflow's client is not installed.
        NotFound: There is no experiment of a name.
    """
    target = open_mlflow(uri)
    copied = Copied()
    for name in experiments:
        experiment = tracking.get_experiment(name=name)
        known = target.get_experiment_by_name(name)
        into = known.experiment_id if known else target.create_experiment(name)
        whole = _sorted_out(target, into)
        copied.experiments += 1
        for run in tracking.search_runs([experiment.experiment_id]):
            if run.run_id in whole:
                copied.known += 1
            else:
                _copy_run(tracking, target, run, into, copied, artifacts=artifacts)
                copied.runs += 1
            tell(name, copied)
    return copied


def _sorted_out(target: MlflowClient, experiment_id: str) -> set[str]:
    """Return the runs that are there whole, and delete those that are not."""
    whole: set[str] = set()
    text = f"tags.`{_RUN}` LIKE '%'"
    for run in list(paged(partial(target.search_runs, [experiment_id], text))):
        if _WHOLE in run.data.tags:
            whole.add(run.data.tags[_RUN])
        else:
            target.delete_run(run.info.run_id)
    return whole


def _copy_run(
    tracking: Tracking,
    target: MlflowClient,
    run: tracking_pb2.Run,
    experiment_id: str,
    copied: Copied,
    *,
    artifacts: bool,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    made = target.create_run(
        experiment_id,
        start_time=run.started_at.ToMilliseconds(),
        tags={_RUN: run.run_id},
        run_name=run.name,
    ).info.run_id
    for params in _parts([Param(one.key, one.value) for one in run.params], _PAIRS):
        target.log_batch(made, params=params)
    for tags in _parts([RunTag(one.key, one.value) for one in run.tags], _PAIRS):
        target.log_batch(made, tags=tags)
    if run.inputs:
        target.log_inputs(made, [_dataset(one) for one in run.inputs])
    for metric in run.metrics:
        points = [
            Metric(one.key, one.value, one.timestamp.ToMilliseconds(), one.step)
            for one in tracking.metric_history(run.run_id, metric.key)
        ]
        for some in _parts(points, _POINTS):
            target.log_batch(made, metrics=some)
        copied.points += len(points)
    if artifacts:
        copied.files += _copy_files(tracking, target, run.run_id, made)
    if run.HasField("ended_at"):
        status = tracking_pb2.RunStatus.Name(run.status).removeprefix("RUN_STATUS_")
        target.set_terminated(made, status, run.ended_at.ToMilliseconds())
    target.set_tag(made, _WHOLE, "true")


def _copy_files(tracking: Tracking, target: MlflowClient, run_id: str, made: str) -> int:
    count = 0
    folders = [""]
    with tempfile.TemporaryDirectory(prefix="tessera-export-") as folder:
        while folders:
            for one in tracking.list_artifacts(run_id, folders.pop()):
                if one.is_directory:
                    folders.append(one.path)
                    continue
                file = Path(folder) / Path(one.path).name
                file.write_bytes(tracking.download_artifact(run_id, one.path))
                parent = str(Path(one.path).parent)
                target.log_artifact(made, str(file), None if parent == "." else parent)
                file.unlink()
                count += 1
    return count


def _dataset(one: tracking_pb2.DatasetInput) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # MLflow requires a digest and a source.
    dataset = Dataset(one.name, one.digest or "-", "tessera", one.name)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", one.context)])


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
