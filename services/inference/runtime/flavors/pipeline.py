"""Pipelines of other model versions, which bring the files."""

from __future__ import annotations

from typing import Final

from services.inference.runtime.flavors.base import FlavorRule

__all__ = ["PIPELINE"]

PIPELINE: Final = FlavorRule(
    loader="pipeline_loader",
    files=lambda _signature, _sources: {},
    file="",
    sources=lambda _signature, _path: False,
)
