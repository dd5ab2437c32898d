"""What a model that MLflow logged takes and gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from services.inference.convert.mlmodel import parse_mlmodel
from services.inference.domain.signature import Flavor
from services.inference.errors import InvalidArchive, InvalidSignature
from services.inference.runtime.flavors.packing import packed

COLUMNS = [
    {"type": "double", "name": "sepal length (cm)", "required": True},
    {"type": "string", "name": "carrier"},
    {"type": "datetime", "name": "at"},
]
PREDICTED = [{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]


def mlmodel(**changes: Any) -> dict[str, Any]:
    return {
        "flavors": {"python_function": {"loader_module": "mlflow.sklearn"}, "sklearn": {}},
        "signature": {"inputs": json.dumps(COLUMNS), "outputs": json.dumps(PREDICTED)},
        **changes,
    }


def parse(told: Any) -> Any:
    return parse_mlmodel(yaml.safe_dump(told).encode())


def test_a_column_becomes_a_tensor() -> None:
    signature = parse(mlmodel())
    assert signature.flavor is Flavor.MLFLOW
    assert signature.flavor.runs_code
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.inputs] == [
        ("sepal length (cm)", "FP64", (-1, 1)),
        ("carrier", "BYTES", (-1, 1)),
        ("at", "BYTES", (-1, 1)),
    ]
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.outputs] == [
        ("output", "INT64", (-1, 1))
    ]
    assert signature.batched


def test_a_graph_is_served_as_one() -> None:
    tensor = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}
    sides = {"inputs": json.dumps([tensor]), "outputs": json.dumps([tensor, tensor])}
    told = mlmodel(flavors={"onnx": {"data": "model.onnx"}}, signature=sides)
    signature = parse(told)
    assert (signature.flavor, signature.file) == (Flavor.ONNX, "model.onnx")
    assert not signature.flavor.runs_code
    assert [spec.name for spec in signature.inputs] == ["input"]
    assert [spec.name for spec in signature.outputs] == ["output_0", "output_1"]


def sides(**changes: Any) -> dict[str, Any]:
    told = {"inputs": json.dumps(COLUMNS), "outputs": json.dumps(PREDICTED), **changes}
    return mlmodel(signature=told)


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ([1], "flavors"),
        (mlmodel(flavors={"spark": {}}), "flavors"),
        (mlmodel(flavors={"onnx": {"data": 1}}), "flavors.onnx.data"),
        (mlmodel(signature=None), "signature"),
        (sides(outputs=None), "signature.outputs"),
        (sides(inputs="["), "signature.inputs"),
        (sides(inputs="[]"), "signature.inputs"),
        (sides(inputs=json.dumps([COLUMNS[0]] * 2)), "signature.inputs"),
        (sides(inputs='[{"type": "map", "name": "m"}]'), "signature.inputs[0].type"),
        (sides(inputs='[{"type": ["map"]}]'), "signature.inputs[0].type"),
        (sides(inputs='[{"type": "long", "name": "a\\n"}]'), "signature.inputs[0].name"),
        (
            sides(outputs='[{"type": "tensor", "tensor-spec": {"dtype": "c8", "shape": [-1]}}]'),
            "signature.outputs[0].tensor-spec.dtype",
        ),
        (
            sides(outputs='[{"type": "tensor", "tensor-spec": {"dtype": "bool", "shape": [0]}}]'),
            "signature.outputs[0].tensor-spec.shape",
        ),
    ],
)
def test_what_cannot_be_served_is_named(told: Any, field: str) -> None:
    with pytest.raises(InvalidSignature) as caught:
        parse(told)
    assert [violation.field for violation in caught.value.violations] == [f"MLmodel.{field}"]


@pytest.mark.parametrize("data", [b"\xff\xfe\xff", b"a: [", b"!!python/object:os.system {}"])
def test_what_is_no_plain_yaml_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidSignature):
        parse_mlmodel(data)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\\x", ""])
def test_no_file_leaves_the_model(path: str) -> None:
    with pytest.raises(InvalidArchive):
        packed({path: b"x"})
