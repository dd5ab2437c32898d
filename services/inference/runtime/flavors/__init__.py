"""The flavors of models that can be served, each a module of its own."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from services.inference.domain.signature import Flavor
from services.inference.runtime.flavors.base import FlavorRule
from services.inference.runtime.flavors.mlflow import MLFLOW
from services.inference.runtime.flavors.onnx import ONNX
from services.inference.runtime.flavors.pipeline import PIPELINE
from services.inference.runtime.flavors.python import PYTHON
from services.inference.runtime.flavors.torch_archives import TORCH_EXPORT, TORCHSCRIPT
from services.inference.runtime.flavors.torch_modules import TORCH_COMPILED, TORCH_MODULE

__all__ = ["FLAVORS", "FlavorRule"]

FLAVORS: Final = MappingProxyType(
    {
        Flavor.TORCH_EXPORT: TORCH_EXPORT,
        Flavor.TORCHSCRIPT: TORCHSCRIPT,
        Flavor.TORCH_MODULE: TORCH_MODULE,
        Flavor.TORCH_COMPILED: TORCH_COMPILED,
        Flavor.ONNX: ONNX,
        Flavor.MLFLOW: MLFLOW,
        Flavor.PYTHON: PYTHON,
        Flavor.PIPELINE: PIPELINE,
    }
)
"""Every flavor's rule."""
