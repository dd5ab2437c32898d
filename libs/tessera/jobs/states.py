"""State dictionaries as JSON and safetensors: nothing in them can run code when it is read.

Tensors (and NumPy arrays) go to the safetensors file; the rest of the structure to JSON, where each
tensor is named. What JSON has no notion of is written as an object with one key that begins with
`$`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy
import torch

__all__ = ["UnsavableState", "pack", "unpack"]


class UnsavableState(TypeError):
    """The state holds something that is neither a tensor nor plain data; the text says where."""


def pack(state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Take a snapshot: what goes to JSON, and the tensors by name.

    Args:
        state: Dicts, lists and tuples, nested at will, of tensors, NumPy arrays, numbers, texts,
            bytes, bools and None; dict keys are texts or integers.

    Returns:
        A structure for `json.dumps`, and copies of the tensors on the CPU that later changes of the
        originals do not touch.

    Raises:
        UnsavableState: It holds something else.
    """
    tensors: dict[str, torch.Tensor] = {}
    return _pack(state, "state", tensors), tensors


def unpack(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `pack` was given: tuples are tuples, keys that were integers are integers."""
    if isinstance(tree, list):
        return [unpack(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        (kind, value), *_ = tree.items()
        if kind.startswith("$"):
            return _special(kind, value, tensors)
    return {key: unpack(value, tensors) for key, value in tree.items()}


def _special(kind: str, value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    match kind:
        case "$tensor":
            return tensors[value]
        case "$array":
            return tensors[value].numpy()
        case "$tuple":
            return tuple(unpack(item, tensors) for item in value)
        case "$dict":
            return {unpack(key, tensors): unpack(item, tensors) for key, item in value}
        case "$float":
            return float(value)
        case "$bytes":
            return base64.b64decode(value)
    raise ValueError(f"the state holds an unknown kind {kind!r}")


def _pack(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    match value:
        case torch.Tensor():
            return {"$tensor": _keep(value.detach(), tensors)}
        case numpy.ndarray():
            return {"$array": _keep(_of_array(value, where), tensors)}
        case numpy.generic():
            return _pack(value.item(), where, tensors)
        case Mapping():
            return _pack_mapping(value, where, tensors)
        case tuple():
            items = [_pack(item, f"{where}[{n}]", tensors) for n, item in enumerate(value)]
            return {"$tuple": items}
        case list():
            return [_pack(item, f"{where}[{n}]", tensors) for n, item in enumerate(value)]
        case float() if not math.isfinite(value):
            return {"$float": repr(value)}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode("ascii")}
        case None | bool() | int() | float() | str():
            return value
    raise UnsavableState(
        f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain data only"
    )


def _pack_mapping(
    value: Mapping[Any, Any], where: str, tensors: dict[str, torch.Tensor]
) -> dict[str, Any]:
    items = {key: _pack(item, f"{where}[{key!r}]", tensors) for key, item in value.items()}
    plain = all(isinstance(key, str) for key in items)
    if plain and not (len(items) == 1 and next(iter(items)).startswith("$")):
        return items
    pairs = []
    for key, item in items.items():
        if not isinstance(key, str | int | bool | float | None):
            raise UnsavableState(f"a key of {where} is a {type(key).__name__}")
        pairs.append([_pack(key, where, tensors), item])
    return {"$dict": pairs}


def _of_array(array: numpy.ndarray[Any, Any], where: str) -> torch.Tensor:
    try:
        return torch.from_numpy(numpy.array(array, copy=True, order="C"))
    except TypeError:
        raise UnsavableState(f"{where} is an array of {array.dtype}") from None


def _keep(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    name = str(len(tensors))
    # A copy of its own: the original changes with the next step, and safetensors takes no views.
    tensors[name] = tensor.to("cpu", copy=True).contiguous()
    return name
