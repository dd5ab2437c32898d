"""What tracking needs to keep evaluation data sets and scorers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.tracking.domain.evaluation import (
    EvaluationDataset,
    EvaluationRecord,
    ScorerVersion,
)
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.search.paging import Position
from services.tracking.domain.search.syntax import Filter, OrderKey

__all__ = ["EvaluationQuery", "EvaluationStore", "ScorerStore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationQuery:
    """Which evaluation data sets to find: by `order`, then the newest first."""

    experiment_ids: Collection[str] = ()
    """Only data sets for one of these; of any, or of none, when empty."""
    filter: Filter = ()
    order: tuple[OrderKey, ...] = ()
    limit: int
    after: Position | None = None
    """Where the page before ended."""


class EvaluationStore(Protocol):
    """Evaluation data sets and their records."""

    async def get(self, dataset_id: str) -> EvaluationDataset | None:
        """Return the data set; None when there is none."""

    async def lock(self, dataset_id: str) -> EvaluationDataset | None:
        """As `get`; until the work ends nobody else locks it."""

    async def find(self, query: EvaluationQuery) -> list[EvaluationDataset]:
        """Return at most `query.limit` data sets, in order."""

    async def put(self, dataset: EvaluationDataset) -> None:
        """Store a new data set, or the new state of a locked one; its records stay."""

    async def delete(self, dataset_id: str) -> None:
        """Forget a data set and its records."""

    async def records_of(
        self, dataset_id: str, hashes: Collection[str]
    ) -> dict[str, EvaluationRecord]:
        """Return the records that have certain inputs, by the hash of their inputs."""

    async def put_records(self, dataset_id: str, records: Mapping[str, EvaluationRecord]) -> None:
        """Store records of a locked data set, by the hash of their inputs; equal ones replace."""

    async def records(
        self, dataset_id: str, *, after: tuple[Micros, str] | None, limit: int
    ) -> list[EvaluationRecord]:
        """Return at most `limit` records by their creation and id, behind such a place."""

    async def delete_records(self, dataset_id: str, record_ids: Collection[str]) -> int:
        """Forget records; return how many there were."""


class ScorerStore(Protocol):
    """Versions of scorers."""

    async def of(self, experiment_ids: Collection[str], name: str | None) -> list[ScorerVersion]:
        """Return versions, of one name or of all, by experiment, name and version."""

    async def add(self, scorer: ScorerVersion) -> None:
        """Store a new version; its experiment is locked."""

    async def delete(self, experiment_id: str, name: str, version: int | None) -> int:
        """Forget a version, or all; return how many there were."""
