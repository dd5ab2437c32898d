"""The process of a user's Python class: `python -m programs.class_worker MODEL SOCKET`.

The class has `predict(inputs)`, which returns the outputs by name, or yields any number of such
responses where the model streams; `predict(inputs, sequence)` where it keeps state. It may have
`load(context)`, called once before any request, and `unload()`, called when it is let go.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .entries import class_of
from .tensors import Array
from .worker import Answer, InvalidInput, plain, serve

__all__ = ["Context", "SequenceStates", "SequenceTurn", "load", "main", "outputs_of"]


@dataclass(frozen=True)
class Context:
    """What a class is told when it is loaded."""

    folder: Path
    """The version's files; its code is below `code`."""
    device: str
    """`cpu`, or the GPU that its process sees, `cuda:0`."""
    InvalidInput: type[Exception] = InvalidInput
    """To raise for a request that is at fault itself; its text is told to the caller."""


@dataclass(frozen=True)
class SequenceTurn:
    """A request's place in its sequence."""

    id: str
    start: bool
    end: bool
    state: dict[str, Any] = field(default_factory=dict)
    """What the class keeps from request to request; empty at the start."""


class SequenceStates:
    """The states of the sequences that an instance has.

    Args:
        idle_seconds: After how long without a request one is forgotten.
    """

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._states: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()

    def turn(self, told: Mapping[str, Any]) -> SequenceTurn:
        """A request's turn.

        Raises:
            LookupError: It goes on with a sequence whose state is not here.
        """
        name, start, end = str(told["id"]), bool(told["start"]), bool(told["end"])
        now = time.monotonic()
        while self._states and next(iter(self._states.values()))[0] < now - self._idle_seconds:
            self._states.popitem(last=False)
        _, state = self._states.pop(name, (0.0, None))
        if start:
            state = {}
        if state is None:
            raise LookupError(
                "the state of the sequence is lost: it was idle for too long, or the model's "
                "process was started again; begin the sequence anew"
            )
        if not end:
            self._states[name] = (now, state)
        return SequenceTurn(name, start, end, state)


def main(path: str, number: int) -> None:
    """Load the class and answer until the other side closes the socket."""
    with ExitStack() as ending:
        serve(number, lambda told: load(Path(path), told, ending))


def load(folder: Path, told: Mapping[str, Any], ending: ExitStack) -> Answer:
    """The class as what answers requests.

    Args:
        folder: The version's files.
        told: `entry`, `arguments`, `inputs`, `outputs`, `streams`, `stateful`, `sequences`,
            `batched`, `device`.
        ending: Told what to do at the end.

    Raises:
        ImportError: The class is not in the version's own code.
        TypeError: It has no `predict`.
    """
    model = class_of(folder / "code", told["entry"])(**told["arguments"])
    if not callable(getattr(model, "predict", None)):
        raise TypeError(f"{told['entry']} has no method predict")
    if hasattr(model, "load"):
        model.load(Context(folder, told["device"]))
    if hasattr(model, "unload"):
        ending.callback(model.unload)
    predict = _with_state(model.predict, told) if told["stateful"] else _plainly(model.predict)
    names = [entry["name"] for entry in told["inputs"]]
    outputs = told["outputs"]

    def answer(asked: Mapping[str, Any], arrays: Sequence[Array]) -> Any:
        returned = predict(dict(zip(names, arrays, strict=True)), asked)
        if told["streams"]:
            return _responses(returned, outputs)
        found = outputs_of(returned, outputs)
        if told["batched"]:
            _check_rows(found, outputs, len(arrays[0]))
        return found

    return answer


def outputs_of(returned: Any, outputs: Sequence[Mapping[str, Any]]) -> list[Array]:
    """One array per output of what the class returned.

    Args:
        returned: The outputs by name, as arrays or what becomes such; or the only one.
        outputs: The signature's.

    Raises:
        ValueError: An output is missing, or is none of the signature's; the text names it.
    """
    if not isinstance(returned, Mapping):
        if len(outputs) > 1 or isinstance(returned, Generator):
            raise ValueError(
                f"predict returned {type(returned).__name__}; the signature has the outputs "
                f"{[entry['name'] for entry in outputs]}, which it must return by name"
            )
        returned = {outputs[0]["name"]: returned}
    names = [entry["name"] for entry in outputs]
    for name in names:
        if name not in returned:
            raise ValueError(f"predict returned no output {name!r}")
    for name in returned:
        if name not in names:
            raise ValueError(f"predict returned {name!r}, which is no output of the signature")
    return [_array(returned[entry["name"]], entry) for entry in outputs]


def _check_rows(arrays: Sequence[Array], outputs: Sequence[Mapping[str, Any]], rows: int) -> None:
    for array, entry in zip(arrays, outputs, strict=True):
        if array.ndim and len(array) != rows:
            raise ValueError(
                f"output {entry['name']!r} has {len(array)} rows for inputs of {rows} rows"
            )


def _array(value: Any, entry: Mapping[str, Any]) -> Array:
    try:
        if entry["dtype"] == "object" and not hasattr(value, "dtype"):
            # Otherwise texts of several lengths would lose what they end with: zero bytes.
            value = np.asarray(value, object)
        array = plain(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"output {entry['name']!r} is no array: {error}") from None
    if array.ndim == 0 and all(size in (-1, 1) for size in entry["shape"]):
        return array.reshape((1,) * len(entry["shape"]))
    return array


def _responses(
    returned: Any, outputs: Sequence[Mapping[str, Any]]
) -> Generator[Sequence[Array], None, None]:
    if isinstance(returned, Mapping) or not isinstance(returned, Iterable):
        raise ValueError("predict of a model that streams must yield its responses")
    responses = iter(returned)
    if not isinstance(responses, Generator):
        yield from (outputs_of(one, outputs) for one in responses)
        return
    # Closed at once when nobody wants more, so that the class can let go what it holds.
    with closing(responses):
        for one in responses:
            yield outputs_of(one, outputs)


def _plainly(predict: Callable[..., Any]) -> Callable[..., Any]:
    return lambda inputs, _: predict(inputs)


def _with_state(predict: Callable[..., Any], told: Mapping[str, Any]) -> Callable[..., Any]:
    states = SequenceStates(told["sequences"]["max_idle_us"] / 1e6)

    def ask(inputs: dict[str, Array], asked: Mapping[str, Any]) -> Any:
        return predict(inputs, states.turn(asked["sequence"]))

    return ask


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
