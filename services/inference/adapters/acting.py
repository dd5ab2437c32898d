"""Calls of other services in a principal's name, and their failures as the kit's errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration

from services.inference.errors import StoreUnavailable
from tessera.catalog.v1 import authorization_service_pb2, authorization_service_pb2_grpc
from tessera_kit.config import Secret
from tessera_kit.errors import DeadlineExceeded, Internal, Unauthenticated
from tessera_kit.rpc.status import error_from_rpc

__all__ = ["ActingTokens", "raised_here"]

_TOKEN_SECONDS: Final = 600
_RENEW_SECONDS: Final = 480.0
_MOST_TOKENS: Final = 1000

Metadata = tuple[tuple[str, str], ...]


class ActingTokens:
    """Short-lived tokens of the principals in whose name inference acts.

    So it is the other service that decides what they may do.

    Args:
        own: Channel to the catalog with this service's own token, to make tokens with.
    """

    def __init__(self, own: grpc.aio.Channel) -> None:
        self._authorization = authorization_service_pb2_grpc.AuthorizationServiceStub(own)
        self._tokens: dict[str, tuple[float, Secret]] = {}

    async def metadata(self, principal: str) -> Metadata:
        """The metadata of a call in a principal's name."""
        known = self._tokens.get(principal)
        now = time.monotonic()
        if known is None or now - known[0] > _RENEW_SECONDS:
            made = await self._authorization.CreateToken(
                authorization_service_pb2.CreateTokenRequest(
                    principal=principal,
                    comment="inference: reads models and their history, makes tables",
                    lifetime=Duration(seconds=_TOKEN_SECONDS),
                )
            )
            known = (now, Secret(made.secret))
            self._keep(principal, known)
        return (("authorization", f"Bearer {known[1].reveal()}"),)

    def _keep(self, principal: str, token: tuple[float, Secret]) -> None:
        self._tokens.pop(principal, None)
        if len(self._tokens) >= _MOST_TOKENS:
            # The first one is the oldest.
            del self._tokens[next(iter(self._tokens))]
        self._tokens[principal] = token


@contextmanager
def raised_here(service: str) -> Iterator[None]:
    """Turn a failed call of another service into the kit's error of the same category.

    Args:
        service: Who was called, for the message.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        told = error_from_rpc(error)
        # A defect, a delay, or a token that just ended is none of the caller's request.
        if isinstance(told, Internal | DeadlineExceeded | Unauthenticated):
            raise StoreUnavailable(f"{service} does not answer: {told.message}") from error
        raise told from error
