"""A loaded model that is held to its signature."""

from __future__ import annotations

import importlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from .tensors import Array, Call, Feature, Model, Output, feature, output

__all__ = ["FittedModel", "load"]


class FittedModel:
    """A model whose inputs and outputs are those of its signature; it has answered its examples.

    Args:
        signature: What `signature.json` holds.
        model: As its loader made it.
    """

    def __init__(self, signature: Mapping[str, Any], model: Model) -> None:
        self.batched = bool(signature["batched"])
        self.streams = bool(signature["streams"])
        self.stateful = bool(signature["stateful"])
        self.features: Sequence[Feature] = [feature(entry) for entry in signature["inputs"]]
        self.outputs: Sequence[Output] = [output(entry) for entry in signature["outputs"]]
        self._model: Any = model
        # Models in this process answer or fail, and cannot be told to stop.
        self._ask = getattr(model, "ask", None) or (lambda arrays, _: model(arrays))
        for arrays in model.probe():
            self._fit(self._ask(arrays, Call()))

    def ask(self, arrays: Sequence[Array], call: Call) -> list[Array]:
        """One array per output for one per feature, as callers give them.

        Raises:
            ValueError: The model returned what is not its signature's.
            Exception: Whatever it raised.
        """
        return self._fit(self._ask(self._taken(arrays), call))

    def stream(self, arrays: Sequence[Array], call: Call) -> Generator[list[Array], None, None]:
        """Any number of responses; errors are those of `ask`."""
        with closing(self._model.stream(self._taken(arrays), call)) as responses:
            for values in responses:
                yield self._fit(values)

    def close(self) -> None:
        """End what the model began beside this process."""
        close = getattr(self._model, "close", None)
        if close is not None:
            close()

    def _taken(self, arrays: Sequence[Array]) -> list[Array]:
        return [one.array(array) for one, array in zip(self.features, arrays, strict=True)]

    def _fit(self, values: Sequence[Array]) -> list[Array]:
        if len(values) != len(self.outputs):
            raise ValueError(
                f"the model returned {len(values)} tensors; "
                f"the signature has {len(self.outputs)} outputs"
            )
        return [one.fit(value) for one, value in zip(self.outputs, values, strict=True)]


def load(folder: Path, args: Mapping[str, str]) -> FittedModel:
    """The model of a bundle's folder.

    Args:
        folder: Where `signature.json` and the model's files lie.
        args: What Triton tells of the instance.
    """
    signature = json.loads((folder / "signature.json").read_text("utf-8"))
    loader = importlib.import_module(f".{signature['loader']}", __package__)
    return FittedModel(signature, loader.load(folder, signature, args))
