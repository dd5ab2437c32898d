"""Models in processes of their own: their environments, their frames, their ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from services.inference.runtime.programs.environments import (
    EnvironmentFailed,
    interpreter_for,
    plain_environment,
    unsatisfied,
)
from services.inference.runtime.programs.frames import receive, send
from services.inference.runtime.programs.mlflow_worker import inputs_of, outputs_of
from services.inference.runtime.programs.module_worker import module_of
from services.inference.runtime.programs.process import ModelProcess

ROOT = Path(__file__).parents[3]
WORKER = """
import os, socket, sys, numpy
from services.inference.runtime.programs.frames import receive, send
wire = socket.socket(fileno=int(sys.argv[2]))
receive(wire)
if sys.argv[1] == "broken":
    send(wire, error="ImportError: no module")
    sys.exit()
if sys.argv[1] == "killed":
    os._exit(3)
send(wire)
while True:
    try:
        _, (array,) = receive(wire)
    except ConnectionError:
        break
    if array[0] == 13:
        os._exit(13)
    if array[0] == 7:
        send(wire, error="ValueError: seven")
    else:
        send(wire, [array * 2, numpy.array([os.getpid()])])
"""


def objects(*values: Any) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array([[True], [False]]),
        np.zeros((0, 4)),
        np.arange(6).reshape(2, 3).T,
        objects(b"", b"\x00\x00", "ü".encode()).reshape(3, 1),
    ],
)
def test_arrays_come_through_as_they_were(array: Any) -> None:
    here, there = socket.socketpair()
    with here, there:
        send(here, [array], note="x")
        head, (got,) = receive(there)
    assert head == {"note": "x"}
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert got.tolist() == array.tolist()


def process(tmp_path: Path, mode: str = "") -> ModelProcess:
    environment = plain_environment(tmp_path, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", WORKER, mode]
    return ModelProcess(command, environment, tmp_path, {"outputs": ["y"]})


@pytest.fixture
def running(tmp_path: Path) -> Iterator[ModelProcess]:
    model = process(tmp_path)
    yield model
    model.close()


def test_a_process_that_dies_fails_one_call(running: ModelProcess) -> None:
    doubled, first = running([np.array([1, 2])])
    assert doubled.tolist() == [2, 4]
    with pytest.raises(RuntimeError, match="ValueError: seven"):
        running([np.array([7])])
    assert running([np.array([1])])[1] == first
    with pytest.raises(RuntimeError, match="ended with status 13"):
        running([np.array([13])])
    doubled, second = running([np.array([3])])
    assert doubled.tolist() == [6]
    assert second != first


@pytest.mark.parametrize(
    ("mode", "reason"), [("broken", "ImportError: no module"), ("killed", "status 3 while")]
)
def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path, mode: str, reason: str) -> None:
    with pytest.raises(RuntimeError, match=reason):
        process(tmp_path, mode)


def test_a_models_process_gets_none_of_the_runtimes_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("TESSERA_SERVICE_TOKEN_FILE", "/token")
    found = plain_environment(tmp_path, A="b")
    assert found["HOME"] == str(tmp_path)
    assert found["PATH"] == os.environ["PATH"]
    assert not {"AWS_SECRET_ACCESS_KEY", "TESSERA_SERVICE_TOKEN_FILE"} & found.keys()


def test_requirements_are_held_to_what_is_here() -> None:
    numpy = metadata.version("numpy")
    satisfied = ["numpy", f"numpy=={numpy}  # as here", "", "# a comment"]
    satisfied += ["no-such-package; python_version < '3'"]
    assert unsatisfied(satisfied) == []
    missing = ["no-such-package", "numpy @ https://example.org/numpy.whl", "--index-url x"]
    assert unsatisfied([*missing, "numpy==0.1"]) == [*missing, f"numpy==0.1 (it has {numpy})"]


def test_the_runtimes_environment_serves_when_it_has_everything(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("numpy\n")
    assert interpreter_for(requirements, tmp_path / "environment") == sys.executable
    assert not (tmp_path / "environment").exists()


def test_an_environment_is_made_of_other_requirements(tmp_path: Path) -> None:
    """Of a package that lies beside, so that no network is needed."""
    wheel = tmp_path / "turnips-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("turnips.py", "COUNT = 3\n")
        about = "turnips-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: turnips\nVersion: 1.0")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    requirements, place = tmp_path / "requirements.txt", tmp_path / "environment"
    requirements.write_text(f"turnips @ {wheel.as_uri()}\n")
    python = interpreter_for(requirements, place)
    assert Path(python).is_relative_to(place)
    command = [python, "-c", "import turnips, sys; sys.exit(turnips.COUNT)"]
    assert subprocess.run(command, check=False).returncode == 3
    assert interpreter_for(requirements, place) == python
    requirements.write_text(f"turnips @ {wheel.as_uri()}.gone\n")
    (place / "complete").unlink()
    with pytest.raises(EnvironmentFailed, match=r"lacks turnips .* and pip cannot install them"):
        interpreter_for(requirements, place)


def test_columns_become_a_table() -> None:
    schema = Schema(
        [
            ColSpec(DataType.double, "a b"),
            ColSpec(DataType.string, "text"),
            ColSpec(DataType.datetime, "at"),
            ColSpec(DataType.binary, "raw"),
        ]
    )
    columns = [
        np.array([[1.5], [2.5]]),
        objects(b"x", "ü".encode()).reshape(2, 1),
        objects(b"2026-01-02", b"2026-01-02T03:04:05").reshape(2, 1),
        objects(b"\xff", b"").reshape(2, 1),
    ]
    table = inputs_of(columns, schema)
    assert list(table.columns) == ["a b", "text", "at", "raw"]
    assert table["text"].tolist() == ["x", "ü"]
    assert table["at"][1] == pd.Timestamp(2026, 1, 2, 3, 4, 5)
    assert table["raw"].tolist() == [b"\xff", b""]


def test_tensors_keep_their_shape_and_their_names() -> None:
    flat = TensorSpec(np.dtype("int64"), (-1,), "n")
    wide = TensorSpec(np.dtype("float32"), (-1, 3), "x")
    arrays = [np.array([[1], [2]]), np.zeros((2, 3), np.float32)]
    named = inputs_of(arrays, Schema([flat, wide]))
    assert named["n"].tolist() == [1, 2]
    assert named["x"].shape == (2, 3)
    alone = inputs_of(arrays[1:], Schema([TensorSpec(np.dtype("float32"), (-1, 3))]))
    assert alone.shape == (2, 3)


@pytest.mark.parametrize(
    ("returned", "names", "expected"),
    [
        (pd.DataFrame({"b": ["x"], "a": [1]}), ["a", "b"], [[1], [b"x"]]),
        (pd.DataFrame({0: [1.5], 1: [2.5]}), ["a", "b"], [[1.5], [2.5]]),
        (pd.DataFrame({0: [1.5], 1: [2.5]}), ["output"], [[[1.5, 2.5]]]),
        (pd.Series([1, 2]), ["output"], [[1, 2]]),
        (np.array([[1, 2], [3, 4]]), ["a", "b"], [[1, 3], [2, 4]]),
        ({"b": np.array([2]), "a": np.array([1])}, ["a", "b"], [[1], [2]]),
        (["x", "y"], ["output"], [[b"x", b"y"]]),
    ],
)
def test_what_a_model_returns_becomes_its_outputs(
    returned: Any, names: list[str], expected: list[Any]
) -> None:
    assert [array.tolist() for array in outputs_of(returned, names)] == expected


def test_times_that_a_model_returns_become_texts() -> None:
    (array,) = outputs_of(pd.Series(pd.to_datetime(["2026-01-02"])), ["at"])
    assert array[0].startswith(b"2026-01-02T00:00:00")


@pytest.mark.parametrize(
    ("returned", "reason"),
    [({"a": 1, "c": 2}, "no 'b'; it has"), (np.zeros((2, 3)), "3 outputs; the signature has 2")],
)
def test_what_is_not_the_signatures_is_refused(returned: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        outputs_of(returned, ["a", "b"])


NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, width)
        self.tied = self.layer

    def forward(self, x):
        return self.layer(x)

answer = 3
"""


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "net_of_a_test", raising=False)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net_of_a_test.py").write_text(NET)
    safetensors.torch.save_file(
        {"layer.weight": torch.ones(2, 4), "layer.bias": torch.zeros(2)}, tmp_path / "w"
    )
    return tmp_path


def told(entry: str = "net_of_a_test:Net", width: int = 2) -> dict[str, Any]:
    arguments = {"width": width}
    return {"flavor": "torch_module", "weights": "w", "entry": entry, "arguments": arguments}


def test_a_module_is_made_of_its_class_and_its_weights(module_folder: Path) -> None:
    """Parameters that the class ties are saved once."""
    module = module_of(module_folder, told(), "cpu")
    assert module(torch.ones(1, 4)).tolist() == [[4.0, 4.0]]
    assert not module.training


@pytest.mark.parametrize(
    ("asked", "error", "reason"),
    [
        (told("torch.nn:Linear"), ImportError, "not in the model's own folder"),
        (told("net_of_a_test:answer"), ImportError, "no class 'answer'"),
        (told("nothing_like_it:Net"), ImportError, "nothing_like_it"),
        (told(width=3), RuntimeError, "size mismatch"),
    ],
)
def test_a_class_that_is_not_the_models_is_refused(
    module_folder: Path, asked: dict[str, Any], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        module_of(module_folder, asked, "cpu")


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"layer.weight": torch.ones(2, 4)}, "lack 'layer.bias'"),
        (
            {"layer.weight": torch.ones(2, 4), "layer.bias": torch.ones(2), "x": torch.ones(1)},
            "hold 'x'",
        ),
    ],
)
def test_weights_must_be_those_of_the_class(
    module_folder: Path, weights: dict[str, Any], reason: str
) -> None:
    safetensors.torch.save_file(weights, module_folder / "w")
    with pytest.raises(ValueError, match=reason):
        module_of(module_folder, told(), "cpu")


def test_weights_are_never_unpickled(module_folder: Path) -> None:
    torch.save({"layer.weight": torch.ones(2, 4)}, module_folder / "w")
    with pytest.raises(safetensors.SafetensorError):
        module_of(module_folder, told(), "cpu")
