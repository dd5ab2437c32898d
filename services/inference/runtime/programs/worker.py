"""What the process of every model that brings code does: load it, answer, and end when let go."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from .frames import receive, send
from .tensors import Array

__all__ = ["Answer", "InvalidInput", "Responses", "plain", "serve"]


class InvalidInput(ValueError):
    """What a model raises for a request that is at fault itself; its text is told to the caller."""


Responses = Generator[Sequence[Array], None, None]
Answer = Callable[[Mapping[str, Any], Sequence[Array]], Sequence[Array] | Responses]
"""From a request's head and arrays to one array per output, or to any number of such responses."""


def serve(number: int, load: Callable[[Mapping[str, Any]], Answer]) -> None:
    """Load a model and answer until the other side closes the socket.

    Args:
        number: The socket's file descriptor.
        load: Makes the model of what the process is told first.
    """
    wire = socket.socket(fileno=number)
    told, _ = receive(wire)
    try:
        answer = load(told)
    except Exception as error:
        send(wire, error=_reason(error))
        return
    send(wire)
    while True:
        try:
            asked, arrays = receive(wire)
        except ConnectionError:
            return
        if "stop" in asked:
            # Of an answer that had ended by then.
            continue
        try:
            returned = answer(asked, arrays)
            if isinstance(returned, Generator):
                returned = _pass_on(wire, returned)
        except InvalidInput as refused:
            send(wire, error=_line(refused), refused=True)
        except Exception as error:
            send(wire, error=_reason(error))
        else:
            send(wire, returned)


def plain(value: Any) -> Array:
    """An array of what a model returned; texts and times as bytes."""
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    array = np.asarray(value)
    if array.dtype.kind == "M":
        array = np.datetime_as_string(array)
    if array.dtype.kind not in "OUS":
        return array
    flat = [one if isinstance(one, bytes) else str(one).encode() for one in array.ravel()]
    texts = np.empty(len(flat), object)
    texts[:] = flat
    return texts.reshape(array.shape)


def _pass_on(wire: socket.socket, responses: Responses) -> Sequence[Array]:
    """Send responses as they come, until the other side says that it wants no more."""
    with closing(responses):
        for arrays in responses:
            send(wire, arrays, more=True)
            if select.select([wire], [], [], 0)[0]:
                break
    return ()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {_line(error)}"


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:400]
