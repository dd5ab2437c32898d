"""Use cases of issues: what was found wrong in traces."""

from __future__ import annotations

import uuid
from dataclasses import replace

from services.tracking.domain.reviews import Issue, IssuePlace, check_issue
from services.tracking.domain.search.parser import parse_filter
from services.tracking.domain.search.syntax import ISSUES
from services.tracking.handlers.review_desk import ReviewDesk
from tessera_kit.rpc.identity import Principal

__all__ = ["Issues"]


class Issues:
    """Keeps issues.

    Every method raises what `ReviewDesk` does, and InvalidValue where a field breaks the rules.

    Args:
        desk: Reads and stores them.
    """

    def __init__(self, desk: ReviewDesk) -> None:
        self._desk = desk

    async def create_issue(self, principal: Principal, issue: Issue) -> Issue:
        """Store an issue; its id and times are set here.

        Raises:
            ExperimentNotActive: The experiment was deleted.
        """
        now = self._desk.now()
        made = replace(
            check_issue(issue), id=f"iss-{uuid.uuid4().hex}", created_at=now, updated_at=now
        )
        await self._desk.add(principal, made)
        return made

    async def update_issue(
        self,
        principal: Principal,
        issue_id: str,
        *,
        name: str | None,
        description: str | None,
        status: str | None,
        severity: str | None,
    ) -> Issue:
        """Change what is not None."""
        was = await self._desk.writable(principal, Issue, issue_id)
        changed = replace(
            was,
            name=was.name if name is None else name,
            description=was.description if description is None else description,
            status=was.status if status is None else status,
            severity=was.severity if severity is None else severity,
            updated_at=self._desk.now(),
        )
        await self._desk.put(check_issue(changed))
        return changed

    async def find_issues(
        self,
        principal: Principal,
        experiment_id: str | None,
        text: str,
        *,
        counted: bool,
        after: IssuePlace | None,
        limit: int,
    ) -> list[Issue]:
        """Return issues that match: the most severe first, then by their traces, then the newest.

        Args:
            principal: Who asks.
            experiment_id: Of which experiment; None for all that the caller may read.
            text: A filter over `status` and `source_run_id`.
            counted: Whether to say in how many traces each was found.
            after: Where the page before ended; None for the first page.
            limit: The most to return.

        Raises:
            InvalidFilter: The filter does not parse.
        """
        conditions = parse_filter(text, ISSUES)
        if experiment_id is not None:
            await self._desk.readable(principal, experiment_id)
            chosen = {experiment_id}
        else:
            async with self._desk.store.read() as view:
                homes = await view.reviews.homes_of_issues()
            chosen = await self._desk.access.readable(principal, homes)
        async with self._desk.store.read() as view:
            return await view.reviews.issues(
                chosen, conditions, counted=counted, after=after, limit=limit
            )
