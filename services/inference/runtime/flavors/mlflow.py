"""Whatever MLflow can load as a `python_function`: scikit-learn and others, with their code."""

from __future__ import annotations

from typing import Final

from services.inference.runtime.flavors.base import FlavorRule
from services.inference.runtime.flavors.packing import PACKED, packed

__all__ = ["MLFLOW"]

MLFLOW: Final = FlavorRule(
    loader="mlflow_loader",
    files=lambda _, sources: {PACKED: packed(sources)},
    file=PACKED,
    sources=lambda _, path: bool(path),
)
