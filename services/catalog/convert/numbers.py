"""Enums of the domain as the contracts take them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

__all__ = ["number"]


def number(value: IntEnum) -> Any:
    """The number of a member; the contract's enum has the same (a test compares them).

    Generated code types enum numbers as a class of its own that nothing at run time makes.
    """
    return value.value
