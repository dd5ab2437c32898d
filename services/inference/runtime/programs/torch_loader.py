"""Loads models of torch: exported programs and TorchScript."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from .exported import function_of
from .tensors import Array, feature

__all__ = ["load"]

Module = Callable[..., Any]


@dataclass(frozen=True)
class TorchModel:
    """A module on its device."""

    module: Module
    device: torch.device
    examples: Sequence[Sequence[Array]]

    def __call__(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """Call the module with one tensor per array."""
        with torch.inference_mode():
            tensors = (torch.from_numpy(array).to(self.device) for array in arrays)
            returned = self.module(*tensors)
        values = returned if isinstance(returned, tuple | list) else [returned]
        return [value.detach().cpu().numpy() for value in values]

    def probe(self) -> Sequence[Sequence[Array]]:
        """Zeros of one row and of two."""
        return self.examples


def load(folder: Path, signature: Mapping[str, Any], args: Mapping[str, str]) -> TorchModel:
    """The model of a bundle.

    Args:
        folder: Where the bundle's files lie.
        signature: What `signature.json` holds.
        args: What Triton tells of the instance.
    """
    instances = max(1, int(signature["instance_count"]))
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // (2 * instances)))
    device = device_of(args, demanded=bool(signature["needs_gpu"]))
    features = [feature(entry) for entry in signature["inputs"]]
    return TorchModel(
        module_of(
            signature["flavor"], folder / signature["file"], device, [f.name for f in features]
        ),
        device,
        [[one.example(rows) for one in features] for rows in (1, 2)],
    )


def device_of(args: Mapping[str, str], *, demanded: bool) -> torch.device:
    """Where an instance's tensors go.

    Raises:
        RuntimeError: It must be a GPU, and torch sees none.
    """
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


def module_of(flavor: str, path: Path, device: torch.device, names: Sequence[str]) -> Module:
    """The module that a checked archive holds.

    The archive was rebuilt from checked parts by `runtime.archive`: it holds no pickled objects,
    no native code and no operators that reach outside the graph.

    Args:
        flavor: `torch_export` or `torchscript`.
        path: The archive.
        device: Where its tensors go.
        names: Of its inputs, as callers know them.
    """
    module: Module
    if flavor == "torch_export":
        program = torch.export.load(str(path))
        # Moving the module alone would leave the tensors that the graph itself makes, as masks and
        # positions, where the program was exported.
        return function_of(move_to_device_pass(program, str(device)), names)
    if flavor == "torchscript":
        module = torch.jit.load(str(path), map_location=device).eval()
        return module
    raise ValueError(f"unknown flavor {flavor!r}")
