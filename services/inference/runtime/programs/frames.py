"""Arrays through a socket between the runtime's process and a model's own; nothing is unpickled.

A frame is the length of its head (4 bytes, big-endian), the head as JSON, and the contents of its
arrays. Texts lie behind each other, each after its length in 4 bytes, as in Triton's protocol.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np

from .tensors import Array

__all__ = ["receive", "send"]

_LARGEST_HEAD = 16 << 20
_LARGEST_BODY = 4 << 30


def send(wire: socket.socket, arrays: Sequence[Array] = (), **told: Any) -> None:
    """Write a frame.

    Args:
        wire: Where to.
        arrays: Of numbers, or of objects: bytes.
        told: What else its head holds.
    """
    bodies = [_texts(array) if array.dtype == object else _numbers(array) for array in arrays]
    heads = [
        {
            "dtype": "object" if array.dtype == object else array.dtype.str,
            "shape": array.shape,
            "size": len(body),
        }
        for array, body in zip(arrays, bodies, strict=True)
    ]
    head = json.dumps({**told, "arrays": heads}).encode()
    wire.sendall(len(head).to_bytes(4, "big") + head)
    for body in bodies:
        wire.sendall(body)


def receive(wire: socket.socket) -> tuple[dict[str, Any], list[Array]]:
    """Read a frame: its head, and its arrays.

    Raises:
        ConnectionError: The other side is gone.
        ValueError: What it sent is no frame.
    """
    length = int.from_bytes(_exactly(wire, 4), "big")
    if length > _LARGEST_HEAD:
        raise ValueError(f"a head of {length} bytes is too large")
    head = json.loads(_exactly(wire, length))
    entries = head.pop("arrays")
    if sum(entry["size"] for entry in entries) > _LARGEST_BODY:
        raise ValueError("the arrays are too large")
    return head, [_array(entry, _exactly(wire, entry["size"])) for entry in entries]


def _exactly(wire: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        got = wire.recv_into(view)
        if not got:
            raise ConnectionError("the other side closed the connection")
        view = view[got:]
    return content


def _numbers(array: Array) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")


def _texts(array: Array) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in array.ravel())


def _array(entry: dict[str, Any], content: bytearray) -> Array:
    shape = tuple(entry["shape"])
    if entry["dtype"] != "object":
        dtype = np.dtype(entry["dtype"])
        if dtype.hasobject:
            raise ValueError("arrays of objects are texts")
        return np.frombuffer(content, dtype).reshape(shape)
    texts, position = [], 0
    while position < len(content):
        start = position + 4
        position = start + int.from_bytes(content[position:start], "little")
        texts.append(bytes(content[start:position]))
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)
