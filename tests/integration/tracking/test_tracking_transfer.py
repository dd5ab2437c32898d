"""Experiments from an MLflow store into the service and back, over interruptions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from tessera.client.aio.tracking import AsyncTracking
from tessera.client.portal import Portal
from tessera.client.sync.tracking import Tracking
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.transfer.from_mlflow import COPIED_FROM, Copied, copy_from_mlflow
from tessera.transfer.to_mlflow import copy_to_mlflow
from tests.benchmarks.mlflow_server import mlflow_server
from tests.helpers import unique_name

from .conftest import Service, channel_of


@pytest.fixture
def tracking(service: Service) -> Iterator[Tracking]:
    portal = Portal()
    channel = portal.make(lambda: channel_of(service.address, "ada"))
    yield Tracking(portal, AsyncTracking(channel))
    portal.run(channel.close())
    portal.close()


def fill(store: str, folder: Path) -> list[str]:
    """Three runs of an experiment in a file store; returns their ids."""
    mlflow = MlflowClient(tracking_uri=store)
    experiment = mlflow.create_experiment("flights", tags={"team": "ops"})
    file = folder / "weights.bin"
    file.write_bytes(b"weights")
    ids: list[str] = []
    for number in range(3):
        run = mlflow.create_run(experiment, start_time=1_700_000_000_000, run_name=f"run {number}")
        run_id = run.info.run_id
        points = [Metric("loss", 1.0 / (n + 1), 1_700_000_000_000 + n, n) for n in range(1500)]
        for some in (points[:1000], [*points[1000:], Metric("odd", math.nan, 5, -1)]):
            mlflow.log_batch(run_id, metrics=some)
        mlflow.log_batch(
            run_id,
            params=[Param(f"p{n}", str(n)) for n in range(99)],
            tags=[RunTag("note", "Größe")],
        )
        dataset = Dataset("main.flights.departures", "abc", "local", "x")
        mlflow.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "t")])])
        mlflow.log_artifact(run_id, str(file), "model/deep")
        mlflow.log_artifact(run_id, str(file))
        mlflow.set_terminated(run_id, "FAILED", 1_700_000_060_000)
        ids.append(run_id)
    return ids


async def test_a_copy_that_was_stopped_goes_on_and_comes_back(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    source, back = (tmp_path / name for name in ("source", "back"))
    ids = await asyncio.to_thread(check_import, tracking, source.as_uri(), tmp_path)
    await asyncio.to_thread(check_export, tracking, back.as_uri(), ids)


async def test_a_running_server_is_copied_over_an_interruption(
    tracking: Tracking, tmp_path: Path
) -> None:
    async with mlflow_server(workers=1, jobs=False) as server:
        await asyncio.to_thread(check_import, tracking, server.url, tmp_path)


async def test_runs_that_break_a_rule_do_not_keep_the_others_from_being_copied(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    await asyncio.to_thread(check_odd_runs, tracking, tmp_path)


def check_odd_runs(tracking: Tracking, folder: Path) -> None:
    """A file store holds what no server would take, written by older clients or by hand."""
    mlflow = MlflowClient(tracking_uri=folder.as_uri())
    name = unique_name("odd")
    experiment_id = mlflow.create_experiment(name)
    names = ("0", "x" * 501, "2")
    ids = [mlflow.create_run(experiment_id, run_name=one).info.run_id for one in names]
    place = folder / experiment_id
    (place / ids[0] / "params" / "text").write_text("a\0" + "b" * 7000)
    (place / ids[0] / "tags" / "long").write_text("t" * 9000)
    copied = copy_from_mlflow(tracking, folder.as_uri(), experiments=[name])
    assert copied.runs == 2
    assert list(copied.refused) == [ids[1]]
    assert "500" in copied.refused[ids[1]]
    experiment = tracking.get_experiment(name=name)
    runs = {run.name: run for run in tracking.search_runs([experiment.experiment_id])}
    assert [one.value for one in runs["0"].params] == ["a\ufffd" + "b" * 5998]
    assert {one.key: len(one.value) for one in runs["0"].tags}["long"] == 8000
    assert sorted(runs) == ["0", "2"]


def stop(_name: str, copied: Copied) -> None:
    """As if the user pressed Ctrl-C after the second run."""
    if copied.runs + copied.known == 2:
        raise KeyboardInterrupt


def check_import(tracking: Tracking, source: str, folder: Path) -> list[str]:
    """Everything of a store is copied although the copy was stopped; returns its runs' ids."""
    ids = fill(source, folder)
    with pytest.raises(KeyboardInterrupt):
        copy_from_mlflow(tracking, source, experiments=["flights"], tell=stop)
    copied = copy_from_mlflow(tracking, source, experiments=["flights"])
    assert (copied.experiments, copied.runs, copied.known) == (1, 1, 2)
    assert (copied.points, copied.files) == (1501, 2)
    experiment = tracking.get_experiment(name="flights")
    assert dict(experiment.tags) == {"team": "ops"}
    runs = tracking.search_runs([experiment.experiment_id])
    assert {tag.value for run in runs for tag in run.tags if tag.key == COPIED_FROM} == set(ids)
    for run in runs:
        assert run.name.startswith("run ")
        assert run.status == pb.RUN_STATUS_FAILED
        assert run.started_at.ToMilliseconds() == 1_700_000_000_000
        assert run.ended_at.ToMilliseconds() == 1_700_000_060_000
        assert len(run.params) == 99
        assert ("note", "Größe") in {(tag.key, tag.value) for tag in run.tags}
        assert run.inputs == [
            pb.DatasetInput(name="main.flights.departures", digest="abc", context="t")
        ]
        history = tracking.metric_history(run.run_id, "loss")
        assert [point.step for point in history] == list(range(1500))
        [odd] = tracking.metric_history(run.run_id, "odd")
        assert math.isnan(odd.value)
        assert tracking.download_artifact(run.run_id, "model/deep/weights.bin") == b"weights"
    return ids


def check_export(tracking: Tracking, back: str, ids: list[str]) -> None:
    """What was imported goes to another store, again over an interruption."""
    with pytest.raises(KeyboardInterrupt):
        copy_to_mlflow(tracking, back, ["flights"], tell=stop)
    assert copy_to_mlflow(tracking, back, ["flights"]).known == 2
    copies = MlflowClient(tracking_uri=back)
    target = copies.get_experiment_by_name("flights")
    assert target is not None
    found = copies.search_runs([target.experiment_id])
    assert sorted(run.data.tags[COPIED_FROM] for run in found) == sorted(ids)
    for copy in found:
        assert (copy.info.status, copy.info.end_time) == ("FAILED", 1_700_000_060_000)
        points = copies.get_metric_history(copy.info.run_id, "loss")
        assert sorted(point.step for point in points) == list(range(1500))
        assert len(copy.data.params) == 99
        assert [one.dataset.name for one in copy.inputs.dataset_inputs] == [
            "main.flights.departures"
        ]
        names = [one.path for one in copies.list_artifacts(copy.info.run_id)]
        assert names == ["model", "weights.bin"]
