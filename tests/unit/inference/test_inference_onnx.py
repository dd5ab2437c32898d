"""ONNX graphs: what the runtime's loader takes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from services.inference.domain.signature import parse_manifest
from services.inference.runtime.bundle import make_bundle
from services.inference.runtime.programs import onnx_loader
from services.inference.runtime.programs.tensors import output
from tests.onnx_graphs import WEIGHTS, linear_graph, outside_graph

CPU = {"model_instance_kind": "CPU"}
X = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
CARRIER = {"name": "carrier", "datatype": "BYTES", "shape": [-1, 1]}
SCORES = {"name": "scores", "datatype": "FP32", "shape": [-1, 2]}
ECHO = {"name": "echo", "datatype": "BYTES", "shape": [-1, 1]}


def load(
    folder: Path, graph: bytes, inputs: list[Any], outputs: list[Any], **args: str
) -> tuple[Any, Any]:
    """The model that the runtime would have of a bundle, and its `signature.json`."""
    manifest = {"flavor": "onnx", "file": "delay.onnx", "inputs": inputs, "outputs": outputs}
    signature = parse_manifest(json.dumps(manifest).encode())
    bundle = make_bundle("m", signature, 1, {"delay.onnx": graph})
    for path, content in bundle.files.items():
        (folder / Path(path).name).write_bytes(content)
    told = json.loads(bundle.files["1/signature.json"])
    return onnx_loader.load(folder, told, {**CPU, **args}), told


def test_numbers_and_texts_go_through(tmp_path: Path) -> None:
    model, told = load(tmp_path, linear_graph(texts=True), [CARRIER, X], [ECHO, SCORES])
    x = np.ones((3, 4), np.float32)
    texts = np.array([[b"AA"], ["ü".encode()], [b""]], object)
    echo, scores = model([texts, x])
    np.testing.assert_allclose(scores, x @ WEIGHTS)
    fitted = output(told["outputs"][0]).fit(echo)
    assert fitted.tolist() == texts.tolist()
    for arrays in model.probe():
        assert len(model(arrays)) == 2


def test_an_output_that_nobody_wants_is_left_out(tmp_path: Path) -> None:
    model, _ = load(tmp_path, linear_graph(texts=True), [CARRIER, X], [SCORES])
    assert len(model(model.probe()[0])) == 1


def test_the_only_input_may_have_another_name(tmp_path: Path) -> None:
    model, _ = load(tmp_path, linear_graph(name="float_input"), [X], [SCORES])
    assert model.inputs == ["float_input"]


@pytest.mark.parametrize(
    ("graph", "inputs", "outputs", "reason"),
    [
        (linear_graph(texts=True), [X], [SCORES], "has 'carrier' that the signature does not"),
        (linear_graph(), [X, CARRIER], [SCORES], "no input 'carrier'; it has 'x'"),
        (linear_graph(texts=True), [X, CARRIER], [X], "no output 'x'"),
        (linear_graph(), [{**X, "datatype": "FP64"}], [SCORES], r"tensor\(float\).*float64"),
        (linear_graph(), [X], [{**SCORES, "datatype": "BYTES"}], "signature says text"),
        (linear_graph(), [{**X, "shape": [-1, 5]}], [SCORES], r"shape \['rows', 4\]"),
        (linear_graph(), [{**X, "shape": [4]}], [SCORES], "shape"),
        (linear_graph(rows=1), [X], [SCORES], r"shape \[1, 4\]; the signature says \[-1, 4\]"),
    ],
)
def test_a_signature_that_is_not_the_graphs_is_refused(
    tmp_path: Path, graph: bytes, inputs: list[Any], outputs: list[Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        load(tmp_path, graph, inputs, outputs)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "signature.bin"])
def test_a_graph_reads_no_other_file(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(Exception, match=r"(?i)external data"):
        load(folder, outside_graph(location), [X], [{**SCORES, "shape": [-1, 4]}])


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="onnxruntime has a GPU's provider here",
)
def test_a_gpu_that_is_demanded_must_be_there() -> None:
    on_gpu = {"model_instance_kind": "GPU", "model_instance_device_id": "0"}
    with pytest.raises(RuntimeError, match="onnxruntime-gpu"):
        onnx_loader.providers_of(on_gpu, demanded=True)
    assert onnx_loader.providers_of(on_gpu, demanded=False) == ["CPUExecutionProvider"]
