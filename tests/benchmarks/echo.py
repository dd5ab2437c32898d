"""A model that answers what it is asked, of one size: the least work behind a request."""

from __future__ import annotations

import io
import json

import numpy as np
import torch
from torch import nn
from tritonclient.grpc import service_pb2 as oip

from tessera.client.tensors import write_inputs

__all__ = ["request_of", "row_of", "version_files"]

_BYTES = 4


class _Echo(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def row_of(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """One row of so many bytes of 32-bit floats."""
    # Not all digits of a random number: as JSON they would be three times their bytes.
    return (np.arange(size // _BYTES, dtype=np.float32) % 100 / 4).reshape(1, -1)


def request_of(model: str, size: int) -> bytes:
    """A request of one row, serialised."""
    request = oip.ModelInferRequest(model_name=model)
    write_inputs(request, {"x": row_of(size)})
    return bytes(request.SerializeToString())


def version_files(size: int) -> dict[str, bytes]:
    """The files of a version of the model for rows of so many bytes."""
    width = size // _BYTES
    buffer = io.BytesIO()
    rows = torch.export.Dim("rows", min=1, max=8192)
    program = torch.export.export(
        _Echo().eval(), (torch.zeros(2, width),), dynamic_shapes=({0: rows},)
    )
    torch.export.save(program, buffer)
    tensor = {"datatype": "FP32", "shape": [-1, width]}
    manifest = {
        "flavor": "torch_export",
        "file": "model.pt2",
        "inputs": [{"name": "x", **tensor, "role": "FEATURE"}],
        "outputs": [{"name": "y", **tensor}],
    }
    return {"model.pt2": buffer.getvalue(), "model.json": json.dumps(manifest).encode()}
