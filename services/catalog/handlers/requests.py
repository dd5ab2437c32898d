"""Requests with an id are done once: a repeated one gets the first one's result."""

from __future__ import annotations

from dataclasses import dataclass

from services.catalog.errors import RequestIdReused, of_field
from services.catalog.ports import RequestRecord, Transaction
from tessera_kit.clock import Clock
from tessera_kit.rpc.identity import Principal

__all__ = ["NO_REQUEST", "RequestKey", "recall", "remember"]


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What tells a repeated request from another one."""

    method: str
    request_id: str = ""
    """The caller's id; empty when the call is not to be idempotent."""
    fingerprint: bytes = b""
    """SHA-256 of what is asked."""


NO_REQUEST = RequestKey("")


async def recall(tx: Transaction, caller: Principal, request: RequestKey) -> str | None:
    """The result of the same request done before; None when it was not.

    Raises:
        RequestIdReused: The caller used the id for something else.
    """
    if not request.request_id:
        return None
    record = await tx.requests.get(caller.name, request.method, request.request_id)
    if record is None:
        return None
    if record.fingerprint != request.fingerprint:
        raise of_field(RequestIdReused, "request_id", "was used for another request before")
    return record.result


async def remember(
    tx: Transaction, caller: Principal, request: RequestKey, result: str, clock: Clock
) -> None:
    """Note what a request led to, in the transaction that did it."""
    if request.request_id:
        await tx.requests.put(
            RequestRecord(
                principal=caller.name,
                method=request.method,
                request_id=request.request_id,
                fingerprint=request.fingerprint,
                result=result,
                created_at=clock.now(),
            )
        )
