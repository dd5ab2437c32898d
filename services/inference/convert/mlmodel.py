"""What a model that MLflow logged takes and gives: its file `MLmodel`, checked. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from services.inference.domain.signature import Flavor, Signature, TensorSpec
from services.inference.errors import InvalidSignature
from tessera_kit.errors import FieldViolation

__all__ = ["MLMODEL", "parse_mlmodel"]

MLMODEL: Final = "MLmodel"
"""Path of the description among a model version's files."""
_LARGEST: Final = 8 << 20
_MOST_TENSORS: Final = 512
_LONGEST_NAME: Final = 128
_MOST_DIMENSIONS: Final = 8
_COLUMNS: Final = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "BYTES",
}
_TENSORS: Final = {
    "bool": "BOOL",
    **{f"int{size}": f"INT{size}" for size in (8, 16, 32, 64)},
    **{f"uint{size}": f"UINT{size}" for size in (8, 16, 32, 64)},
    **{f"float{size}": f"FP{size}" for size in (16, 32, 64)},
    **{"object": "BYTES", "str": "BYTES"},
}


def parse_mlmodel(data: bytes) -> Signature:
    """The signature that an `MLmodel` tells.

    A column becomes a tensor of one element a row with the column's name. One without a name is
    `input` or `output`, with its number behind when there are several. A model of the flavor `onnx`
    is served as the graph that it is; any other by its `python_function`.

    Raises:
        InvalidSignature: It has no signature, or one that cannot be served.
    """
    if len(data) > _LARGEST:
        raise InvalidSignature(f"{MLMODEL} is larger than {_LARGEST} bytes")
    try:
        told = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError):
        raise InvalidSignature(f"{MLMODEL} is not YAML in UTF-8") from None
    flavors = told.get("flavors") if isinstance(told, dict) else None
    if not isinstance(flavors, dict):
        raise _wrong("flavors", "must say how the model is loaded")
    signature = told.get("signature")
    if not isinstance(signature, dict):
        raise _wrong(
            "signature", "is missing; log the model with signature=infer_signature(inputs, outputs)"
        )
    inputs = _tensors(signature, "inputs", "input")
    outputs = _tensors(signature, "outputs", "output")
    graph = _graph(flavors)
    if graph is not None:
        return Signature(Flavor.ONNX, graph, inputs, outputs)
    if not isinstance(flavors.get("python_function"), dict):
        raise _wrong("flavors", "must hold python_function or onnx")
    return Signature(Flavor.MLFLOW, MLMODEL, inputs, outputs)


def _graph(flavors: Mapping[str, Any]) -> str | None:
    onnx = flavors.get("onnx")
    if not isinstance(onnx, dict):
        return None
    file = onnx.get("data")
    if not isinstance(file, str) or not file or len(file) > 1000:
        raise _wrong("flavors.onnx.data", "must name the graph's file")
    return file


def _tensors(signature: Mapping[str, Any], side: str, unnamed: str) -> tuple[TensorSpec, ...]:
    path, text = f"signature.{side}", signature.get(side)
    if not isinstance(text, str):
        raise _wrong(path, "is missing; log the model with the inputs and the outputs")
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        raise _wrong(path, "is not JSON") from None
    if not isinstance(entries, list) or not 1 <= len(entries) <= _MOST_TENSORS:
        raise _wrong(path, f"must be a list of 1 to {_MOST_TENSORS} columns or tensors")
    names = [unnamed] if len(entries) == 1 else [f"{unnamed}_{i}" for i in range(len(entries))]
    specs = tuple(
        _tensor(entry, name, f"{path}[{index}]")
        for index, (entry, name) in enumerate(zip(entries, names, strict=True))
    )
    if len({spec.name for spec in specs}) < len(specs):
        raise _wrong(path, "holds a name twice")
    return specs


def _tensor(entry: Any, unnamed: str, path: str) -> TensorSpec:
    if not isinstance(entry, dict):
        raise _wrong(path, "must be an object")
    name = entry.get("name", unnamed)
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise _wrong(f"{path}.name", f"must be 1 to {_LONGEST_NAME} printable characters")
    kind = entry.get("type")
    if kind != "tensor":
        if not isinstance(kind, str) or kind not in _COLUMNS:
            raise _wrong(f"{path}.type", f"must be one of {', '.join(_COLUMNS)} to be served")
        return TensorSpec(name, _COLUMNS[kind], (-1, 1))
    spec = entry.get("tensor-spec")
    if not isinstance(spec, dict) or spec.get("dtype") not in _TENSORS:
        raise _wrong(f"{path}.tensor-spec.dtype", f"must be one of {', '.join(_TENSORS)}")
    return TensorSpec(name, _TENSORS[spec["dtype"]], _shape(spec.get("shape"), path))


def _shape(shape: Any, path: str) -> tuple[int, ...]:
    fits: bool = isinstance(shape, list) and 1 <= len(shape) <= _MOST_DIMENSIONS
    if not fits or not all(
        type(size) is int and (size == -1 or 1 <= size < 1 << 31) for size in shape
    ):
        raise _wrong(f"{path}.tensor-spec.shape", "must be sizes, each -1 or at least 1")
    sizes: Sequence[int] = shape
    # A number per row, as predictions are: a column, so that requests can be put together.
    return (-1, 1) if list(sizes) == [-1] else tuple(sizes)


def _wrong(field: str, description: str) -> InvalidSignature:
    return InvalidSignature(
        f"{MLMODEL}: {field} {description}",
        violations=[FieldViolation(f"{MLMODEL}.{field}", description)],
    )
