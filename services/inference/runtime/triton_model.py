"""The program that Triton's Python backend runs for a served model version.

It is sent to Triton as `1/model.py`, beside `1/signature.json` (what `runtime.bundle` wrote) and
the model's file, and stands on nothing but torch and numpy: the runtime has no code of Tessera.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from torch.export.passes import move_to_device_pass

Array = np.ndarray[Any, Any]
Module = Callable[..., Any]


@dataclass(frozen=True)
class Feature:
    """One input that the module is called with."""

    name: str
    dtype: np.dtype[Any]
    """What the module gets; int64 for an input with a vocabulary."""
    shape: tuple[int, ...]
    """As in the signature; -1 where any size will do."""
    vocabulary: dict[bytes, int] | None
    """The index of each known text; every other one becomes `len(vocabulary)`."""

    def tensor(self, array: Array) -> torch.Tensor:
        """The module's argument for one request's input."""
        if self.vocabulary is None:
            return torch.from_numpy(np.ascontiguousarray(array))
        unknown, index = len(self.vocabulary), self.vocabulary.get
        flat = (index(text, unknown) for text in array.ravel())
        return torch.from_numpy(np.fromiter(flat, np.int64, array.size).reshape(array.shape))

    def example(self, rows: int) -> torch.Tensor:
        """Zeros of the signature's shape, every open size `rows`."""
        shape = [rows if size < 0 else size for size in self.shape]
        return torch.from_numpy(np.zeros(shape, self.dtype))


@dataclass(frozen=True)
class Output:
    """One output that the module returns."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def check(self, array: Array) -> None:
        """Raise ValueError when the array does not have the signature's shape."""
        fits = array.ndim == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"output {self.name!r} has shape {list(array.shape)}; "
                f"the signature says {list(self.shape)}"
            )


class TritonPythonModel:
    """What the Python backend calls: one object per model instance, one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the module and run it once on zeros, so that a wrong signature fails the load."""
        folder = Path(args["model_repository"]) / args["model_version"]
        signature = json.loads((folder / "signature.json").read_text("utf-8"))
        instances = max(1, int(signature["instance_count"]))
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // (2 * instances)))
        self._device = _device(args, demanded=bool(signature["needs_gpu"]))
        self._batched = bool(signature["batched"])
        self._features = [_feature(entry) for entry in signature["inputs"]]
        self._outputs = [_output(entry) for entry in signature["outputs"]]
        self._module = _load(signature["flavor"], folder / signature["file"], self._device)
        for rows in (1, 2):
            arrays = self._run([feature.example(rows) for feature in self._features])
            for output, array in zip(self._outputs, arrays, strict=True):
                output.check(array)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests that Triton put together, with one call of the module where it can."""
        if len(requests) == 1 or not self._batched:
            return [self._answer_alone(request) for request in requests]
        try:
            return self._answer_together(requests)
        except Exception:
            # One bad request must not fail the others that Triton put beside it.
            return [self._answer_alone(request) for request in requests]

    def _answer_alone(self, request: Any) -> Any:
        try:
            return self._response(self._run(self._tensors(request)))
        except Exception as error:
            text = str(error).strip().split("\n", 1)[0][:500]
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(f"the model failed: {type(error).__name__}: {text}")
            )

    def _answer_together(self, requests: Sequence[Any]) -> list[Any]:
        single = [self._tensors(request) for request in requests]
        rows = [tensors[0].shape[0] for tensors in single]
        arrays = self._run([torch.cat(column) for column in zip(*single, strict=True)])
        ends = np.cumsum(rows)
        pieces = zip(*(np.split(array, ends[:-1]) for array in arrays), strict=True)
        return [self._response(piece) for piece in pieces]

    def _tensors(self, request: Any) -> list[torch.Tensor]:
        return [
            feature.tensor(pb_utils.get_input_tensor_by_name(request, feature.name).as_numpy())
            for feature in self._features
        ]

    def _run(self, tensors: Sequence[torch.Tensor]) -> list[Array]:
        with torch.inference_mode():
            returned = self._module(*(tensor.to(self._device) for tensor in tensors))
        values = list(returned) if isinstance(returned, tuple | list) else [returned]
        if len(values) != len(self._outputs):
            raise ValueError(
                f"the module returned {len(values)} tensors; "
                f"the signature has {len(self._outputs)} outputs"
            )
        return [
            value.detach().cpu().numpy().astype(output.dtype, copy=False)
            for value, output in zip(values, self._outputs, strict=True)
        ]

    def _response(self, arrays: Sequence[Array]) -> Any:
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(output.name, np.ascontiguousarray(array))
                for output, array in zip(self._outputs, arrays, strict=True)
            ]
        )


def _feature(entry: dict[str, Any]) -> Feature:
    words = entry.get("vocabulary")
    vocabulary = None if words is None else {word.encode(): i for i, word in enumerate(words)}
    return Feature(entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"]), vocabulary)


def _output(entry: dict[str, Any]) -> Output:
    return Output(entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"]))


def _device(args: dict[str, str], *, demanded: bool) -> torch.device:
    if args.get("model_instance_kind") != "GPU":
        return torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(args.get("model_instance_device_id", "0")))
        torch.cuda.set_device(device)
        return device
    if demanded:
        raise RuntimeError(
            f"the instance must run on a GPU, and torch {torch.__version__} sees none: "
            "give the runtime a torch with CUDA, or serve the model on CPU"
        )
    return torch.device("cpu")


def _load(flavor: str, path: Path, device: torch.device) -> Module:
    # The archive was rebuilt from checked parts by `runtime.archive`: it holds no pickled objects,
    # no native code and no operators that reach outside the graph.
    module: Module
    if flavor == "torch_export":
        program = torch.export.load(str(path))
        # Moving the module alone would leave the tensors that the graph itself makes, as masks and
        # positions, where the program was exported.
        module = move_to_device_pass(program, str(device)).module(check_guards=False)
        return module
    if flavor == "torchscript":
        module = torch.jit.load(str(path), map_location=device).eval()
        return module
    raise ValueError(f"unknown flavor {flavor!r}")
