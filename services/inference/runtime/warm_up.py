"""The requests that a model's instances answer before any other: its example, or zeros."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from services.inference.domain.datatypes import BYTES, DATATYPES
from services.inference.domain.signature import Role, Signature, TensorSpec
from services.inference.errors import InvalidExample

__all__ = ["EXAMPLE", "WarmUp", "make_warm_up"]

EXAMPLE: Final = "example.json"
"""A version's file with inputs that its model answers: `{"inputs": {"name": [value of a row]}}`."""
_FOLDER: Final = "warmup"
_MOST_ROWS: Final = 16
"""Rows of an example that are used."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What Triton is told, and the files that this names."""

    samples: Sequence[Mapping[str, Any]]
    """`inference.ModelWarmup` messages as JSON."""
    files: Mapping[str, bytes]
    """Content by path below the model's folder."""


def make_warm_up(signature: Signature, count: int, example: bytes | None) -> WarmUp:
    """The warm-up of a model.

    Args:
        signature: What it takes.
        count: How many times each of the example's first rows is asked.
        example: The version's `example.json`; None for zeros and empty texts, one row of them.

    Raises:
        InvalidExample: The example does not fit the signature.
    """
    features = [spec for spec in signature.inputs if spec.role is Role.FEATURE]
    arrays = {spec.name: _zeros(spec) for spec in features}
    if example is not None:
        arrays = _arrays(features, example)
    if not signature.batched:
        return _warm_up(features, [arrays], count, batch_size=0)
    if len({len(array) for array in arrays.values()}) != 1:
        raise InvalidExample(f"{EXAMPLE}: its inputs must have the same number of rows")
    # Triton repeats one row to fill a batch, so that each row of the example is a sample.
    rows = zip(*(arrays[spec.name][:_MOST_ROWS] for spec in features), strict=True)
    names = [spec.name for spec in features]
    samples = [dict(zip(names, row, strict=True)) for row in rows]
    return _warm_up(features, samples, count, batch_size=1)


def _warm_up(
    features: list[TensorSpec], samples: list[dict[str, Any]], count: int, *, batch_size: int
) -> WarmUp:
    told: list[dict[str, Any]] = []
    files: dict[str, bytes] = {}
    for number, arrays in enumerate(samples):
        inputs: dict[str, Any] = {}
        for index, spec in enumerate(features):
            file = f"{number}-{index}"
            inputs[spec.name] = {
                "data_type": DATATYPES[spec.datatype].triton,
                "dims": list(arrays[spec.name].shape),
                "input_data_file": file,
            }
            files[f"{_FOLDER}/{file}"] = _raw(arrays[spec.name])
        told.append(
            {"name": f"row {number}", "batch_size": batch_size, "inputs": inputs, "count": count}
        )
    return WarmUp(told, files)


def _zeros(spec: TensorSpec) -> Any:
    shape = [1 if size < 0 else size for size in spec.shape]
    if spec.datatype == BYTES:
        return np.full(shape, b"", object)
    return np.zeros(shape, DATATYPES[spec.datatype].numpy)


def _arrays(features: list[TensorSpec], example: bytes) -> dict[str, Any]:
    try:
        told = json.loads(example)
    except (ValueError, RecursionError):
        raise InvalidExample(f"{EXAMPLE} is not JSON in UTF-8") from None
    inputs = told.get("inputs") if isinstance(told, dict) else None
    if not isinstance(inputs, dict):
        raise InvalidExample(f'{EXAMPLE} must be {{"inputs": {{"name": [value of each row]}}}}')
    missing = [spec.name for spec in features if spec.name not in inputs]
    if missing:
        raise InvalidExample(f"{EXAMPLE} has no input {missing[0]!r}")
    return {spec.name: _array(spec, inputs[spec.name]) for spec in features}


def _array(spec: TensorSpec, values: Any) -> Any:
    try:
        array = np.array(
            values, object if spec.datatype == BYTES else DATATYPES[spec.datatype].numpy
        )
    except (ValueError, TypeError, OverflowError):
        raise InvalidExample(
            f"{EXAMPLE}: {spec.name!r} holds what is not {spec.datatype}, or rows of two sizes"
        ) from None
    if array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] == 1:
        array = array[:, None]
    fits = array.ndim == len(spec.shape) and all(
        got >= 1 and want in (-1, got) for want, got in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise InvalidExample(
            f"{EXAMPLE}: {spec.name!r} has shape {list(array.shape)}; "
            f"the signature says {list(spec.shape)}"
        )
    if spec.datatype == BYTES and not all(isinstance(one, str) for one in array.ravel()):
        raise InvalidExample(f"{EXAMPLE}: {spec.name!r} holds what is no text")
    return array


def _raw(array: Any) -> bytes:
    if array.dtype != object:
        return bytes(np.ascontiguousarray(array).tobytes())
    texts = (one if isinstance(one, bytes) else one.encode() for one in array.ravel())
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
