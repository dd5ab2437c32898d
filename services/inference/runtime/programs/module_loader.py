"""Loads modules of torch that bring code: classes with safetensors, and compiled packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .process import ModelProcess, start
from .tensors import feature

__all__ = ["load"]


def load(folder: Path, signature: Mapping[str, Any], args: Mapping[str, str]) -> ModelProcess:
    """The model of a bundle, in its process.

    Args:
        folder: Where the bundle's files lie.
        signature: What `signature.json` holds.
        args: What Triton tells of the instance.
    """
    features = [feature(entry) for entry in signature["inputs"]]
    told = {name: signature[name] for name in ("flavor", "weights", "entry", "arguments")}
    told |= {
        "on_gpu": args.get("model_instance_kind") == "GPU",
        "needs_gpu": signature["needs_gpu"],
    }
    examples = [[one.example(rows) for one in features] for rows in (1, 2)]
    return start("module_worker", folder, signature, args, told=told, examples=examples)
