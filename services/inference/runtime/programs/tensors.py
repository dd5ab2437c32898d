"""A model's inputs and outputs, and the face that every loader gives its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

__all__ = ["Array", "Call", "Feature", "Model", "Output", "feature", "output"]

Array = np.ndarray[Any, Any]


def _nobody_left() -> bool:
    return False


@dataclass(frozen=True)
class Call:
    """What a model's own process is told of a call besides its arrays."""

    gave_up: Callable[[], bool] = _nobody_left
    """Whether nobody waits for the answer any more."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What goes along, as JSON."""


class Model(Protocol):
    """A loaded model. One thread calls it.

    One in a process of its own also has `ask(arrays, call)`, which does the same for a `Call`, and
    `stream(arrays, call)`, which gives any number of responses; `close` ends it.
    """

    def __call__(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """One array per output for one per feature; texts are objects, bytes in, either out."""

    def probe(self) -> Sequence[Sequence[Array]]:
        """Inputs that it must be able to answer before it is called loaded."""


@dataclass(frozen=True)
class Feature:
    """One input that the model is called with."""

    name: str
    dtype: np.dtype[Any]
    """What the model gets; int64 for an input with a vocabulary, object for other texts."""
    shape: tuple[int, ...]
    """As in the signature; -1 where any size will do."""
    vocabulary: dict[bytes, int] | None
    """The index of each known text; every other one becomes `len(vocabulary)`."""

    def array(self, array: Array) -> Array:
        """The model's argument for one request's input."""
        if self.vocabulary is None:
            return np.ascontiguousarray(array)
        unknown, index = len(self.vocabulary), self.vocabulary.get
        flat = (index(text, unknown) for text in array.ravel())
        return np.fromiter(flat, np.int64, array.size).reshape(array.shape)

    def example(self, rows: int) -> Array:
        """Zeros, or empty texts, of the signature's shape, every open size `rows`."""
        shape = [rows if size < 0 else size for size in self.shape]
        return np.full(shape, b"", object) if self.dtype == object else np.zeros(shape, self.dtype)


@dataclass(frozen=True)
class Output:
    """One output that the model returns."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def fit(self, array: Array) -> Array:
        """The array with the signature's type; a column where rows of one element are told.

        Raises:
            ValueError: It does not have the signature's shape, or holds what its type cannot.
        """
        if array.ndim == 1 and len(self.shape) == 2 and self.shape[1] == 1:
            array = array[:, None]
        fits = array.ndim == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"output {self.name!r} has shape {list(array.shape)}; "
                f"the signature says {list(self.shape)}"
            )
        if self.dtype == object:
            return _texts(array)
        return np.ascontiguousarray(self._typed(array))

    def _typed(self, array: Array) -> Array:
        """Of the signature's type; a kind of number becomes another one only without a loss."""
        if array.dtype == self.dtype:
            return array
        try:
            with np.errstate(invalid="ignore"):
                typed = array.astype(self.dtype)
            fits = np.can_cast(array.dtype, self.dtype, "same_kind") or np.array_equal(typed, array)
        except (ValueError, TypeError, OverflowError):
            fits = False
        if not fits:
            raise ValueError(
                f"output {self.name!r} holds {_kind(array)} that are not {self.dtype}, "
                "which the signature says"
            )
        return typed


def feature(entry: dict[str, Any]) -> Feature:
    """The feature that an entry of `signature.json` describes."""
    words = entry.get("vocabulary")
    vocabulary = None if words is None else {word.encode(): i for i, word in enumerate(words)}
    return Feature(entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"]), vocabulary)


def output(entry: dict[str, Any]) -> Output:
    """The output that an entry of `signature.json` describes."""
    return Output(entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"]))


def _kind(array: Array) -> str:
    return "texts" if array.dtype.kind in "OUS" else f"values of {array.dtype}"


def _texts(array: Array) -> Array:
    flat = [one if isinstance(one, bytes) else str(one).encode() for one in array.ravel()]
    texts = np.empty(len(flat), object)
    texts[:] = flat
    return texts.reshape(array.shape)
