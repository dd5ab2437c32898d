"""Rows with named columns become tensors of a signature.

MLflow's rules of casting: what can be widened without loss is (whole numbers to fractions, and
fractions that are whole to whole numbers), what cannot is an error; a missing value is NaN where
the column is of fractions, an error elsewhere; columns that no input is named by are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tritonclient.grpc import service_pb2

from services.inference.convert.tensors import TensorProblem, flat, invalid, raw_contents
from services.inference.domain.datatypes import BYTES, DATATYPES, Datatype
from services.inference.domain.signature import Role, Signature, TensorSpec

__all__ = ["Frame", "contents_of", "request_of"]

_FRACTIONS: Final = frozenset({"FP16", "FP32", "FP64"})
_MISSING: Final = frozenset({"", "nan", "null", "none", "na"})
_LONGEST_NUMBER: Final = 64
_whole = re.compile(r"[+-]?[0-9]+\Z").match
_number = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z").match


@dataclass(frozen=True, slots=True)
class Frame:
    """What a request holds, before its types are known."""

    columns: Mapping[str, list[Any]]
    """By name, one cell per row; a cell may be a nested list."""
    rows: int
    """How many."""
    unnamed: bool = False
    """Whether there is one column without a name, under the empty one."""
    texts: bool = False
    """Whether every cell is a text that stands for a value, as in CSV."""


def request_of(frame: Frame, signature: Signature) -> service_pb2.ModelInferRequest:
    """The message of a frame; what it lacks is found when it is held to the signature.

    Raises:
        InvalidInference: A column has what its input cannot take; the violation names it.
    """
    request = service_pb2.ModelInferRequest()
    for spec, cells in _assigned(frame, signature):
        place = f"column {spec.name!r}"
        datatype = DATATYPES[spec.datatype]
        try:
            shape = _shape(spec, cells, frame.rows)
            values = flat(cells, shape)
            if frame.texts:
                values = [_parsed(value, datatype) for value in values]
            raw = contents_of(values, datatype)
        except TensorProblem as problem:
            raise invalid(place, str(problem)) from None
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
        request.raw_input_contents.append(raw)
    return request


def _assigned(frame: Frame, signature: Signature) -> list[tuple[TensorSpec, list[Any]]]:
    """Which column is which input."""
    columns = frame.columns
    named = [(spec, columns[spec.name]) for spec in signature.inputs if spec.name in columns]
    if named and not frame.unnamed:
        return named
    needed = [spec for spec in signature.inputs if spec.role is not Role.METADATA]
    if len(needed) == 1:
        (spec,) = needed
        if frame.unnamed:
            return [(spec, columns[""])]
        if len(spec.shape) == 2 and spec.shape[1] in (-1, len(columns)):
            # A tensor of as many columns as there are: they are its columns, in their order.
            if any(len(cells) != frame.rows for cells in columns.values()):
                raise invalid("inputs", "have columns of different lengths")
            return [(spec, [list(cells) for cells in zip(*columns.values(), strict=True)])]
    if frame.unnamed:
        raise invalid("inputs", f"need names: the endpoint takes {len(needed)} inputs")
    return named


def _shape(spec: TensorSpec, cells: list[Any], rows: int) -> tuple[int, ...]:
    """The shape of a column: sizes that the signature leaves open are told by its first cell."""
    shape = [rows]
    cell: Any = cells[0] if cells else None
    for size in spec.shape[1:]:
        nested = cell if isinstance(cell, list) else [cell]
        shape.append(size if size > 0 else len(nested))
        cell = nested[0] if nested else None
    return tuple(shape)


def _cast(values: list[Any], datatype: Datatype) -> list[Any]:
    """Values widened to the datatype where nothing is lost."""
    if datatype.name == BYTES or datatype.name == "BOOL" or datatype.name in _FRACTIONS:
        return values
    return [
        int(value) if type(value) is float and value.is_integer() else value for value in values
    ]


def contents_of(values: list[Any], datatype: Datatype) -> bytes:
    """The raw contents of a column's elements, cast to its input's datatype.

    Raises:
        TensorProblem: One would be rounded, or is beyond the datatype's range, or missing where
            the datatype has no NaN.
    """
    values = _cast(values, datatype)
    if datatype.name in _FRACTIONS and None in values:
        values = [math.nan if value is None else value for value in values]
    return raw_contents(values, datatype)


def _parsed(text: str, datatype: Datatype) -> Any:
    """A cell of CSV as the value that it stands for; a missing one is None."""
    if datatype.name == BYTES:
        return text
    text = text.strip()
    lower = text.lower()
    if lower in _MISSING:
        return None
    if datatype.name == "BOOL" and lower in ("true", "false"):
        return lower == "true"
    if datatype.name != "BOOL" and len(text) <= _LONGEST_NUMBER:
        if _whole(text):
            return int(text)
        if _number(text):
            return float(text)
    raise TensorProblem(f"is {datatype.name} and holds {text[:32]!r}")
