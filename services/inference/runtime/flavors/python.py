"""Classes of Python that users bring, with whatever files they need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from services.inference.domain.signature import Signature
from services.inference.runtime.flavors.base import FlavorRule
from services.inference.runtime.flavors.packing import PACKED, packed

__all__ = ["PYTHON"]


def _settings(signature: Signature) -> Mapping[str, Any]:
    return {
        "entry": signature.entry,
        "arguments": json.loads(signature.arguments),
        "timeout_seconds": signature.timeout_seconds,
    }


PYTHON: Final = FlavorRule(
    loader="class_loader",
    files=lambda _, sources: {PACKED: packed(sources)},
    file=PACKED,
    sources=lambda _, path: bool(path),
    settings=_settings,
)
