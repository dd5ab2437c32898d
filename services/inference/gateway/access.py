"""Who may query an endpoint, told so that nobody learns of one that they may not see."""

from __future__ import annotations

from typing import Final

from services.inference.errors import EndpointNotFound
from tessera.catalog.v1 import securable_pb2
from tessera_kit.errors import PermissionDenied
from tessera_kit.names import MAX_NAME_LENGTH, is_name
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.identity import Principal

__all__ = ["may_query", "may_see", "require_query"]

_ENDPOINT: Final = securable_pb2.SECURABLE_TYPE_ENDPOINT
_BROWSE: Final = securable_pb2.PRIVILEGE_BROWSE
_EXECUTE: Final = securable_pb2.PRIVILEGE_EXECUTE
_MANAGE: Final = securable_pb2.PRIVILEGE_MANAGE


async def may_query(authority: Authority, caller: Principal, name: str) -> bool:
    """Whether the caller may query an endpoint."""
    return await _holds_any(authority, caller, name, _EXECUTE)


async def may_see(authority: Authority, caller: Principal, name: str) -> bool:
    """Whether the caller may know that there is an endpoint of that name."""
    return await _holds_any(authority, caller, name, _BROWSE, _EXECUTE, _MANAGE)


async def require_query(authority: Authority, caller: Principal, name: str) -> None:
    """Return when the caller may query an endpoint of that name, which need not be there.

    It is asked before whether there is one: whoever may not see an endpoint takes the same steps
    and is told the same words as for one that is not there.

    Raises:
        PermissionDenied: The caller may see the endpoint, and not query it.
        EndpointNotFound: The caller may not see it.
    """
    if not is_name(name):
        # Any text may be asked for; what names nothing is no question for the authority.
        raise _unseen(caller, name[:MAX_NAME_LENGTH])
    try:
        await authority.require(caller, _EXECUTE, _ENDPOINT, name)
    except PermissionDenied:
        if await may_see(authority, caller, name):
            raise
        raise _unseen(caller, name) from None


def _unseen(caller: Principal, name: str) -> EndpointNotFound:
    return EndpointNotFound(
        f"there is no endpoint {name!r} that {caller.name} may see; "
        f"querying one needs EXECUTE on endpoint {name}"
    )


async def _holds_any(authority: Authority, caller: Principal, name: str, *privileges: int) -> bool:
    for privilege in privileges:
        try:
            await authority.require(caller, privilege, _ENDPOINT, name)
        except PermissionDenied:
            continue
        return True
    return False
