"""ONNX graphs. They hold no code, so they need no permission."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.inference.domain.signature import Signature
from services.inference.runtime.flavors.base import FlavorRule

__all__ = ["ONNX"]

_FILE: Final = "model.onnx"


def _graph(signature: Signature, sources: Mapping[str, bytes]) -> dict[str, bytes]:
    # Weights in files beside the graph are not sent, so that a graph which names some is refused
    # by onnxruntime, as is one that names files outside of the model's folder.
    return {_FILE: sources[signature.file]}


ONNX: Final = FlavorRule(loader="onnx_loader", files=_graph, file=_FILE)
