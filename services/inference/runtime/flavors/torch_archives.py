"""Exported programs and TorchScript: archives that are rebuilt from checked parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.inference.domain.signature import Signature
from services.inference.runtime.archive import rebuild
from services.inference.runtime.flavors.base import FlavorRule

__all__ = ["TORCHSCRIPT", "TORCH_EXPORT"]


def _rebuilt(file: str, signature: Signature, sources: Mapping[str, bytes]) -> dict[str, bytes]:
    return {file: rebuild(signature.flavor, sources[signature.file])}


TORCH_EXPORT: Final = FlavorRule(
    loader="torch_loader",
    files=lambda signature, sources: _rebuilt("model.pt2", signature, sources),
    file="model.pt2",
)
TORCHSCRIPT: Final = FlavorRule(
    loader="torch_loader",
    files=lambda signature, sources: _rebuilt("model.pt", signature, sources),
    file="model.pt",
)
