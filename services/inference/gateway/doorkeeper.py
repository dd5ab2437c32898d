"""Lets callers ask endpoints, and knows for a moment whom it has let in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Final, TypeAlias

from services.inference.gateway.access import require_query
from services.inference.gateway.records import Exchange
from services.inference.gateway.routing import RouteTable
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.identity import Principal, bearer_token

__all__ = ["Doorkeeper", "Pass"]

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

_GOOD_FOR_NS: Final = 500_000_000
_MOST_PASSES: Final = 4096


@dataclass(frozen=True, slots=True)
class Pass:
    """That a caller may ask an endpoint."""

    principal: Principal
    token: str
    generation: int
    until_ns: int


class Doorkeeper:
    """Asks the authority who calls and what for, at most twice a second for each caller.

    A pass is void once the authority's answers change. It may outlive its token by half a second.

    Args:
        authority: Tells callers apart and what they may do.
        routes: Where requests go.
    """

    def __init__(self, authority: Authority, routes: RouteTable) -> None:
        self._authority = authority
        self._routes = routes
        self._passes: dict[tuple[str | bytes, str], Pass] = {}

    def known(self, exchange: Exchange, metadata: Metadata) -> Pass | None:
        """The pass of a caller that was let in a moment ago."""
        found = self._passes.get((_authorization(metadata), exchange.endpoint))
        if (
            found is None
            or found.generation != self._authority.generation
            or found.until_ns < perf_counter_ns()
        ):
            return None
        exchange.requester = found.principal.name
        return found

    async def admit(self, exchange: Exchange, metadata: Metadata) -> Pass:
        """Let a caller in, or not.

        Args:
            exchange: For an endpoint; told who asks.
            metadata: Of the call, with the caller's token.

        Raises:
            Unauthenticated: The token is missing, or nobody's.
            EndpointNotFound: There is no such endpoint, or the caller may not see it.
            PermissionDenied: The caller may see it, and not ask it.
        """
        # Of now: what is answered while something changes may be from before it.
        generation = self._authority.generation
        token = bearer_token(metadata)
        principal = await self._authority.authenticate(token)
        exchange.requester = principal.name
        exchange.route = self._routes.get(exchange.endpoint)
        await require_query(self._authority, principal, exchange.endpoint)
        given = Pass(principal, token, generation, perf_counter_ns() + _GOOD_FOR_NS)
        if len(self._passes) >= _MOST_PASSES:
            self._passes.clear()
        self._passes[_authorization(metadata), exchange.endpoint] = given
        return given


def _authorization(metadata: Metadata) -> str | bytes:
    for key, value in metadata:
        if key == "authorization":
            return value
    return ""
