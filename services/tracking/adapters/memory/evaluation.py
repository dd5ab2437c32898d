"""The ports of evaluation data sets and scorers in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from services.tracking.adapters.memory.pages import Item, page_of
from services.tracking.domain.evaluation import (
    EvaluationDataset,
    EvaluationRecord,
    ScorerVersion,
    input_hash,
)
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.search.evaluate import dataset_values
from services.tracking.ports.evaluation import EvaluationQuery

__all__ = ["InMemoryEvaluation", "InMemoryScorers"]


class InMemoryEvaluation:
    """The store of evaluation data sets over dictionaries of a transaction's state."""

    def __init__(
        self,
        datasets: dict[str, EvaluationDataset],
        records: dict[tuple[str, str], EvaluationRecord],
    ) -> None:
        self._all = datasets
        self._records = records

    async def get(self, dataset_id: str) -> EvaluationDataset | None:
        """Return the data set; None when there is none."""
        dataset = self._all.get(dataset_id)
        if dataset is None:
            return None
        count = sum(one == dataset_id for one, _ in self._records)
        return replace(dataset, records=count)

    async def lock(self, dataset_id: str) -> EvaluationDataset | None:
        """As `get`; one transaction runs at a time."""
        return await self.get(dataset_id)

    async def find(self, query: EvaluationQuery) -> list[EvaluationDataset]:
        """Return data sets in order."""
        wanted = set(query.experiment_ids)
        items = [
            Item(dataset_values(one), one.created_at, one.dataset_id, one.dataset_id)
            for one in self._all.values()
            if not wanted or wanted.intersection(one.experiment_ids)
        ]
        found = [await self.get(item.thing) for item in page_of(items, query)]
        return [one for one in found if one is not None]

    async def put(self, dataset: EvaluationDataset) -> None:
        """Store a data set."""
        self._all[dataset.dataset_id] = dataset

    async def delete(self, dataset_id: str) -> None:
        """Forget a data set and its records."""
        self._all.pop(dataset_id, None)
        for key in [key for key in self._records if key[0] == dataset_id]:
            del self._records[key]

    async def records_of(
        self, dataset_id: str, hashes: Collection[str]
    ) -> dict[str, EvaluationRecord]:
        """Return the records that have these inputs, by the hash of their inputs."""
        return {
            key: one
            for (of, _), one in self._records.items()
            if of == dataset_id and (key := input_hash(one.inputs)) in hashes
        }

    async def put_records(self, dataset_id: str, records: Mapping[str, EvaluationRecord]) -> None:
        """Store records."""
        for one in records.values():
            self._records[dataset_id, one.record_id] = one

    async def records(
        self, dataset_id: str, *, after: tuple[Micros, str] | None, limit: int
    ) -> list[EvaluationRecord]:
        """Return records by their creation, behind a place."""
        those = sorted(
            (one for (of, _), one in self._records.items() if of == dataset_id),
            key=lambda one: (one.created_at, one.record_id),
        )
        return [one for one in those if after is None or (one.created_at, one.record_id) > after][
            :limit
        ]

    async def delete_records(self, dataset_id: str, record_ids: Collection[str]) -> int:
        """Forget records; return how many there were."""
        gone = [(dataset_id, one) for one in set(record_ids) if (dataset_id, one) in self._records]
        for key in gone:
            del self._records[key]
        return len(gone)


class InMemoryScorers:
    """The store of scorers over a dictionary of a transaction's state."""

    def __init__(self, scorers: dict[tuple[str, str, int], ScorerVersion]) -> None:
        self._all = scorers

    async def of(self, experiment_ids: Collection[str], name: str | None) -> list[ScorerVersion]:
        """Return versions of scorers by experiment, name and version."""
        return [
            one
            for key, one in sorted(self._all.items())
            if one.experiment_id in experiment_ids and name in {None, one.name}
        ]

    async def add(self, scorer: ScorerVersion) -> None:
        """Store a new version."""
        self._all[scorer.experiment_id, scorer.name, scorer.version] = scorer

    async def delete(self, experiment_id: str, name: str, version: int | None) -> int:
        """Forget a version, or all; return how many there were."""
        gone = [
            key
            for key in self._all
            if key[:2] == (experiment_id, name) and version in {None, key[2]}
        ]
        for key in gone:
            del self._all[key]
        return len(gone)
