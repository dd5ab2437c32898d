"""Loads models by MLflow's `python_function` face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .process import ModelProcess, start

__all__ = ["load"]


def load(folder: Path, signature: Mapping[str, Any], args: Mapping[str, str]) -> ModelProcess:
    """The model of a bundle, in its process; it has answered its input example, if it has one.

    Args:
        folder: Where the bundle's files lie.
        signature: What `signature.json` holds.
        args: What Triton tells of the instance.
    """
    names = [entry["name"] for entry in signature["outputs"]]
    return start("mlflow_worker", folder, signature, args, told={"outputs": names})
