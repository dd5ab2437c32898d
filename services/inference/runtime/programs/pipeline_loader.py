"""Loads pipelines: several models in a row, whose tensors pass from one to the next."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import fitted
from .fitted import FittedModel
from .process import ProcessFailed
from .tensors import Array, Call

__all__ = ["Pipeline", "Step", "load"]

Tensors = dict[str, Array]


@dataclass(frozen=True)
class Step:
    """A model of a pipeline."""

    title: str
    """What failures call it."""
    model: FittedModel
    reads: Sequence[str]
    """The pipeline's tensors that its inputs are, in their order."""
    writes: Sequence[str]
    """The pipeline's tensors that its outputs become, in their order."""

    def run(self, tensors: Tensors, call: Call) -> Tensors:
        """The tensors with what it makes of them."""
        try:
            return self._with(tensors, self.model.ask(self._read(tensors), call))
        except Exception as error:
            raise self._failed(error) from None

    def stream(self, tensors: Tensors, call: Call) -> Generator[Tensors, None, None]:
        """The tensors with each of its responses."""
        responses = self.model.stream(self._read(tensors), call)
        with closing(responses):
            while True:
                try:
                    values = next(responses)
                except StopIteration:
                    return
                except Exception as error:
                    raise self._failed(error) from None
                yield self._with(tensors, values)

    def _read(self, tensors: Tensors) -> list[Array]:
        return [tensors[name] for name in self.reads]

    def _with(self, tensors: Tensors, values: Sequence[Array]) -> Tensors:
        return {**tensors, **dict(zip(self.writes, values, strict=True))}

    def _failed(self, error: Exception) -> ProcessFailed:
        if isinstance(error, ProcessFailed):
            # Of the same kind: what becomes of the request depends on it.
            return type(error)(f"{self.title}: {error}")
        text = str(error).strip().split("\n", 1)[0]
        return ProcessFailed(f"{self.title}: {type(error).__name__}: {text}")


class Pipeline:
    """Models in a row.

    Args:
        steps: In their order.
        inputs: Names of what it takes.
        outputs: Names of what it gives.
    """

    def __init__(
        self, steps: Sequence[Step], inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self._steps = steps
        self._inputs = inputs
        self._outputs = outputs
        places = [place for place, step in enumerate(steps) if step.model.streams]
        self._streaming = places[0] if places else len(steps)

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Ask each step in turn, as `ask` does."""
        return self.ask(arrays, Call())

    def ask(self, arrays: Sequence[Array], call: Call) -> list[Array]:
        """Ask each step in turn; one array per output.

        Raises:
            ProcessFailed: A step failed; the text says which.
        """
        tensors = dict(zip(self._inputs, arrays, strict=True))
        return self._given(_through(self._steps, tensors, call))

    def stream(self, arrays: Sequence[Array], call: Call) -> Generator[list[Array], None, None]:
        """The responses of the step that streams, each through those after it."""
        before, after = self._steps[: self._streaming], self._steps[self._streaming + 1 :]
        tensors = _through(before, dict(zip(self._inputs, arrays, strict=True)), call)
        with closing(self._steps[self._streaming].stream(tensors, call)) as responses:
            for one in responses:
                yield self._given(_through(after, one, call))

    def probe(self) -> Sequence[Sequence[Array]]:
        """Nothing: each step was asked when it was loaded."""
        return ()

    def close(self) -> None:
        """End what the steps began."""
        for step in self._steps:
            step.model.close()

    def _given(self, tensors: Tensors) -> list[Array]:
        return [tensors[name] for name in self._outputs]


def load(folder: Path, signature: Mapping[str, Any], args: Mapping[str, str]) -> Pipeline:
    """The pipeline of a bundle, whose steps lie in folders of their own.

    Args:
        folder: Where the bundle's files lie.
        signature: What `signature.json` holds.
        args: What Triton tells of the instance.

    Raises:
        ProcessFailed: A step cannot be loaded; the text says which.
    """
    steps: list[Step] = []
    try:
        for index, told in enumerate(signature["steps"]):
            try:
                model = fitted.load(folder / "steps" / str(index), args)
            except Exception as error:
                raise ProcessFailed(f"{told['title']}: {error}") from error
            steps.append(Step(told["title"], model, told["reads"], told["writes"]))
    except ProcessFailed:
        for step in steps:
            step.model.close()
        raise
    inputs = [entry["name"] for entry in signature["inputs"]]
    return Pipeline(steps, inputs, [entry["name"] for entry in signature["outputs"]])


def _through(steps: Sequence[Step], tensors: Tensors, call: Call) -> Tensors:
    for step in steps:
        tensors = step.run(tensors, call)
    return tensors
