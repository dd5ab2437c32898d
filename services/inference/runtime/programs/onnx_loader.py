"""Loads ONNX graphs with onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .tensors import Array, Feature, Output, feature, output

__all__ = ["load"]

_TYPES = {
    "tensor(bool)": "bool",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(string)": "object",
}


@dataclass(frozen=True)
class OnnxModel:
    """A session with the names of what it takes and gives, in the signature's order."""

    session: Any
    inputs: Sequence[str]
    outputs: Sequence[str]
    examples: Sequence[Sequence[Array]]

    def __call__(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """Run the graph."""
        fed = {
            name: _decoded(array) if array.dtype == object else array
            for name, array in zip(self.inputs, arrays, strict=True)
        }
        returned: Sequence[Array] = self.session.run(self.outputs, fed)
        return returned

    def probe(self) -> Sequence[Sequence[Array]]:
        """Zeros of one row and of two."""
        return self.examples


def load(folder: Path, signature: Mapping[str, Any], args: Mapping[str, str]) -> OnnxModel:
    """The graph of a bundle, held to the signature.

    Args:
        folder: Where the bundle's files lie.
        signature: What `signature.json` holds.
        args: What Triton tells of the instance.

    Raises:
        ValueError: The graph's inputs or outputs are not those of the signature.
        RuntimeError: The instance must run on a GPU, and onnxruntime knows none.
    """
    options = onnxruntime.SessionOptions()
    instances = max(1, int(signature["instance_count"]))
    options.intra_op_num_threads = max(1, (os.cpu_count() or 2) // (2 * instances))
    options.inter_op_num_threads = 1
    # Threads that spin while they wait would take the processors from other models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        str(folder / signature["file"]),
        options,
        providers=providers_of(args, demanded=bool(signature["needs_gpu"])),
    )
    features = [feature(entry) for entry in signature["inputs"]]
    outputs = [output(entry) for entry in signature["outputs"]]
    return OnnxModel(
        session,
        _matched("input", features, session.get_inputs(), whole=True),
        _matched("output", outputs, session.get_outputs(), whole=False),
        [[one.example(rows) for one in features] for rows in (1, 2)],
    )


def providers_of(args: Mapping[str, str], *, demanded: bool) -> list[Any]:
    """What runs an instance's graph, the best first.

    Raises:
        RuntimeError: It must be a GPU, and onnxruntime has no provider for it.
    """
    if args.get("model_instance_kind") == "GPU":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            number = int(args.get("model_instance_device_id", "0"))
            return [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]
        if demanded:
            raise RuntimeError(
                f"the instance must run on a GPU, and onnxruntime {onnxruntime.__version__} has no "
                "CUDA provider: give the runtime onnxruntime-gpu, or serve the model on CPU"
            )
    return ["CPUExecutionProvider"]


def _matched(
    side: str, specs: Sequence[Feature] | Sequence[Output], nodes: Sequence[Any], *, whole: bool
) -> list[str]:
    """The graph's name of each tensor; the only one of both sides may have another."""
    by_name = {node.name: node for node in nodes}
    if len(specs) == 1 and len(nodes) == 1:
        by_name = {specs[0].name: nodes[0]}
    missing = by_name.keys() - {spec.name for spec in specs}
    if whole and missing:
        raise ValueError(f"the graph has {_listed(missing)} that the signature does not feed")
    for spec in specs:
        node = by_name.get(spec.name)
        if node is None:
            raise ValueError(f"the graph has no {side} {spec.name!r}; it has {_listed(by_name)}")
        _check(side, spec, node)
    return [by_name[spec.name].name for spec in specs]


def _check(side: str, spec: Feature | Output, node: Any) -> None:
    found = _TYPES.get(node.type)
    if found is None or np.dtype(found) != spec.dtype:
        told = "text" if spec.dtype == object else spec.dtype.name
        raise ValueError(
            f"the graph's {side} {node.name!r} is {node.type}; the signature says {told}"
        )
    shape = node.shape
    if shape is None:
        return
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(size, int) or size < 0 or want in (-1, size)
        for size, want in zip(shape, spec.shape, strict=True)
    )
    # A fixed size of the graph where the signature leaves it open cannot answer what is allowed.
    narrow = side == "input" and any(
        isinstance(size, int) and size > 0 and want == -1
        for size, want in zip(shape, spec.shape, strict=False)
    )
    if not fits or narrow:
        raise ValueError(
            f"the graph's {side} {node.name!r} has shape {list(shape)}; "
            f"the signature says {list(spec.shape)}"
        )


def _decoded(array: Array) -> Array:
    texts = np.empty(array.size, object)
    texts[:] = [text.decode("utf-8") for text in array.ravel()]
    return texts.reshape(array.shape)


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(names)[:20])
