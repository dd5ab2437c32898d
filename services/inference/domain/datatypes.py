"""The Open Inference Protocol's tensor types: numpy's names, item sizes and typed contents."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["BYTES", "DATATYPES", "Datatype"]

BYTES: Final = "BYTES"


@dataclass(frozen=True, slots=True)
class Datatype:
    """One element type of the protocol."""

    name: str
    """As `FP32`."""
    numpy: str
    """The numpy type of its elements in raw contents (little-endian); `object` for BYTES."""
    size: int
    """Bytes of one element in raw contents; 0 for BYTES, whose elements tell their own length."""
    contents: str
    """Field of `InferTensorContents` with its elements when they are not raw; empty if none."""
    triton: str
    """Its name in a Triton model configuration."""


DATATYPES: Final = MappingProxyType(
    {
        datatype.name: datatype
        for datatype in (
            Datatype("BOOL", "bool", 1, "bool_contents", "TYPE_BOOL"),
            Datatype("INT8", "int8", 1, "int_contents", "TYPE_INT8"),
            Datatype("INT16", "int16", 2, "int_contents", "TYPE_INT16"),
            Datatype("INT32", "int32", 4, "int_contents", "TYPE_INT32"),
            Datatype("INT64", "int64", 8, "int64_contents", "TYPE_INT64"),
            Datatype("UINT8", "uint8", 1, "uint_contents", "TYPE_UINT8"),
            Datatype("UINT16", "uint16", 2, "uint_contents", "TYPE_UINT16"),
            Datatype("UINT32", "uint32", 4, "uint_contents", "TYPE_UINT32"),
            Datatype("UINT64", "uint64", 8, "uint64_contents", "TYPE_UINT64"),
            Datatype("FP16", "float16", 2, "", "TYPE_FP16"),
            Datatype("FP32", "float32", 4, "fp32_contents", "TYPE_FP32"),
            Datatype("FP64", "float64", 8, "fp64_contents", "TYPE_FP64"),
            Datatype(BYTES, "object", 0, "bytes_contents", "TYPE_STRING"),
        )
    }
)
"""Every type that an endpoint may take or give, by name."""
