"""What an unmodified client of MLflow does, each scenario by itself; prints one JSON object.

Run with MLFLOW_TRACKING_URI and MLFLOW_TRACKING_TOKEN set; keys are scenarios, values what failed.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlflow
import numpy as np
import pandas as pd
import torch
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.cli import cli
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from sklearn.linear_model import LogisticRegression

NAME = os.environ["SCENARIO_NAME"]
REQUIREMENTS = ["torch"]
SCENARIOS: list[Callable[[], None]] = []


def scenario(function: Callable[[], None]) -> Callable[[], None]:
    """Adds a function to what is run."""
    SCENARIOS.append(function)
    return function


def refused(code: str, call: Callable[[], object]) -> str:
    """The message of a call that must be refused with a code."""
    try:
        call()
    except MlflowException as error:
        assert error.error_code == code, error
        return str(error.message)
    raise AssertionError(f"nothing was refused with {code}")


@scenario
def experiments() -> None:
    client = MlflowClient()
    created = client.create_experiment(f"{NAME}-a", tags={"team": "ml"})
    refused("RESOURCE_ALREADY_EXISTS", lambda: client.create_experiment(f"{NAME}-a"))
    client.set_experiment_tag(created, "k", "v")
    client.rename_experiment(created, f"{NAME}-b")
    found = client.get_experiment_by_name(f"{NAME}-b")
    assert found.tags == {"team": "ml", "k": "v"}
    assert client.get_experiment_by_name(f"{NAME}-a") is None
    client.delete_experiment(created)
    deleted = client.search_experiments(
        view_type=ViewType.DELETED_ONLY, filter_string=f"name = '{NAME}-b'"
    )
    assert [one.experiment_id for one in deleted] == [created]
    client.restore_experiment(created)
    assert client.get_experiment(created).lifecycle_stage == "active"


@scenario
def nested_runs() -> None:
    with mlflow.start_run(run_name="parent") as parent:
        mlflow.log_params({"lr": 0.1, "layers": [1, 2]})
        mlflow.set_tags({"a": "b"})
        for step in range(3):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metrics({"nan": math.nan, "inf": math.inf})
        with mlflow.start_run(nested=True, run_name="child"):
            mlflow.log_metric("acc", 0.5)
    run = mlflow.get_run(parent.info.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "layers": "[1, 2]"}
    assert run.data.metrics["loss"] == 1 / 3
    assert math.isnan(run.data.metrics["nan"])
    assert run.data.metrics["inf"] == math.inf
    children = mlflow.search_runs(filter_string=f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert list(children["tags.mlflow.runName"]) == ["child"]
    history = MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.set_tag("resumed", "yes")
    text = refused(
        "INVALID_PARAMETER_VALUE",
        lambda: MlflowClient().log_param(run.info.run_id, "lr", "0.2"),
    )
    assert "Changing param values is not allowed" in text


@scenario
def batches_and_pages() -> None:
    client = MlflowClient()
    run = client.create_run(mlflow.set_experiment(f"{NAME}-pages").experiment_id)
    run_id = run.info.run_id
    metrics = [Metric("m", float(step), 1000 + step, step) for step in range(1000)]
    for _ in range(2):
        client.log_batch(run_id, metrics, [Param("p", "1")], [RunTag("t", "2")])
    assert len(client.get_metric_history(run_id, "m")) == 1000
    for number in range(5):
        other = client.create_run(run.info.experiment_id)
        client.log_metric(other.info.run_id, "auc", number / 10)
        client.set_terminated(other.info.run_id, "FAILED")
    first = client.search_runs(
        [run.info.experiment_id],
        "metrics.auc >= 0.1 and attributes.status = 'FAILED'",
        order_by=["metrics.auc DESC"],
        max_results=3,
    )
    rest = client.search_runs(
        [run.info.experiment_id],
        "metrics.auc >= 0.1 and attributes.status = 'FAILED'",
        order_by=["metrics.auc DESC"],
        max_results=3,
        page_token=first.token,
    )
    found = [one.data.metrics["auc"] for one in [*first, *rest]]
    assert found == [0.4, 0.3, 0.2, 0.1]
    assert rest.token is None
    client.delete_run(run_id)
    refused("INVALID_PARAMETER_VALUE", lambda: client.log_metric(run_id, "m", 1.0))
    client.restore_run(run_id)
    client.delete_tag(run_id, "t")
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_run("0" * 32))
    refused(
        "INVALID_PARAMETER_VALUE",
        lambda: client.search_runs([run.info.experiment_id], "metrics.auc >"),
    )


@scenario
def artifacts() -> None:
    content = np.random.default_rng(0).bytes(3_000_000)
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run() as run:
        (Path(folder) / "deep").mkdir()
        (Path(folder) / "deep" / "a b+ü.bin").write_bytes(content)
        mlflow.log_artifacts(folder, "all")
        mlflow.log_text("hello", "notes/hello.txt")
        mlflow.log_dict({"a": 1}, "config.json")
    client, run_id = MlflowClient(), run.info.run_id
    assert sorted(one.path for one in client.list_artifacts(run_id)) == [
        "all",
        "config.json",
        "notes",
    ]
    [file] = client.list_artifacts(run_id, "all/deep")
    assert file.file_size == len(content)
    local = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="all")
    assert (Path(local) / "deep" / "a b+ü.bin").read_bytes() == content
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/notes/hello.txt") == "hello"
    assert mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/config.json") == {"a": 1}


@scenario
def large_artifacts_in_parts() -> None:
    content = np.random.default_rng(1).bytes(12_000_000)
    in_parts = {
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true",
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true",
        "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": "6000000",
        "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": "5242880",
        "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": "5242880",
    }
    sent: list[int] = []
    upload_part = HttpArtifactRepository._upload_part

    def counted(**part: Any) -> Any:
        sent.append(part["credential"].part_number)
        return upload_part(**part)

    with (
        tempfile.TemporaryDirectory() as folder,
        mlflow.start_run() as run,
        patch.object(HttpArtifactRepository, "_upload_part", staticmethod(counted)),
        patch.dict(os.environ, in_parts),
    ):
        (Path(folder) / "large ü.bin").write_bytes(content)
        mlflow.log_artifact(str(Path(folder) / "large ü.bin"), "deep/er")
        local = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path="deep/er/large ü.bin"
        )
    assert sorted(sent) == [1, 2, 3], sent
    assert Path(local).read_bytes() == content


@scenario
def data_sets() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [0.0, 1.0]})
    dataset = mlflow.data.from_pandas(frame, name="points", targets="y")
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, context="training")
    [used] = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("points", dataset.digest)
    assert used.dataset.profile
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "training"}
    found = mlflow.search_runs(filter_string="dataset.name = 'points'")
    assert run.info.run_id in list(found["run_id"])


@scenario
def autologging_of_scikit_learn() -> None:
    features = np.random.default_rng(1).random((60, 3))
    mlflow.sklearn.autolog(log_datasets=True)
    try:
        with mlflow.start_run() as run:
            LogisticRegression(C=0.5).fit(features, (features[:, 0] > 0.5).astype(int))
    finally:
        mlflow.sklearn.autolog(disable=True)
    data = mlflow.get_run(run.info.run_id).data
    assert data.params["C"] == "0.5"
    assert data.metrics["training_score"] > 0.5
    assert mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    [made] = mlflow.get_run(run.info.run_id).outputs.model_outputs
    logged = mlflow.get_logged_model(made.model_id)
    signature = mlflow.models.get_model_info(logged.model_uri).signature
    assert (logged.status, signature.inputs.inputs[0].shape) == ("READY", (-1, 3))


@scenario
def autologging_of_pytorch() -> None:
    # Imported here, so that what breaks the import breaks this scenario alone.
    from mlflow_lightning import autologged

    autologged(f"{NAME}_line")


@scenario
def models_of_torch_and_the_registry() -> None:
    features = np.random.default_rng(2).random((4, 3)).astype(np.float32)
    module = torch.nn.Linear(3, 1)
    outputs = module(torch.from_numpy(features)).detach().numpy()
    with mlflow.start_run() as run:
        logged = mlflow.pytorch.log_model(
            module,
            name="net",
            signature=infer_signature(features, outputs),
            input_example=features,
            pip_requirements=REQUIREMENTS,
            registered_model_name=f"{NAME} Net",
        )
        mlflow.log_metric("acc", 0.9, model_id=logged.model_id)
    loaded = mlflow.pytorch.load_model(logged.model_uri)
    assert torch.equal(loaded.weight, module.weight)
    model = mlflow.get_logged_model(logged.model_id)
    assert model.status == "READY"
    assert [one.value for one in model.metrics] == [0.9]
    [made] = mlflow.get_run(run.info.run_id).outputs.model_outputs
    assert made.model_id == logged.model_id
    [found] = mlflow.search_logged_models(
        filter_string=f"metrics.acc > 0.5 AND source_run_id = '{run.info.run_id}'",
        output_format="list",
    )
    assert found.model_id == logged.model_id

    client, name = MlflowClient(), f"{NAME} Net"
    second = mlflow.register_model(logged.model_uri, name, tags={"a": "b"})
    assert (second.version, second.status, second.tags) == ("2", "READY", {"a": "b"})
    client.set_registered_model_alias(name, "champion", "2")
    by_alias = client.get_model_version_by_alias(name, "champion")
    assert by_alias.version == "2"
    predict = mlflow.pyfunc.load_model(f"models:/{name}@champion").predict
    assert np.allclose(predict(features), outputs, atol=1e-6)
    assert mlflow.models.get_model_info(f"models:/{name}/2").signature is not None
    client.update_model_version(name, "2", "the better one")
    client.set_model_version_tag(name, "2", "k", "v")
    client.delete_model_version_tag(name, "2", "a")
    told = client.get_model_version(name, "2")
    assert (told.description, told.tags) == ("the better one", {"k": "v"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client.transition_model_version_stage(name, "2", "Production")
        [production] = client.get_latest_versions(name, ["Production"])
    assert production.version == "2"
    copied = client.copy_model_version(f"models:/{name}/2", f"main.default.{NAME}-copy")
    assert copied.status == "READY"
    versions = client.search_model_versions(f"name = '{name}'")
    assert sorted(one.version for one in versions) == ["1", "2"]
    [model] = client.search_registered_models(f"name = '{name}'")
    assert model.aliases == {"champion": "2"}
    old, name = name, f"{NAME} Better"
    client.rename_registered_model(old, name)
    assert client.get_registered_model(name).aliases == {"champion": "2"}
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_registered_model(old))
    assert np.allclose(
        mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(features), outputs
    )
    client.delete_registered_model_alias(name, "champion")
    client.delete_model_version(name, "1")
    client.delete_registered_model(name)
    text = refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_registered_model(name))
    assert text.endswith(f"Registered Model with name={name} not found")


@scenario
def a_version_of_a_model_of_a_run_that_read_a_table() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [0.0, 1.0]})
    with mlflow.start_run():
        mlflow.log_input(mlflow.data.from_pandas(frame, name=f"main.default.{NAME}_rows"))
        mlflow.pytorch.log_model(
            torch.nn.Linear(1, 1),
            name="net",
            input_example=np.zeros((1, 1), np.float32),
            pip_requirements=REQUIREMENTS,
            registered_model_name=f"{NAME}_traced",
        )


@scenario
def many_writers_of_one_run() -> None:
    client, failures = MlflowClient(), []
    run_id = client.create_run("0").info.run_id

    def write(number: int) -> None:
        try:
            for step in range(20):
                client.log_metric(run_id, f"m{number}", step, step=step)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(len(client.get_metric_history(run_id, f"m{one}")) == 20 for one in range(8))


@scenario
def asynchronous_logging_and_system_metrics() -> None:
    os.environ["MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"] = "0.1"
    os.environ["MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING"] = "1"
    with mlflow.start_run(log_system_metrics=True) as run:
        waiting = [
            mlflow.log_metric("later", step, step=step, synchronous=False) for step in range(50)
        ]
        for one in waiting:
            one.wait()
        threading.Event().wait(0.5)
    data = mlflow.get_run(run.info.run_id).data
    assert data.metrics["later"] == 49
    assert any(key.startswith("system/") for key in data.metrics)


@scenario
def the_command_line() -> None:
    def said(*words: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == exit_code, (words, result.output, result.exception)
        return result.output + str(result.exception or "")

    name = f"{NAME}-cli"
    said("experiments", "create", "-n", name)
    assert "already exists" in said("experiments", "create", "-n", name, exit_code=1)
    experiment_id = MlflowClient().get_experiment_by_name(name).experiment_id
    of = ("--experiment-id", experiment_id)
    said("experiments", "rename", "-x", experiment_id, "--new-name", f"{name}-renamed")
    assert f"{name}-renamed" in said("experiments", "search")
    made = said("runs", "create", *of, "--run-name", "typed")
    run_id = json.loads(made[made.index("{") :])["run_id"]
    assert "typed" in said("runs", "list", *of)
    with tempfile.TemporaryDirectory() as folder:
        for path in ("notes.txt", "deep/er/weights.bin"):
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(path)
        said(
            "artifacts",
            "log-artifacts",
            "--local-dir",
            folder,
            "--run-id",
            run_id,
            "--artifact-path",
            "all",
        )
        listed = json.loads(said("artifacts", "list", "--run-id", run_id, "--artifact-path", "all"))
        assert [one["path"] for one in listed] == ["all/deep", "all/notes.txt"]
        said("artifacts", "download", "--run-id", run_id, "-d", f"{folder}/got")
        assert Path(folder, "got/all/deep/er/weights.bin").read_text() == "deep/er/weights.bin"
    MlflowClient().log_metric(run_id, "auc", 0.75)
    assert json.loads(said("runs", "describe", "--run-id", run_id))["data"]["metrics"] == {
        "auc": 0.75
    }
    assert "metrics.auc" in said("experiments", "csv", "-x", experiment_id)
    said("runs", "delete", "--run-id", run_id)
    assert "typed" not in said("runs", "list", *of)
    said("runs", "restore", "--run-id", run_id)
    assert "typed" in said("runs", "list", *of)
    said("experiments", "delete", "-x", experiment_id)
    said("experiments", "restore", "-x", experiment_id)
    assert "not found" in said("runs", "describe", "--run-id", "nothing", exit_code=1)


@scenario
def a_user_name_and_the_token_as_password() -> None:
    token = os.environ.pop("MLFLOW_TRACKING_TOKEN")
    try:
        refused("UNAUTHENTICATED", lambda: MlflowClient().get_experiment("0"))
        os.environ |= {"MLFLOW_TRACKING_USERNAME": "anyone", "MLFLOW_TRACKING_PASSWORD": token}
        assert MlflowClient().get_experiment("0").name == "Default"
    finally:
        os.environ.pop("MLFLOW_TRACKING_USERNAME", None)
        os.environ.pop("MLFLOW_TRACKING_PASSWORD", None)
        os.environ["MLFLOW_TRACKING_TOKEN"] = token


def main() -> None:
    """Runs every scenario."""
    mlflow.set_experiment(f"{NAME}-main")
    results: dict[str, str] = {}
    for one in SCENARIOS:
        try:
            one()
        except BaseException:
            results[one.__name__] = traceback.format_exc()
        else:
            results[one.__name__] = ""
    sys.stdout.write("\n" + json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
