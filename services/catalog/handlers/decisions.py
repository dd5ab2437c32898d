"""What the other services ask: decisions, and objects of theirs that grants can name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.catalog.convert import events
from services.catalog.domain.access import Subject
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import FLAT, METASTORE, Entity, SecurableKey
from services.catalog.errors import InvalidSecurable, SecurableExists, of_field
from services.catalog.handlers.access_cache import AccessCache
from services.catalog.handlers.context import Context, active, busy
from services.catalog.handlers.guard import require_platform, subject_of
from services.catalog.handlers.principals import principal_not_found
from tessera_kit.ids import new_etag, new_id
from tessera_kit.rpc.identity import Principal

__all__ = ["Answer", "Decisions", "Question"]


@dataclass(frozen=True, slots=True)
class Question:
    """May somebody exercise the privilege on the object?"""

    key: SecurableKey
    privilege: Privilege


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether, and what is missing in words."""

    allowed: bool
    missing: str = ""


class Decisions:
    """Use cases of the platform's services."""

    def __init__(self, context: Context, cache: AccessCache) -> None:
        self._context = context
        self._cache = cache

    async def decide(
        self, caller: Principal, principal: str, questions: Sequence[Question]
    ) -> list[Answer]:
        """Answer each question about a principal, in order.

        Raises:
            NotAllowed: The caller is not one of the platform's services.
            PrincipalNotFound: There is no such principal.
        """
        require_platform(caller)
        found = await self._cache.caller(principal)
        if found is None:
            raise principal_not_found(principal)
        subject = subject_of(found)
        return [await self._answer(subject, question) for question in questions]

    async def _answer(self, subject: Subject, question: Question) -> Answer:
        guard = self._context.guard
        decision = await guard.decide(subject, question.key, question.privilege)
        if decision is None:
            return Answer(False, f"there is no {question.key}")
        return Answer(bool(decision), decision.text)

    async def revision(self, caller: Principal) -> int:
        """A number that grows with every commit that changed something for decisions.

        Raises:
            NotAllowed: The caller is not one of the platform's services.
        """
        require_platform(caller)
        return await self._context.store.revision()

    async def register(
        self, caller: Principal, key: SecurableKey, owner: str, comment: str
    ) -> None:
        """Record an object of another service; again with the same owner, it changes nothing.

        Raises:
            NotAllowed: The caller is not one of the platform's services.
            InvalidSecurable: Objects of that kind are the catalog's own.
            PrincipalNotFound: The owner is nobody.
            SecurableExists: It is recorded with another owner.
        """
        require_platform(caller)
        _check_kind(key)
        context = self._context
        async with context.store.write() as tx:
            if await tx.access.principal(owner) is None:
                raise principal_not_found(owner)
            known = await tx.entities.get(key, lock=True)
            if known is not None:
                if not known.active:
                    raise busy(key)
                if known.owner != owner:
                    raise SecurableExists(f"{key} is recorded with another owner")
                if known.comment == comment:
                    return
                changed = replace(
                    known, comment=comment, etag=new_etag(), updated_at=context.clock.now()
                )
                await tx.entities.replace(changed)
                tx.publish(events.securable_updated(changed, owner))
            else:
                await active(tx, METASTORE)
                now = context.clock.now()
                entity = Entity(new_id(), key, owner, comment, new_etag(), now, now)
                await tx.entities.add(entity)
                tx.publish(events.securable_created(entity, owner))
            await tx.commit()

    async def unregister(self, caller: Principal, key: SecurableKey) -> None:
        """Remove such an object with its grants; one that is not known is ignored.

        Raises:
            NotAllowed: The caller is not one of the platform's services.
            InvalidSecurable: Objects of that kind are the catalog's own.
        """
        require_platform(caller)
        _check_kind(key)
        async with self._context.store.write() as tx:
            entity = await tx.entities.get(key, lock=True)
            if entity is None:
                return
            await tx.entities.remove(entity)
            tx.publish(events.securable_deleted(key, caller.name))
            tx.publish(events.access_changed("", key))
            await tx.commit()


def _check_kind(key: SecurableKey) -> None:
    if key.type not in FLAT:
        text = f"must be an endpoint, experiment, job or monitor, not a {key.type.label}"
        raise of_field(InvalidSecurable, "securable.type", text)
