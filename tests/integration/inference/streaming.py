"""A model of the real runtime that gives any number of responses, and how it is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from services.inference.domain.endpoint import (
    Endpoint,
    EndpointConfig,
    InferenceTable,
    ServedEntity,
)
from services.inference.domain.signature import Flavor, Signature, TensorSpec

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


def endpoint(model: str) -> Endpoint:
    """An endpoint of the model, as the name `counter`."""
    now = datetime.now(UTC)
    signature = Signature(
        Flavor.TORCH_EXPORT,
        "model.py",
        (TensorSpec("x", "INT32", (-1, 1)),),
        (TensorSpec("y", "INT32", (-1, 1)),),
        streams=True,
    )
    entity = ServedEntity("counter-1", "main.default.counter", 1, "", 100, 1, model, signature)
    made = Endpoint(
        *("id", "counter", "", "counter"),
        InferenceTable("main.default.counter_payload", "main_default", "counter_payload"),
        *("alice", now, now, "etag"),
    )
    return replace(made, config=EndpointConfig(1, (entity,), now))
