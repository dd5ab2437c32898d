"""What endpoints answer: predictions of tensors and of rows, and kept bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PayloadBody", "Prediction", "RowPrediction"]


@dataclass(frozen=True, slots=True)
class RowPrediction:
    """What an endpoint answered for some rows, and who answered."""

    columns: Mapping[str, npt.NDArray[Any]]
    """An array per output, of the signature's dtype (texts as objects); a first size of rows."""
    row_count: int
    """How many rows."""
    request_id: str
    """The `tessera_request_id`: the key of the request's row in the inference table and label."""
    client_request_id: str
    """The caller's own id."""
    served_entity: str
    """The served entity that answered."""
    model_name: str
    """The registered model's full name."""
    model_version: int
    """Its version's number."""
    config_version: int
    """The endpoint's configuration that was in force."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dictionary per row, of plain Python values by output."""
        values = [array.tolist() for array in self.columns.values()]
        return [dict(zip(self.columns, cells, strict=True)) for cells in zip(*values, strict=True)]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an endpoint answered."""

    outputs: Mapping[str, npt.NDArray[np.generic]]
    """Arrays by output name; the first dimension is the row."""
    request_id: str
    """The `tessera_request_id`: the key of the request's row in the inference table and label."""


@dataclass(frozen=True, slots=True)
class PayloadBody:
    """The body of a request or of its response, as the inference table or the store kept it."""

    data: bytes
    """Its bytes."""
    is_json: bool
    """Whether it is JSON; else a serialised `ModelInferRequest` or `ModelInferResponse`."""
