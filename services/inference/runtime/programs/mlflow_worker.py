"""The process of one MLflow model: `python -m programs.mlflow_worker MODEL SOCKET`.

It stands on MLflow and on what the model brings. Tensors become what the model's MLflow signature
says, a table of named columns or an array, and what the model returns becomes tensors again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .tensors import Array
from .worker import Answer, plain, serve

__all__ = ["inputs_of", "main", "outputs_of"]


def main(path: str, number: int) -> None:
    """Load the model and answer until the other side closes the socket."""
    serve(number, lambda told: _load(path, told["outputs"]))


def _load(path: str, names: Sequence[str]) -> Answer:
    # Here and not above: it takes seconds, and may be what the environment lacks.
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(path)
    schema = model.metadata.get_input_schema()
    example = model.input_example
    if example is not None:
        outputs_of(model.predict(example), names)
    return lambda _, arrays: outputs_of(model.predict(inputs_of(arrays, schema)), names)


def inputs_of(arrays: Sequence[Array], schema: Any) -> Any:
    """What the model is called with.

    Args:
        arrays: One per entry of the schema, in its order; texts are bytes.
        schema: MLflow's input schema.

    Returns:
        A DataFrame for columns, a dict for named tensors, an array for one without a name.
    """
    if schema.is_tensor_spec():
        values = [_tensor(array, spec) for array, spec in zip(arrays, schema.inputs, strict=True)]
        if schema.has_input_names():
            return dict(zip(schema.input_names(), values, strict=True))
        return values[0]
    import pandas as pd

    columns = [
        _column(array[:, 0], spec.type.name)
        for array, spec in zip(arrays, schema.inputs, strict=True)
    ]
    labels = schema.input_names() if schema.has_input_names() else range(len(columns))
    return pd.DataFrame(dict(zip(labels, columns, strict=True)))


def outputs_of(returned: Any, names: Sequence[str]) -> list[Array]:
    """One array per name of what a model returned; texts and times as bytes.

    Raises:
        ValueError: It returned something else than the names say.
    """
    columns = _columns(returned, names)
    if len(columns) != len(names):
        raise ValueError(f"it returned {len(columns)} outputs; the signature has {len(names)}")
    return [plain(column) for column in columns]


def _columns(returned: Any, names: Sequence[str]) -> list[Any]:
    if hasattr(returned, "columns"):
        # A table: by name where it has the names, by place otherwise.
        if set(names) <= set(returned.columns):
            return [returned[name] for name in names]
        if len(names) == 1 and len(returned.columns) > 1:
            return [returned.to_numpy()]
        return [returned.iloc[:, index] for index in range(len(returned.columns))]
    if isinstance(returned, Mapping):
        if len(names) == 1 and len(returned) == 1:
            return list(returned.values())
        missing = [name for name in names if name not in returned]
        if missing:
            raise ValueError(f"it returned no {missing[0]!r}; it has {sorted(map(str, returned))}")
        return [returned[name] for name in names]
    if len(names) == 1:
        return [returned]
    array = np.asarray(returned)
    if array.ndim == 2:
        return [array[:, index] for index in range(array.shape[1])]
    return list(returned)


def _tensor(array: Array, spec: Any) -> Array:
    array = _decoded(array) if array.dtype == object else array
    # A tensor of one size is a column to callers, so that their rows can be put together.
    return array[:, 0] if len(spec.shape) == 1 and array.ndim == 2 else array


def _column(array: Array, kind: str) -> Any:
    if kind == "binary":
        return array
    if array.dtype == object:
        array = _decoded(array)
    return array.astype("datetime64[ns]") if kind == "datetime" else array


def _decoded(array: Array) -> Array:
    texts = np.empty(array.size, object)
    texts[:] = [text.decode("utf-8") for text in array.ravel()]
    return texts.reshape(array.shape)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
