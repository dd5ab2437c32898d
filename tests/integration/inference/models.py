"""A small torch model with its manifest, exported both ways."""

from __future__ import annotations

import io
import json
import warnings
from functools import cache
from typing import Any

import torch
from torch import nn

CARRIERS = ["AA", "UA", "DL"]
MANIFEST: dict[str, Any] = {
    "flavor": "torch_export",
    "file": "model.pt2",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 4], "role": "FEATURE"},
        {
            "name": "carrier",
            "datatype": "BYTES",
            "shape": [-1, 1],
            "role": "FEATURE",
            "vocabulary": CARRIERS,
        },
        {"name": "flown_at", "datatype": "BYTES", "shape": [-1, 1], "role": "METADATA"},
    ],
    "outputs": [{"name": "probability", "datatype": "FP32", "shape": [-1, 1]}],
}


class Delay(nn.Module):
    """A classifier of four numbers and a carrier."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.carriers = nn.Embedding(len(CARRIERS) + 1, 2)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, x: torch.Tensor, carrier: torch.Tensor) -> torch.Tensor:
        features = torch.cat([x, self.carriers(carrier[:, 0])], dim=1)
        return torch.sigmoid(self.layers(features) + self.bias)


def module(bias: float = 0.0) -> Delay:
    """The model; the same for the same bias."""
    torch.manual_seed(7)
    return Delay(bias).eval()


@cache
def exported(bias: float = 0.0) -> bytes:
    """The model as `torch.export.save` writes it, for any number of rows."""
    rows = torch.export.Dim("rows", min=1, max=8192)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            module(bias),
            (torch.zeros(2, 4), torch.zeros(2, 1, dtype=torch.int64)),
            dynamic_shapes=({0: rows}, {0: rows}),
        )
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    return buffer.getvalue()


@cache
def scripted(bias: float = 0.0) -> bytes:
    """The model as `torch.jit.save` writes it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module(bias)), buffer)
    return buffer.getvalue()


def manifest(**changes: Any) -> bytes:
    """`model.json`, changed."""
    return json.dumps({**MANIFEST, **changes}).encode()
