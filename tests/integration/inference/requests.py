"""Inputs for the test model, as an unmodified tritonclient sends them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tritonclient.grpc as triton

from tests.integration.inference.models import CARRIERS, module


def inputs(
    x: Any, carriers: list[str], *, flown_at: list[str] | None = None
) -> list[triton.InferInput]:
    """`x` and `carrier` of as many rows as there are carriers, and the metadata when given."""
    features = np.asarray(x, np.float32)
    found = [
        triton.InferInput("x", list(features.shape), "FP32"),
        triton.InferInput("carrier", [len(carriers), 1], "BYTES"),
    ]
    found[0].set_data_from_numpy(features)
    found[1].set_data_from_numpy(np.array(carriers, object).reshape(-1, 1))
    if flown_at is not None:
        metadata = triton.InferInput("flown_at", [len(flown_at), 1], "BYTES")
        metadata.set_data_from_numpy(np.array(flown_at, object).reshape(-1, 1))
        found.append(metadata)
    return found


def expected(x: Any, carriers: list[str], bias: float = 0.0) -> Any:
    """What the model gives; a carrier it does not know has the last index."""
    import torch

    index = [CARRIERS.index(name) if name in CARRIERS else len(CARRIERS) for name in carriers]
    with torch.inference_mode():
        found = module(bias)(
            torch.tensor(np.asarray(x, np.float32)), torch.tensor(index).reshape(-1, 1)
        )
    return found.numpy()
