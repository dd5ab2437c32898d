"""Small ONNX graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["WEIGHTS", "linear_graph", "outside_graph"]

WEIGHTS = np.arange(8, dtype=np.float32).reshape(4, 2) / 8


def linear_graph(
    *, rows: int | str = "rows", name: str = "x", texts: bool = False, kind: int = TensorProto.FLOAT
) -> bytes:
    """`scores = x @ WEIGHTS`; with texts, `echo = carrier` beside it."""
    nodes = [helper.make_node("MatMul", [name, "weights"], ["scores"])]
    inputs = [helper.make_tensor_value_info(name, kind, [rows, 4])]
    outputs = [helper.make_tensor_value_info("scores", kind, [rows, 2])]
    if texts:
        nodes.append(helper.make_node("Identity", ["carrier"], ["echo"]))
        inputs.append(helper.make_tensor_value_info("carrier", TensorProto.STRING, [rows, 1]))
        outputs.append(helper.make_tensor_value_info("echo", TensorProto.STRING, [rows, 1]))
    weights = numpy_helper.from_array(
        WEIGHTS.astype(helper.tensor_dtype_to_np_dtype(kind)), "weights"
    )
    return _model(nodes, inputs, outputs, [weights])


def outside_graph(location: str) -> bytes:
    """`scores = x + weights`, with the weights in another file."""
    weights = TensorProto(
        name="weights",
        data_type=TensorProto.FLOAT,
        dims=[4],
        data_location=TensorProto.EXTERNAL,
    )
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    return _model(
        [helper.make_node("Add", ["x", "weights"], ["scores"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 4])],
        [weights],
    )


def _model(
    nodes: Sequence[object],
    inputs: Sequence[object],
    outputs: Sequence[object],
    weights: Sequence[object],
) -> bytes:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    content: bytes = model.SerializeToString()
    return content
