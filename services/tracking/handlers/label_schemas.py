"""Use cases of label schemas: the questions that reviewers answer about traces."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from services.tracking.domain.reviews import (
    DEFAULT_QUESTION,
    SCHEMA_TYPES,
    LabelSchema,
    check_input,
    check_schema,
    unchanged_kind,
)
from services.tracking.errors import InvalidValue, ReviewExists, ReviewNotFound
from services.tracking.handlers.review_desk import ReviewDesk
from services.tracking.ports.reviews import Place
from tessera_kit.rpc.identity import Principal

__all__ = ["LabelSchemas"]


class LabelSchemas:
    """Keeps questions.

    Every method raises what `ReviewDesk` does, and InvalidValue where a field breaks the rules.

    Args:
        desk: Reads and stores them.
    """

    def __init__(self, desk: ReviewDesk) -> None:
        self._desk = desk

    async def create_schema(
        self,
        principal: Principal,
        experiment_id: str,
        *,
        name: str,
        kind: str,
        asked: dict[str, Any],
        instruction: str | None,
        enable_comment: bool,
    ) -> LabelSchema:
        """Store a question.

        Raises:
            ReviewExists: The experiment has one of that name.
            ExperimentNotActive: The experiment was deleted.
        """
        now = self._desk.now()
        made = LabelSchema(
            id=f"ls-{uuid.uuid4().hex}",
            experiment_id=experiment_id,
            name=name,
            type=kind,
            input=asked,
            instruction=instruction,
            enable_comment=enable_comment,
            created_by=principal.name,
            created_at=now,
            updated_at=now,
        )
        await self._desk.add(principal, check_schema(made))
        return made

    async def schema_by_name(
        self, principal: Principal, experiment_id: str, name: str
    ) -> LabelSchema:
        """Return the question of a name."""
        return await self._desk.by_key(principal, LabelSchema, experiment_id, name)

    async def schemas(
        self, principal: Principal, experiment_id: str, *, after: Place | None, limit: int
    ) -> list[LabelSchema]:
        """Return the next of an experiment's questions, the newest first.

        Each experiment has its own one at least.

        Args:
            principal: Who asks.
            experiment_id: Of which experiment.
            after: Where the page before ended; None for the first page.
            limit: The most to return.
        """
        await self._desk.readable(principal, experiment_id)
        await self._ensure_default(experiment_id)
        async with self._desk.store.read() as view:
            return await view.reviews.page(LabelSchema, experiment_id, after=after, limit=limit)

    async def _ensure_default(self, experiment_id: str) -> None:
        async with self._desk.store.read() as view:
            if await view.reviews.by_key(LabelSchema, experiment_id, DEFAULT_QUESTION):
                return
        now = self._desk.now()
        own = LabelSchema(
            id=f"ls-{uuid.uuid4().hex}",
            experiment_id=experiment_id,
            name=DEFAULT_QUESTION,
            type=SCHEMA_TYPES[0],
            input={"text": {}},
            instruction="Share any feedback on this trace.",
            is_default=True,
            created_at=now,
            updated_at=now,
        )
        async with self._desk.store.write() as work:
            try:
                await work.reviews.put(own)
                await work.commit()
            except ReviewExists:
                pass  # Somebody else listed them at the same time.

    async def update_schema(
        self,
        principal: Principal,
        schema_id: str,
        *,
        name: str | None,
        instruction: str | None,
        enable_comment: bool | None,
        asked: dict[str, Any] | None,
    ) -> LabelSchema:
        """Change what is not None.

        Raises:
            ReviewExists: The experiment has another one of that name.
        """
        was = await self._desk.writable(principal, LabelSchema, schema_id)
        if was.is_default:
            raise InvalidValue("an experiment's own question does not change", "schema_id")
        if asked is not None:
            check_input(asked)
            unchanged_kind(was.input, asked)
        changed = replace(
            was,
            name=was.name if name is None else name,
            instruction=was.instruction if instruction is None else instruction,
            enable_comment=was.enable_comment if enable_comment is None else enable_comment,
            input=was.input if asked is None else asked,
            updated_at=self._desk.now(),
        )
        await self._desk.put(check_schema(changed))
        return changed

    async def delete_schema(self, principal: Principal, schema_id: str) -> None:
        """Delete a question; assessments that answered it stay. One that is not there is none."""
        try:
            found = await self._desk.writable(principal, LabelSchema, schema_id)
        except ReviewNotFound:
            return
        if found.is_default:
            raise InvalidValue("an experiment's own question is not deleted", "schema_id")
        async with self._desk.store.write() as work:
            await work.reviews.delete(LabelSchema, schema_id)
            await work.commit()
