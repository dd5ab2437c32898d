"""Use cases of evaluation data sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from services.tracking.domain.evaluation import (
    USER_TAG,
    EvaluationDataset,
    EvaluationRecord,
    check_dataset,
    input_hash,
    merged_record,
    new_record,
    schema_with,
)
from services.tracking.domain.lifecycle import Micros, micros_of
from services.tracking.domain.search.evaluate import dataset_values
from services.tracking.domain.search.paging import Position, position_after
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import EVALUATION_DATASETS, OrderKey
from services.tracking.errors import (
    EvaluationDatasetNotFound,
    ExperimentNotFound,
    InvalidValue,
)
from services.tracking.handlers.access import Access
from services.tracking.handlers.page_tokens import (
    foreign_token,
    position_at,
    scope_of,
    token_of,
)
from services.tracking.ports.evaluation import EvaluationQuery
from services.tracking.ports.store import Store
from tessera_kit.clock import Clock
from tessera_kit.errors import NotFound, PermissionDenied
from tessera_kit.ids import new_id
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.pages import decode_page_token, encode_page_token

__all__ = ["DatasetPage", "EvaluationDatasets", "RecordPage", "Upserted"]

_PREFIX: Final = "d-"
_RECORD_PREFIX: Final = "dr-"
_MOST_RECORDS: Final = 1000
_ROUNDS: Final = 10


@dataclass(frozen=True, slots=True)
class DatasetPage:
    """A page of data sets."""

    datasets: list[EvaluationDataset]
    next_token: str
    """Where the next page starts; empty on the last page."""


@dataclass(frozen=True, slots=True)
class RecordPage:
    """A page of a data set's records, the oldest first."""

    records: list[EvaluationRecord]
    next_token: str
    """Where the next page starts; empty on the last page."""


@dataclass(frozen=True, slots=True)
class Upserted:
    """What became of records that were sent."""

    inserted: int
    updated: int


class EvaluationDatasets:
    """Creates, reads, changes, searches and deletes evaluation data sets and their records.

    Who owns one may do all with it; others what they may do with one of its experiments.

    Args:
        store: Where they are kept.
        access: Who may do what with experiments.
        clock: Where time comes from.
    """

    def __init__(self, store: Store, access: Access, clock: Clock) -> None:
        self._store = store
        self._access = access
        self._clock = clock

    async def create(
        self,
        principal: Principal,
        *,
        name: str,
        tags: Mapping[str, str],
        experiment_ids: Sequence[str],
    ) -> EvaluationDataset:
        """Create a data set that the caller owns.

        Raises:
            ExperimentNotFound: One of the experiments does not exist.
            PermissionDenied: The caller may not write one of them.
            InvalidKey, InvalidValue: The name or a tag breaks the rules.
        """
        check_dataset(name, tags)
        await self._must_be_writable(principal, experiment_ids)
        now = self._now()
        dataset = EvaluationDataset(
            dataset_id=_PREFIX + new_id().replace("-", ""),
            name=name,
            owner=principal.name,
            created_by=tags.get(USER_TAG),
            updated_by=tags.get(USER_TAG),
            created_at=now,
            updated_at=now,
            tags=dict(tags),
            experiment_ids=tuple(sorted(set(experiment_ids))),
        )
        async with self._store.write() as work:
            await work.evaluation.put(dataset)
            await work.commit()
        return dataset

    async def get(self, principal: Principal, dataset_id: str) -> EvaluationDataset:
        """Return a data set.

        Raises:
            EvaluationDatasetNotFound: There is none, or the caller may not read it.
        """
        async with self._store.read() as view:
            dataset = await view.evaluation.get(dataset_id)
        if dataset is None or not await self._may_read(principal, dataset):
            raise EvaluationDatasetNotFound(dataset_id)
        return dataset

    async def delete(self, principal: Principal, dataset_id: str) -> None:
        """Delete a data set with its records, if it is there.

        Raises:
            PermissionDenied: The caller may not change it.
        """
        try:
            await self._to_change(principal, dataset_id)
        except EvaluationDatasetNotFound:
            return
        async with self._store.write() as work:
            await work.evaluation.delete(dataset_id)
            await work.commit()

    async def search(
        self,
        principal: Principal,
        *,
        experiment_ids: Collection[str],
        text: str,
        order_by: Sequence[str],
        size: int,
        token: str,
    ) -> DatasetPage:
        """Return a page of the data sets that match and that the caller may read.

        Args:
            principal: Who asks.
            experiment_ids: Only data sets for one of these; of any when empty.
            text: The filter.
            order_by: The order; the newest first after it.
            size: Most data sets.
            token: The `next_token` of the page before.

        Raises:
            InvalidFilter, InvalidOrderBy: A text does not parse.
            InvalidPageToken: The token was not made by this search.
        """
        order = parse_order_by(order_by, EVALUATION_DATASETS)
        scope = scope_of("evaluation", sorted(experiment_ids), text, list(order_by))

        async def place_of(dataset_id: str) -> Position | None:
            async with self._store.read() as view:
                dataset = await view.evaluation.get(dataset_id)
            return None if dataset is None else _place(dataset, order)

        query = EvaluationQuery(
            experiment_ids=experiment_ids,
            filter=parse_filter(text, EVALUATION_DATASETS),
            order=order,
            limit=size + 1,
            after=await position_at(token, scope, order, place_of),
        )
        visible: list[EvaluationDataset] = []
        for _ in range(_ROUNDS):
            async with self._store.read() as view:
                found = await view.evaluation.find(query)
            visible += [one for one in found if await self._may_read(principal, one)]
            if len(visible) > size:
                page = visible[:size]
                return DatasetPage(page, token_of(_place(page[-1], order), scope))
            if len(found) < query.limit:
                return DatasetPage(visible, "")
            query = replace(query, after=_place(found[-1], order))
        return DatasetPage(visible, token_of(_place(found[-1], order), scope))

    async def set_tags(
        self, principal: Principal, dataset_id: str, tags: Mapping[str, str]
    ) -> EvaluationDataset:
        """Set tags of a data set; others stay.

        Raises:
            EvaluationDatasetNotFound: There is none.
            PermissionDenied: The caller may not change it.
            InvalidKey, InvalidValue: A tag breaks the rules.
        """
        check_dataset("any", tags)
        return await self._change(
            principal, dataset_id, lambda one: replace(one, tags={**one.tags, **tags})
        )

    async def delete_tag(self, principal: Principal, dataset_id: str, key: str) -> None:
        """Remove a tag of a data set, if it is there.

        Raises:
            EvaluationDatasetNotFound: There is no such data set.
            PermissionDenied: The caller may not change it.
        """
        await self._change(
            principal,
            dataset_id,
            lambda one: replace(
                one, tags={name: value for name, value in one.tags.items() if name != key}
            ),
        )

    async def add_experiments(
        self, principal: Principal, dataset_id: str, experiment_ids: Sequence[str]
    ) -> EvaluationDataset:
        """Make a data set be for more experiments.

        Raises:
            EvaluationDatasetNotFound, ExperimentNotFound: One of them does not exist.
            PermissionDenied: The caller may not change the data set, or write an experiment.
        """
        await self._must_be_writable(principal, experiment_ids)
        return await self._change(
            principal,
            dataset_id,
            lambda one: replace(
                one, experiment_ids=tuple(sorted({*one.experiment_ids, *experiment_ids}))
            ),
        )

    async def remove_experiments(
        self, principal: Principal, dataset_id: str, experiment_ids: Collection[str]
    ) -> EvaluationDataset:
        """Make a data set no longer be for some experiments.

        Raises:
            EvaluationDatasetNotFound: There is no such data set.
            PermissionDenied: The caller may not change it.
        """
        gone = set(experiment_ids)
        return await self._change(
            principal,
            dataset_id,
            lambda one: replace(
                one, experiment_ids=tuple(name for name in one.experiment_ids if name not in gone)
            ),
        )

    async def upsert(
        self, principal: Principal, dataset_id: str, told: Sequence[Mapping[str, Any]]
    ) -> Upserted:
        """Add examples; one whose inputs are there already is merged with what is there.

        Raises:
            EvaluationDatasetNotFound: There is no such data set.
            PermissionDenied: The caller may not change it.
            InvalidValue: One is not made as an example is, or there are too many.
        """
        if len(told) > _MOST_RECORDS:
            raise InvalidValue(f"At most {_MOST_RECORDS} records can be sent at once.", "records")
        await self._to_change(principal, dataset_id)
        now = self._now()
        hashes = [input_hash(one.get("inputs") or {}) for one in told]
        async with self._store.write() as work:
            dataset = await work.evaluation.lock(dataset_id)
            if dataset is None:
                raise EvaluationDatasetNotFound(dataset_id)
            records = await work.evaluation.records_of(dataset_id, hashes)
            before, updated = len(records), 0
            for key, one in zip(hashes, told, strict=True):
                if key in records:
                    records[key] = merged_record(records[key], one, now=now)
                    updated += 1
                else:
                    record_id = _RECORD_PREFIX + new_id().replace("-", "")
                    records[key] = new_record(
                        one, dataset_id=dataset_id, record_id=record_id, now=now
                    )
            await work.evaluation.put_records(dataset_id, records)
            users = [one.tags[USER_TAG] for one in records.values() if USER_TAG in one.tags]
            await work.evaluation.put(
                replace(
                    dataset,
                    schema=schema_with(dataset.schema, records.values()),
                    updated_at=now,
                    updated_by=users[-1] if users else dataset.updated_by,
                )
            )
            await work.commit()
        return Upserted(len(records) - before, updated)

    async def records(
        self, principal: Principal, dataset_id: str, *, size: int, token: str
    ) -> RecordPage:
        """Return a page of a data set's records.

        Raises:
            EvaluationDatasetNotFound: There is none, or the caller may not read it.
            InvalidPageToken: The token was not made by this listing.
        """
        await self.get(principal, dataset_id)
        scope = scope_of("records", dataset_id)
        written = decode_page_token(token, scope)
        after = None
        if written:
            try:
                after = int(written["t"]), str(written["i"])
            except (KeyError, ValueError):
                raise foreign_token() from None
        async with self._store.read() as view:
            found = await view.evaluation.records(dataset_id, after=after, limit=size + 1)
        if len(found) <= size:
            return RecordPage(found, "")
        last = found[size - 1]
        following = encode_page_token({"t": last.created_at, "i": last.record_id}, scope)
        return RecordPage(found[:size], following)

    async def delete_records(
        self, principal: Principal, dataset_id: str, record_ids: Collection[str]
    ) -> int:
        """Delete records; return how many there were.

        Raises:
            EvaluationDatasetNotFound: There is no such data set.
            PermissionDenied: The caller may not change it.
        """
        await self._to_change(principal, dataset_id)
        async with self._store.write() as work:
            deleted = await work.evaluation.delete_records(dataset_id, record_ids)
            await work.commit()
        return deleted

    async def _change(
        self,
        principal: Principal,
        dataset_id: str,
        change: Callable[[EvaluationDataset], EvaluationDataset],
    ) -> EvaluationDataset:
        await self._to_change(principal, dataset_id)
        async with self._store.write() as work:
            current = await work.evaluation.lock(dataset_id)
            if current is None:
                raise EvaluationDatasetNotFound(dataset_id)
            changed = replace(change(current), updated_at=self._now())
            await work.evaluation.put(changed)
            await work.commit()
        return changed

    async def _to_change(self, principal: Principal, dataset_id: str) -> EvaluationDataset:
        dataset = await self.get(principal, dataset_id)
        if not await self._may_change(principal, dataset):
            raise PermissionDenied(
                f"changing evaluation dataset {dataset_id} needs MODIFY on one of its experiments, "
                "or to own it"
            )
        return dataset

    async def _may_read(self, principal: Principal, dataset: EvaluationDataset) -> bool:
        if principal.is_admin or dataset.owner == principal.name:
            return True
        return bool(await self._access.readable(principal, dataset.experiment_ids))

    async def _may_change(self, principal: Principal, dataset: EvaluationDataset) -> bool:
        if principal.is_admin or dataset.owner == principal.name:
            return True
        for experiment_id in dataset.experiment_ids:
            try:
                await self._access.write(principal, experiment_id)
            except (PermissionDenied, NotFound):
                continue
            return True
        return False

    async def _must_be_writable(self, principal: Principal, experiment_ids: Sequence[str]) -> None:
        async with self._store.read() as view:
            for experiment_id in experiment_ids:
                if await view.experiments.get(experiment_id) is None:
                    raise ExperimentNotFound(
                        f"No Experiment with id={experiment_id[:300]} exists",
                        metadata={"experiment_id": experiment_id[:300]},
                    )
        for experiment_id in experiment_ids:
            await self._access.write(principal, experiment_id)

    def _now(self) -> Micros:
        return micros_of(self._clock.now())


def _place(dataset: EvaluationDataset, order: Sequence[OrderKey]) -> Position:
    return position_after(
        dataset_values(dataset), order, time=dataset.created_at, identifier=dataset.dataset_id
    )
