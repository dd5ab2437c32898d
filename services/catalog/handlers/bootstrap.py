"""Makes what must be there from the start: the root, the first principals, a first schema."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.catalog.convert import events
from services.catalog.domain.principals import (
    Principal,
    PrincipalKind,
    Token,
    token_digest,
    token_id_of,
)
from services.catalog.domain.securables import METASTORE, Entity, SecurableKey, SecurableType
from services.catalog.ports import Store, Transaction
from tessera_kit.clock import Clock
from tessera_kit.config import ConfigError, Secret
from tessera_kit.ids import new_etag, new_id

__all__ = ["ADMIN", "BootstrapTokens", "bootstrap"]

_log = logging.getLogger(__name__)

ADMIN = "admin"
"""Name of the first administrator."""
_FIRST_OBJECTS = (
    (METASTORE, "Everything that is governed here."),
    (SecurableKey(SecurableType.CATALOG, "main"), "The first catalog."),
    (SecurableKey(SecurableType.SCHEMA, "main.default"), "The first schema."),
)


@dataclass(frozen=True, slots=True)
class BootstrapTokens:
    """Tokens that were read from files."""

    admin: Secret
    services: Mapping[str, Secret]
    """By the service's name, which is its principal's too."""


async def bootstrap(store: Store, tokens: BootstrapTokens, clock: Clock) -> None:
    """Make the root, the administrator, the platform's services and, once, `main.default`.

    A token that differs from the one that its file held before takes that one's place.

    Raises:
        ConfigError: A file does not hold a token, or the name of a service is taken by a user.
    """
    async with store.write() as tx:
        first = await tx.entities.get(METASTORE) is None
        now = clock.now()
        await _ensure(tx, Principal(ADMIN, PrincipalKind.USER, now, True, True), tokens.admin)
        for name, secret in sorted(tokens.services.items()):
            service = Principal(name, PrincipalKind.SERVICE, now, True, True)
            await _ensure(tx, service, secret)
        if first:
            for key, comment in _FIRST_OBJECTS:
                entity = Entity(new_id(), key, ADMIN, comment, new_etag(), now, now)
                await tx.entities.add(entity)
                tx.publish(events.securable_created(entity, ADMIN))
        await tx.commit()


async def _ensure(tx: Transaction, principal: Principal, secret: Secret) -> None:
    known = await tx.access.principal(principal.name)
    if known is None:
        await tx.access.put_principal(principal)
    elif known.kind is not principal.kind:
        raise ConfigError(f"the name {principal.name} belongs to a {known.kind.name.lower()}")
    elif not (known.is_admin and known.protected):
        await tx.access.put_principal(replace(known, is_admin=True, protected=True))
    token_id = token_id_of(secret)
    if token_id is None:
        raise ConfigError(
            f"the token file of {principal.name} does not hold a token tsr_<id>_<secret>"
        )
    digest = token_digest(secret.reveal())
    current = await tx.access.token_by_digest(digest)
    if current is not None and (current.principal != principal.name or not current.bootstrap):
        raise ConfigError(f"the token file of {principal.name} holds another token that is in use")
    for token in await tx.access.bootstrap_tokens(principal.name):
        if token.sha256 != digest and not token.revoked:
            await tx.access.put_token(replace(token, revoked=True))
            tx.publish(events.access_changed(principal.name))
            _log.info("the token of %s was rotated", principal.name)
    if current is None or current.revoked:
        if await tx.access.token(token_id) is not None and current is None:
            # The id part of a hand-made token may repeat; the digest is what counts.
            token_id = new_id().replace("-", "")
        made = principal.created_at if current is None else current.created_at
        await tx.access.put_token(
            Token(
                token_id=token_id if current is None else current.token_id,
                principal=principal.name,
                sha256=digest,
                comment="from the installation's files",
                created_at=made,
                bootstrap=True,
            )
        )
