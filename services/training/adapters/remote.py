"""Errors of other services, raised here as the kit's own."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager

import grpc

from tessera_kit.errors import DeadlineExceeded, Internal, Unavailable
from tessera_kit.rpc.status import error_from_rpc

__all__ = ["raised_here"]


@contextmanager
def raised_here(service: str, ignore: Set[grpc.StatusCode] = frozenset()) -> Iterator[None]:
    """Turn a failed call of another service into the kit's error of the same category.

    Args:
        service: Who was called, for the message.
        ignore: Codes after which the block is left without an error.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() in ignore:
            return
        told = error_from_rpc(error)
        if isinstance(told, Internal | DeadlineExceeded):
            # A defect or a delay over there is none of the caller's request, and may be gone when
            # it is asked again.
            raise Unavailable(f"{service}: {told.message}") from error
        raise told from error
