"""What Triton's failures mean for callers."""

from __future__ import annotations

import re
from typing import Final

import grpc

from services.inference.errors import (
    InferenceTimeout,
    InvalidInference,
    ModelFailed,
    ModelNotLoaded,
    RuntimeUnavailable,
    TooManyInferences,
)
from tessera_kit.errors import TesseraError

__all__ = ["load_failure", "runtime_error"]

_RETRY_SECONDS: Final = 0.5
_UNAVAILABLE: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED}
)
"""A model that is gone, or a runtime that is: it cancels what runs when it ends."""
_NOT_LOADED: Final = "unknown model"
"""What Triton says of a model that is not loaded, before anything of the request runs."""
_REFUSED: Final = "the model refused the request:"
"""What a model says of a request that is at fault itself."""
_DIED: Final = "Stub process"
"""What it says of one whose process died."""
# Triton tells a Python error as "… state: Internal: <message>\n\nAt:\n  <file>(<line>): …;".
_REASON: Final = re.compile(r"state: [\w ]+: (.*?)(?:\n\nAt:|\Z)", re.DOTALL)
_LONGEST_REASON: Final = 1000


def runtime_error(code: grpc.StatusCode, details: str) -> TesseraError:
    """What a failed call of Triton means for the caller, without the runtime's own names."""
    if code in _UNAVAILABLE or _NOT_LOADED in details or _DIED in details:
        kind = ModelNotLoaded if _NOT_LOADED in details else RuntimeUnavailable
        return kind(
            "the model is not loaded now; it is being loaded again", retry_after=_RETRY_SECONDS
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return InferenceTimeout("the deadline passed before the model answered")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return TooManyInferences("the model runtime is full", retry_after=_RETRY_SECONDS)
    if _REFUSED in details:
        # By what it says: in a stream a failure may come without its code.
        return InvalidInference(details[details.index(_REFUSED) :][:1024])
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidInference("the model runtime refused the request's tensors")
    if "the model failed:" in details:
        return ModelFailed(details[details.index("the model failed:") :][:1024])
    return ModelFailed("the model failed")


def load_failure(details: str) -> str:
    """Why a model cannot be loaded, from what Triton says of it."""
    found = _REASON.search(details)
    text = found[1] if found is not None else details
    return f"the model cannot be loaded: {text.strip()[:_LONGEST_REASON]}"
