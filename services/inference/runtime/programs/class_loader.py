"""Loads classes of Python that users bring."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .process import ModelProcess, start

__all__ = ["load"]

_TOLD = ("entry", "arguments", "inputs", "outputs", "batched", "streams", "stateful", "sequences")


def load(folder: Path, signature: Mapping[str, Any], args: Mapping[str, str]) -> ModelProcess:
    """The model of a bundle, in its process.

    Args:
        folder: Where the bundle's files lie.
        signature: What `signature.json` holds.
        args: What Triton tells of the instance.
    """
    told = {name: signature[name] for name in _TOLD}
    told["device"] = "cuda:0" if args.get("model_instance_kind") == "GPU" else "cpu"
    longest = float(signature["timeout_seconds"])
    return start("class_worker", folder, signature, args, told=told, longest_seconds=longest)
