"""One body over the stores of evaluation data sets and of scorers: in memory and in SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.tracking.adapters.memory.store import InMemoryPoints, InMemoryStore
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.domain.evaluation import (
    EvaluationDataset,
    EvaluationRecord,
    ScorerVersion,
    input_hash,
)
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import EVALUATION_DATASETS
from services.tracking.ports.evaluation import EvaluationQuery
from services.tracking.ports.store import Store
from tessera_kit.store.sql import Database
from tests.tracking_database import fresh_database, fresh_postgres


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        store: Store = InMemoryStore()
        await with_experiments(store)
        yield store
        return
    if request.param == "sqlite":
        config = await fresh_database(tmp_path)
    else:
        config = await fresh_postgres(request.getfixturevalue("postgres_url"))
    async with Database(config) as database:
        store = SqlStore(database, InMemoryPoints())
        await with_experiments(store)
        yield store


async def with_experiments(store: Store) -> None:
    async with store.write() as work:
        for name in ("e1", "e2"):
            await work.experiments.add(
                Experiment(
                    experiment_id=name,
                    name=name,
                    artifact_location="s3://bucket",
                    created_by="ada",
                    created_at=1,
                    updated_at=1,
                    etag="first",
                )
            )
        await work.commit()


def a_dataset(number: int = 1, **changes: object) -> EvaluationDataset:
    made = EvaluationDataset(
        dataset_id=f"d-{number}",
        name=f"set {number}",
        owner="ada",
        created_at=number * 1000,
        updated_at=number * 1000,
        tags={"team": "blue"},
        experiment_ids=("e1",),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def a_record(number: int = 1, **changes: object) -> EvaluationRecord:
    made = EvaluationRecord(
        record_id=f"dr-{number}",
        dataset_id="d-1",
        inputs={"question": number},
        outputs=["ö", None],
        expectations={"answer": {"deep": [1.5, True]}},
        tags={"a": "b"},
        source={"source_type": "TRACE", "source_data": {"trace_id": "tr-1"}},
        created_by="ada",
        created_at=number // 2,
        updated_at=number,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def given(store: Store, *datasets: EvaluationDataset) -> None:
    async with store.write() as work:
        for one in datasets:
            await work.evaluation.put(one)
        await work.commit()


async def put(store: Store, *records: EvaluationRecord) -> None:
    async with store.write() as work:
        await work.evaluation.put_records("d-1", {input_hash(one.inputs): one for one in records})
        await work.commit()


async def test_a_data_set_comes_back_and_changes(store: Store) -> None:
    dataset = a_dataset(schema={"inputs": {"q": "string"}}, created_by="a", updated_by="b")
    await given(store, dataset)
    changed = replace(dataset, name="new", tags={}, experiment_ids=("e1", "e2"))
    async with store.write() as work:
        assert await work.evaluation.lock("d-1") == dataset
        await work.evaluation.put(changed)
        await work.commit()
    async with store.read() as view:
        assert await view.evaluation.get("d-1") == changed
        assert await view.evaluation.get("d-2") is None


@pytest.mark.parametrize(
    ("text", "experiments", "expected"),
    [
        ("", [], [3, 2, 1]),
        ("", ["e2"], [3]),
        ("name = 'set 2'", [], [2]),
        ("name IN ('set 1', 'set 2')", ["e1"], [2, 1]),
        ("created_time >= 2", [], [3, 2]),
        ("tags.team = 'red' AND created_by LIKE 'b%'", [], [3]),
    ],
)
async def test_data_sets_are_searched(
    store: Store, text: str, experiments: list[str], expected: list[int]
) -> None:
    third = a_dataset(3, tags={"team": "red"}, created_by="bob", experiment_ids=("e2",))
    await given(store, a_dataset(1), a_dataset(2), third)
    query = EvaluationQuery(
        experiment_ids=experiments, filter=parse_filter(text, EVALUATION_DATASETS), limit=10
    )
    ordered = replace(query, order=parse_order_by(["name"], EVALUATION_DATASETS), limit=1)
    async with store.read() as view:
        found = await view.evaluation.find(query)
        first = await view.evaluation.find(ordered)
    assert [int(one.dataset_id[2:]) for one in found] == expected
    assert [int(one.dataset_id[2:]) for one in first] == [min(expected)]


async def test_records_are_kept_by_their_inputs_and_listed_page_by_page(store: Store) -> None:
    await given(store, a_dataset())
    await put(store, *(a_record(number) for number in range(1, 6)))
    again = a_record(3, outputs="new")
    await put(store, again)
    async with store.read() as view:
        seen: list[EvaluationRecord] = []
        while page := await view.evaluation.records(
            "d-1",
            after=(seen[-1].created_at, seen[-1].record_id) if seen else None,
            limit=2,
        ):
            seen += page
        key = input_hash(again.inputs)
        assert await view.evaluation.records_of("d-1", [key, "none"]) == {key: again}
        dataset = await view.evaluation.get("d-1")
    assert seen == [a_record(1), a_record(2), again, a_record(4), a_record(5)]
    assert dataset is not None
    assert dataset.records == 5


async def test_records_are_deleted_one_by_one_and_with_their_data_set(store: Store) -> None:
    await given(store, a_dataset(), a_dataset(2))
    await put(store, a_record(1), a_record(2))
    async with store.write() as work:
        assert await work.evaluation.delete_records("d-1", ["dr-1", "dr-1", "dr-9"]) == 1
        assert [
            one.record_id for one in await work.evaluation.records("d-1", after=None, limit=9)
        ] == ["dr-2"]
        await work.evaluation.delete("d-1")
        await work.commit()
    async with store.read() as view:
        assert await view.evaluation.get("d-1") is None
        assert await view.evaluation.records("d-1", after=None, limit=9) == []
        assert await view.evaluation.get("d-2") == a_dataset(2)


async def test_scorers_have_versions(store: Store) -> None:
    def scorer(experiment: str, name: str, version: int) -> ScorerVersion:
        return ScorerVersion(
            experiment_id=experiment,
            name=name,
            version=version,
            scorer_id=f"{experiment}{name}",
            serialized="{}",
            created_at=version,
        )

    those = [scorer("e1", "a", 1), scorer("e1", "a", 2), scorer("e1", "b", 1), scorer("e2", "a", 1)]
    async with store.write() as work:
        for one in reversed(those):
            await work.scorers.add(one)
        await work.commit()
    async with store.write() as work:
        assert await work.scorers.of(["e1", "e2"], None) == those
        assert await work.scorers.of(["e1"], "a") == those[:2]
        assert await work.scorers.delete("e1", "a", 1) == 1
        assert await work.scorers.delete("e1", "a", 1) == 0
        assert await work.scorers.of(["e1"], "a") == [those[1]]
        assert await work.scorers.delete("e1", "a", None) == 1
        assert await work.scorers.of(["e1"], None) == [those[2]]
