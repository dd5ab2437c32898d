"""A small torch model that texts, numbers and metadata reach, as files of a model version."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

CARRIERS = ("AA", "UA", "DL")
FEATURES = 4
MANIFEST: dict[str, Any] = {
    "flavor": "torch_export",
    "file": "model.pt2",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, FEATURES], "role": "FEATURE"},
        {
            "name": "carrier",
            "datatype": "BYTES",
            "shape": [-1, 1],
            "role": "FEATURE",
            "vocabulary": list(CARRIERS),
        },
        {"name": "flown_at", "datatype": "INT64", "shape": [-1, 1], "role": "METADATA"},
    ],
    "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}],
}


class Scorer(nn.Module):
    """The sum of four numbers, plus 10 times the carrier's index, plus a bias.

    Every answer names its question: nobody's answer can be taken for another's.
    """

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, x: torch.Tensor, carrier: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=1, keepdim=True) + 10.0 * carrier.float() + self.bias


def expected(x: npt.NDArray[np.float32], carriers: Sequence[str], bias: float = 0.0) -> Any:
    """What the model answers, shape [rows, 1]; an unknown carrier has the last index."""
    index = [CARRIERS.index(name) if name in CARRIERS else len(CARRIERS) for name in carriers]
    return x.sum(axis=1, keepdims=True) + 10.0 * np.array(index, np.float32)[:, None] + bias


@cache
def program(bias: float = 0.0) -> bytes:
    """The model as `torch.export.save` writes it, for any number of rows."""
    # Thousands of records that would drown a failing test's own.
    logging.getLogger("torch.__trace").propagate = False
    rows = torch.export.Dim("rows", min=1, max=8192)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch warns of its own internals.
        warnings.simplefilter("ignore")
        exported = torch.export.export(
            Scorer(bias).eval(),
            (torch.zeros(2, FEATURES), torch.zeros(2, 1, dtype=torch.int64)),
            dynamic_shapes=({0: rows}, {0: rows}),
        )
        torch.export.save(exported, buffer)
    return buffer.getvalue()


def version_files(bias: float = 0.0) -> dict[str, bytes]:
    """The files of a model version that can be served."""
    return {"model.pt2": program(bias), "model.json": json.dumps(MANIFEST).encode()}


def inputs(
    x: npt.ArrayLike, carriers: Sequence[str], flown_at: Sequence[int]
) -> dict[str, npt.NDArray[Any]]:
    """Arrays as `AsyncClient.inference.predict` takes them, one row per carrier."""
    return {
        "x": np.asarray(x, np.float32).reshape(-1, FEATURES),
        "carrier": np.array([name.encode() for name in carriers], np.object_).reshape(-1, 1),
        "flown_at": np.array(flown_at, np.int64).reshape(-1, 1),
    }
