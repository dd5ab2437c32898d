"""A pause before a model is taken apart.

A thread of Triton 2.51 that has run a model's start, or its last requests, tells so before it has
put the model's instance back. A model that is taken apart in between ends the process (SIGSEGV:
`TritonBackendThread::StopBackendThread` takes the last one of no instances). Nothing tells when it
has. Where many processes shared two cores, about one of ten died of unloads right after loads.
"""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["settled"]

_SECONDS: Final = 0.25


async def settled() -> None:
    """Return when what a model ran last is put back."""
    await asyncio.sleep(_SECONDS)
