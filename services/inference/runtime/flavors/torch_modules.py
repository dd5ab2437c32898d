"""Modules of torch that bring code: a class with safetensors, and what AOTInductor compiled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from services.inference.domain.signature import Signature
from services.inference.runtime.flavors.base import FlavorRule
from services.inference.runtime.flavors.packing import PACKED, packed

__all__ = ["TORCH_COMPILED", "TORCH_MODULE"]

_REQUIREMENTS: Final = "requirements.txt"
_CODE: Final = "code/"


def _needed(signature: Signature, path: str) -> bool:
    return path in (signature.file, _REQUIREMENTS) or path.startswith(_CODE)


def _settings(signature: Signature) -> Mapping[str, Any]:
    return {
        "weights": signature.file,
        "entry": signature.entry,
        "arguments": json.loads(signature.arguments),
    }


TORCH_MODULE: Final = FlavorRule(
    loader="module_loader",
    files=lambda _, sources: {PACKED: packed(sources)},
    file=PACKED,
    sources=_needed,
    settings=_settings,
)
TORCH_COMPILED: Final = TORCH_MODULE
