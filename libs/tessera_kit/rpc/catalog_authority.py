"""The authority of every service but the catalog: asks it, and keeps its answers for a while."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable
from datetime import UTC
from typing import Final

import grpc
from prometheus_client import Counter

from tessera.catalog.v1 import authorization_service_pb2 as pb
from tessera.catalog.v1 import authorization_service_pb2_grpc as rpc
from tessera.catalog.v1 import securable_pb2
from tessera_kit.clock import Clock, SystemClock
from tessera_kit.errors import NotFound, TesseraError, Unauthenticated, Unavailable
from tessera_kit.rpc.answers import Answer, Answers, Freshness
from tessera_kit.rpc.authority import access_denied
from tessera_kit.rpc.identity import InvalidCredentials, Principal, PrincipalKind
from tessera_kit.rpc.status import error_from_rpc
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import Metrics, process_metrics

__all__ = ["AuthorityUnavailable", "CatalogAuthority"]

_UNREACHABLE: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_TIMEOUT_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.5
_log = logging.getLogger(__name__)

_Question = tuple[str, int, int, str]


class AuthorityUnavailable(Unavailable):
    """The catalog, which decides who may do what, does not answer."""

    reason = "AUTHORITY_UNAVAILABLE"


class CatalogAuthority:
    """An `Authority` that asks the catalog service.

    Answers are kept for 30 s and asked again ahead of their end while they are in use; refusals for
    1 s. While the catalog does not answer, a good answer serves up to 60 s longer. No answer
    outlives its token. A `GrantWatcher` drops them all as soon as the bus tells of a change, and
    `follow` within a second whatever the bus does. Tokens leave the process as SHA-256 only.

    Args:
        channel: To the catalog, with this service's own token.
        freshness: How long answers are good for.
        clock: Where time comes from.
        metrics: Where questions are counted.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        freshness: Freshness | None = None,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.generation = 0
        self._stub = rpc.AuthorizationServiceStub(channel)
        self._clock = clock or SystemClock()
        asked = (metrics or process_metrics()).counter(names.AUTHORITY_REQUESTS)
        self._principals: Answers[bytes, Principal | None] = Answers(
            self._ask_principal,
            freshness=freshness,
            clock=clock,
            observe=_counting(asked, "authenticate"),
        )
        self._decisions: Answers[_Question, tuple[bool, str]] = Answers(
            self._ask_decision,
            freshness=freshness,
            clock=clock,
            observe=_counting(asked, "require"),
        )

    async def authenticate(self, token: str) -> Principal:
        """Return the principal of the token.

        Raises:
            InvalidCredentials: It is unknown, expired or revoked.
            AuthorityUnavailable: The catalog does not answer.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        principal = await self._principals.get(digest)
        if principal is None:
            raise InvalidCredentials("the token is not valid")
        return principal

    async def require(
        self, principal: Principal, privilege: int, securable_type: int, name: str
    ) -> None:
        """Return when the principal holds the privilege on the object.

        Raises:
            AccessDenied: It does not; the message says what is missing.
            AuthorityUnavailable: The catalog does not answer.
        """
        if principal.is_admin:
            return
        question = (principal.name, privilege, securable_type, name)
        allowed, missing = await self._decisions.get(question)
        if not allowed:
            raise access_denied(principal, privilege, securable_type, name, missing)

    async def register(self, securable_type: int, name: str, owner: str) -> None:
        """Record an object that the calling service owns."""
        request = pb.RegisterSecurableRequest(
            securable=_reference(securable_type, name), owner=owner
        )
        try:
            await self._stub.RegisterSecurable(request)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        self._forget(securable_type, name)

    async def unregister(self, securable_type: int, name: str) -> None:
        """Remove such an object with its grants."""
        request = pb.UnregisterSecurableRequest(securable=_reference(securable_type, name))
        try:
            await self._stub.UnregisterSecurable(request)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        self._forget(securable_type, name)

    async def follow(self, seconds: float = _LOOK_SECONDS) -> None:
        """Drop every answer after a change of anybody's rights; runs until cancelled.

        The catalog is asked for its revision, which costs it a look at one row. While it does not
        answer nothing is dropped: what is known has to do.

        Args:
            seconds: From one look to the next.
        """
        seen: int | None = None
        again = False
        while True:
            try:
                told = await self._stub.GetAccessRevision(
                    pb.GetAccessRevisionRequest(), timeout=_TIMEOUT_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                _log.debug("the catalog does not tell its revision: %s", error.details())
            else:
                changed = told.revision != seen
                # Of several catalog processes, another one may have answered by the old state.
                if changed or again:
                    self.invalidate_all()
                again, seen = changed, told.revision
            await asyncio.sleep(seconds)

    def invalidate_all(self) -> None:
        """Forget every answer."""
        self.generation += 1
        self._principals.drop()
        self._decisions.drop()

    def invalidate(self, principal: str) -> None:
        """Forget what one principal may do, and every token's principal."""
        self.generation += 1
        self._principals.drop()
        self._decisions.drop(lambda question: question[0] == principal)

    def _forget(self, securable_type: int, name: str) -> None:
        self.generation += 1
        self._decisions.drop(lambda question: question[2:] == (securable_type, name))

    async def _ask_principal(self, digest: bytes) -> Answer[Principal | None]:
        try:
            response = await self._stub.Authenticate(
                pb.AuthenticateRequest(token_sha256=digest), timeout=_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            failure = _translated(error)
            if isinstance(failure, NotFound | Unauthenticated):
                return Answer(None, positive=False)
            raise failure from error
        told = response.principal
        service = told.kind == pb.PRINCIPAL_KIND_SERVICE
        principal = Principal(
            name=told.name,
            kind=PrincipalKind.SERVICE if service else PrincipalKind.USER,
            groups=frozenset(told.groups),
            is_admin=told.is_admin,
        )
        return Answer(principal, lifetime=self._seconds_left(response))

    def _seconds_left(self, response: pb.AuthenticateResponse) -> float:
        if not response.HasField("expires_at"):
            return math.inf
        return (response.expires_at.ToDatetime(UTC) - self._clock.now()).total_seconds()

    async def _ask_decision(self, question: _Question) -> Answer[tuple[bool, str]]:
        principal, privilege, securable_type, name = question
        asked = pb.AccessQuestion(
            securable=_reference(securable_type, name),
            privilege=privilege,  # type: ignore[arg-type]  # callers may pass any number
        )
        try:
            response = await self._stub.Decide(
                pb.DecideRequest(principal=principal, questions=[asked]), timeout=_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        answer = response.answers[0]
        return Answer((answer.allowed, answer.missing), positive=answer.allowed)


def _counting(asked: Counter, task: str) -> Callable[[str], None]:
    children = {by: asked.labels(task, by) for by in ("cache", "remote", "stale")}
    return lambda by: children[by].inc()


def _reference(securable_type: int, name: str) -> securable_pb2.SecurableReference:
    return securable_pb2.SecurableReference(
        type=securable_type,  # type: ignore[arg-type]  # callers may pass any number
        full_name=name,
    )


def _translated(error: grpc.aio.AioRpcError) -> TesseraError:
    if error.code() in _UNREACHABLE:
        return AuthorityUnavailable("the catalog does not answer", retry_after=0.5)
    return error_from_rpc(error)
