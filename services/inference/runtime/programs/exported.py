"""Exported programs as functions whose checks cost next to nothing.

The module that `torch.export` makes of a program compares sizes by sympy at every call: one of a
graph of five operators takes 166 microseconds. What is to be compared is known before the first
call, and is compared here as plain numbers: 34 microseconds, all told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from .process import InputRefused

__all__ = ["ExportedFunction", "function_of"]

_LEAST_CHECKED = 3
"""The lowest least size that `torch.export` holds calls to: below it, 0 and 1 may always come."""


@dataclass(frozen=True)
class _Open:
    """A size that a call chooses."""

    symbol: str
    """Sizes of one symbol are equal."""
    smallest: int
    largest: float

    def __str__(self) -> str:
        if self.largest == math.inf:
            return f"{self.smallest} and more"
        return f"{self.smallest} to {self.largest}"


@dataclass(frozen=True)
class _Input:
    name: str
    sizes: Sequence[int | _Open]


@dataclass(frozen=True)
class ExportedFunction:
    """A program that takes and gives tensors alone."""

    inputs: Sequence[_Input]
    call: Callable[..., Sequence[Any]]

    def __call__(self, *tensors: torch.Tensor) -> Sequence[Any]:
        """One tensor per output for one per input.

        Raises:
            InputRefused: They have sizes that the program was not exported for.
        """
        chosen: dict[str, int] = {}
        for one, tensor in zip(self.inputs, tensors, strict=True):
            shape = tensor.shape
            if len(shape) != len(one.sizes):
                raise InputRefused(
                    f"input {one.name!r} has {len(shape)} dimensions; "
                    f"the program was exported for {len(one.sizes)}"
                )
            for axis, (size, told) in enumerate(zip(shape, one.sizes, strict=True)):
                if isinstance(told, int):
                    if size != told:
                        raise _refused(one.name, axis, size, told)
                elif chosen.setdefault(told.symbol, size) != size:
                    wanted = f"{chosen[told.symbol]}, as another input has it"
                    raise _refused(one.name, axis, size, wanted)
                elif not told.smallest <= size <= told.largest:
                    raise _refused(one.name, axis, size, told)
        return self.call(*tensors)


def function_of(program: ExportedProgram, names: Sequence[str]) -> Callable[..., Any]:
    """What a program computes, for tensors in the order of its inputs.

    A program with inputs or outputs that are no plain tensors, or with a size that is computed from
    another one, is called as `torch.export` calls it, with all its checks.

    Args:
        program: As it was loaded.
        names: Of its inputs, as callers know them.

    Raises:
        ValueError: It takes another number of inputs.
    """
    module: Any = program.module(check_guards=False)
    inputs = _inputs(program, names)
    if inputs is None or not _is_flat(program):
        unchanged: Callable[..., Any] = module
        return unchanged
    # Without the structure's flattening; `forward` is the graph without the checks before it.
    module.graph.set_codegen(fx.CodeGen())
    module.recompile()
    return ExportedFunction(inputs, module.forward)


def _inputs(program: ExportedProgram, names: Sequence[str]) -> Sequence[_Input] | None:
    """What its inputs' sizes may be; nothing when that is no matter of single sizes."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    taken = program.graph_signature.user_inputs
    if len(taken) != len(names):
        raise ValueError(
            f"the program takes {len(taken)} inputs; the signature has {len(names)} features"
        )
    inputs: list[_Input] = []
    for node, name in zip(taken, names, strict=True):
        value = nodes[node].meta.get("val") if isinstance(node, str) else None
        if not isinstance(value, torch.Tensor):
            return None
        sizes: list[int | _Open] = []
        for size in value.shape:
            told = _size(program, size)
            if told is None:
                return None
            sizes.append(told)
        inputs.append(_Input(name, sizes))
    return inputs


def _size(program: ExportedProgram, size: Any) -> int | _Open | None:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if expression.is_number:
        return int(expression)
    if not expression.is_symbol:
        return None
    limits = program.range_constraints.get(expression)
    smallest, largest = (0, math.inf) if limits is None else (limits.lower, limits.upper)
    return _Open(
        str(expression),
        int(smallest) if smallest >= _LEAST_CHECKED else 0,
        # Export writes no limit as an integer that no tensor reaches.
        int(largest) if largest < torch.iinfo(torch.int64).max - 1 else math.inf,
    )


def _is_flat(program: ExportedProgram) -> bool:
    """Whether it takes a tuple of tensors and no keywords, and gives one tensor or a tuple."""
    taken, given = program.call_spec.in_spec, program.call_spec.out_spec
    if taken is None or given is None:
        return False
    positional, keywords = taken.children()
    leaf_or_tuple = given.is_leaf() or given.type in (tuple, list)
    leaves = [*positional.children(), *given.children()]
    return not keywords.children() and leaf_or_tuple and all(one.is_leaf() for one in leaves)


def _refused(name: str, axis: int, size: int, wanted: object) -> InputRefused:
    return InputRefused(
        f"input {name!r} has size {size} along axis {axis}; the program was exported for {wanted}"
    )
