"""The program that Triton's Python backend runs for a served model version.

It is sent to Triton as `1/model.py`, beside `1/signature.json` (what `runtime.bundle` wrote), the
model's files, and `1/programs.zip` with the loader of the model's flavor: the runtime has no code
of Tessera.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What the Python backend calls: one object per model instance, one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and ask it what it must be able to answer: a wrong signature fails."""
        folder = Path(args["model_repository"]) / args["model_version"]
        # This process serves this one model.
        sys.path.insert(0, str(folder / "programs.zip"))
        self._call = importlib.import_module("programs.tensors").Call
        self._model = importlib.import_module("programs.fitted").load(folder, args)
        # What is loaded stays: no answer waits while the collector walks through a framework.
        gc.collect()
        gc.freeze()

    def finalize(self) -> None:
        """End what the model began beside this process."""
        model = getattr(self, "_model", None)
        if model is not None:
            model.close()

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer requests that Triton put together, with one call of the model where it can."""
        if self._model.streams:
            for request in requests:
                self._stream(request)
            # Every response went its own way.
            return None
        if len(requests) == 1 or not self._model.batched or self._model.stateful:
            return [self._answer_alone(request) for request in requests]
        try:
            return self._answer_together(requests)
        except Exception as error:
            if type(error).__name__ == "ModelHangs":
                return [_failure(error)] * len(requests)
            # One bad request must not fail the others that Triton put beside it.
            return [self._answer_alone(request) for request in requests]

    def _answer_alone(self, request: Any) -> Any:
        try:
            return self._response(self._model.ask(self._arrays(request), self._call_of([request])))
        except Exception as error:
            return _failure(error)

    def _answer_together(self, requests: Sequence[Any]) -> list[Any]:
        single = [self._arrays(request) for request in requests]
        rows = [arrays[0].shape[0] for arrays in single]
        together = [np.concatenate(column) for column in zip(*single, strict=True)]
        returned = self._model.ask(together, self._call_of(requests))
        ends = np.cumsum(rows)
        if any(len(array) != ends[-1] for array in returned):
            raise ValueError("the model did not return one row per row")
        pieces = zip(*(np.split(array, ends[:-1]) for array in returned), strict=True)
        return [self._response(piece) for piece in pieces]

    def _stream(self, request: Any) -> None:
        """Send each response as the model gives it."""
        sender = request.get_response_sender()
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            call = self._call_of([request])
            with closing(self._model.stream(self._arrays(request), call)) as responses:
                for values in responses:
                    sender.send(self._response(values))
        except Exception as error:
            sender.send(_failure(error), flags=final)
        else:
            sender.send(flags=final)

    def _call_of(self, requests: Sequence[Any]) -> Any:
        told = {"sequence": _sequence(requests[0])} if self._model.stateful else {}
        return self._call(lambda: all(request.is_cancelled() for request in requests), told)

    def _arrays(self, request: Any) -> list[Any]:
        return [
            pb_utils.get_input_tensor_by_name(request, feature.name).as_numpy()
            for feature in self._model.features
        ]

    def _response(self, arrays: Sequence[Any]) -> Any:
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(output.name, np.ascontiguousarray(array))
                for output, array in zip(self._model.outputs, arrays, strict=True)
            ]
        )


def _sequence(request: Any) -> dict[str, Any]:
    """Where a request stands in its sequence; one without a sequence is one of its own."""
    flags, name = request.flags(), request.correlation_id()
    alone = not name
    return {
        "id": str(name),
        "start": alone or bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START),
        "end": alone or bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END),
    }


def _failure(error: Exception) -> Any:
    text = str(error).strip().split("\n", 1)[0][:500]
    kind = type(error).__name__
    if kind == "InputRefused":
        refused = pb_utils.TritonError(
            f"the model refused the request: {text}", pb_utils.TritonError.INVALID_ARG
        )
        return pb_utils.InferenceResponse(error=refused)
    # What a model's process says names the model's own error.
    told = text if kind in ("ModelHangs", "ProcessFailed") else f"{kind}: {text}"
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"the model failed: {told}"))
