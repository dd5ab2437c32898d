"""Where a stack runs its models: in Triton within the inference service, or in its own process.

A process of its own has Triton's own doors, outlives the gateway, and is what a cluster has. Within
the service a request reaches the model without a second gRPC call.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from devstack.errors import StackError

VARIABLE = "TESSERA_RUNTIME"


class Runtime(StrEnum):
    """The values of `TESSERA_RUNTIME`."""

    INSIDE = "inside"
    PROCESS = "process"


def chosen(environment: Mapping[str, str]) -> Runtime:
    """What `TESSERA_RUNTIME` says; a process, where it says nothing.

    Raises:
        StackError: it says something else.
    """
    text = environment.get(VARIABLE, Runtime.PROCESS)
    try:
        return Runtime(text)
    except ValueError:
        known = " or ".join(Runtime)
        raise StackError(f"{VARIABLE} is {known}, not {text!r}") from None
