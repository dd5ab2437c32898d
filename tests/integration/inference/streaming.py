"""A model of the real runtime that gives any number of responses, and how it is asked."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tritonclient.grpc as triton

PROGRAM = '''
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Counts from 0 to below `x`; fails after that many responses when `x` is negative."""

    def execute(self, requests):
        for request in requests:
            count = int(pb_utils.get_input_tensor_by_name(request, "x").as_numpy()[0, 0])
            sender = request.get_response_sender()
            for value in range(abs(count)):
                if request.is_cancelled():
                    break
                y = pb_utils.Tensor("y", np.array([[value]], np.int32))
                sender.send(pb_utils.InferenceResponse([y]))
                if abs(count) > 1000:
                    time.sleep(0.001)
            final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            if request.is_cancelled():
                error = pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
                sender.send(pb_utils.InferenceResponse(error=error), flags=final)
            elif count < 0:
                error = pb_utils.TritonError("the model failed: ValueError: no more")
                sender.send(pb_utils.InferenceResponse(error=error), flags=final)
            else:
                sender.send(flags=final)
'''


def files() -> dict[str, bytes]:
    """What the runtime is given."""
    return {"1/model.py": PROGRAM.encode()}


def config(name: str) -> str:
    """Triton's ModelConfig as JSON."""
    return json.dumps(
        {
            "name": name,
            "backend": "python",
            "max_batch_size": 8,
            "input": [{"name": "x", "data_type": "TYPE_INT32", "dims": [1]}],
            "output": [{"name": "y", "data_type": "TYPE_INT32", "dims": [1]}],
            "model_transaction_policy": {"decoupled": True},
            "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
        }
    )


def count_to(number: int) -> list[Any]:
    """The inputs of a request for so many responses."""
    x = triton.InferInput("x", [1, 1], "INT32")
    x.set_data_from_numpy(np.array([[number]], np.int32))
    return [x]
