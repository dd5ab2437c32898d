"""One body over every implementation of the store's questions, queues and issues."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from services.tracking.adapters.memory.store import InMemoryPoints
from services.tracking.adapters.sql.store import SqlStore
from services.tracking.domain.experiment import Experiment
from services.tracking.domain.reviews import Issue, LabelSchema, ReviewItem, ReviewQueue
from services.tracking.domain.search.evaluate import matches
from services.tracking.domain.search.model_fields import issue_values
from services.tracking.domain.search.parser import parse_filter
from services.tracking.domain.search.syntax import ISSUES
from services.tracking.domain.traces.assessment import Assessment, AssessmentKind
from services.tracking.domain.traces.trace import Trace
from services.tracking.errors import ReviewExists
from services.tracking.ports.store import Store
from tessera_kit.config import DatabaseConfig
from tessera_kit.store.migrate import migrate
from tessera_kit.store.sql import Database
from tests.tracking_database import STORES, opened_store


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(request, tmp_path) as store:
        yield await with_experiments(store)


async def with_experiments(store: Store) -> Store:
    async with store.write() as work:
        for name in ("1", "2"):
            await work.experiments.add(
                Experiment(
                    experiment_id=name,
                    name=name,
                    artifact_location="s3://x",
                    created_by="ada",
                    etag="e",
                    created_at=1,
                    updated_at=1,
                )
            )
        await work.commit()
    return store


def schema(name: str, at: int = 1, experiment_id: str = "1") -> LabelSchema:
    return LabelSchema(
        id=f"ls-{experiment_id}-{name}",
        experiment_id=experiment_id,
        name=name,
        type="FEEDBACK",
        input={"categorical": {"options": ["ü", "b"]}},
        created_at=at,
        updated_at=at,
    )


def queue(name: str) -> ReviewQueue:
    return ReviewQueue(
        id=f"rq-{name}",
        experiment_id="1",
        name=name,
        type="CUSTOM",
        users=("ada", "bob"),
        schema_ids=("s",),
        created_at=1,
        updated_at=1,
    )


def item(item_id: str, at: int = 1) -> ReviewItem:
    return ReviewItem(queue_id="rq-Q", item_id=item_id, created_at=at, updated_at=at)


async def test_questions_have_one_name_each_and_come_the_newest_first(store: Store) -> None:
    first, second, third = schema("a"), schema("b", 2), schema("a", 3, "2")
    async with store.write() as work:
        for one in (first, second, third, queue("a")):
            await work.reviews.put(one)
        with pytest.raises(ReviewExists):
            await work.reviews.put(replace(first, id="ls-other"))
        with pytest.raises(ReviewExists):
            await work.reviews.put(replace(second, name="a"))
        changed = replace(first, instruction="é")
        await work.reviews.put(changed)
        await work.commit()
    async with store.read() as view:
        assert await view.reviews.get(LabelSchema, first.id) == changed
        assert await view.reviews.get(ReviewQueue, first.id) is None
        listed = partial(view.reviews.page, LabelSchema, after=None, limit=9)
        assert await listed("1") == [second, changed]
        assert await listed("2") == [third]
        assert await listed("3") == []
    async with store.write() as work:
        await work.reviews.delete(LabelSchema, first.id)
        await work.reviews.delete(LabelSchema, first.id)
        assert await work.reviews.page(LabelSchema, "1", after=None, limit=9) == [second]


async def test_queues_hold_items_that_go_with_them(store: Store) -> None:
    mine = queue("Q")
    async with store.write() as work:
        await work.reviews.put(mine)
        with pytest.raises(ReviewExists):
            await work.reviews.put(replace(queue("q"), id="rq-lower"))
        await work.reviews.put_items([item("1"), item("3", 2), item("2", 2)])
        done = replace(item("1"), status="COMPLETE", completed_by="ada", completed_at=9)
        await work.reviews.put_items([done])
        await work.reviews.put_items([])
        await work.commit()
    async with store.read() as view:
        assert await view.reviews.get(ReviewQueue, mine.id) == mine
        assert await view.reviews.items("rq-Q", limit=9) == [item("2", 2), item("3", 2), done]
        assert await view.reviews.items_of("rq-Q", ["3", "1", "none"]) == {
            "3": item("3", 2),
            "1": done,
        }
        assert await view.reviews.items_of("rq-other", ["3"]) == {}
    async with store.write() as work:
        await work.reviews.delete_items("rq-Q", ["2", "none"])
        assert [one.item_id for one in await work.reviews.items("rq-Q", limit=9)] == ["3", "1"]
        await work.reviews.forget_items(["3", "none"])
        assert [one.item_id for one in await work.reviews.items("rq-Q", limit=9)] == ["1"]
        await work.reviews.delete(ReviewQueue, "rq-Q")
        assert await work.reviews.items("rq-Q", limit=9) == []


async def test_a_key_finds_its_own(store: Store) -> None:
    async with store.write() as work:
        for one in (schema("a"), schema("a", 3, "2"), queue("A")):
            await work.reviews.put(one)
        await work.commit()
    async with store.read() as view:
        assert await view.reviews.by_key(LabelSchema, "1", "a") == schema("a")
        assert await view.reviews.by_key(ReviewQueue, "1", "a") == queue("A")
        assert await view.reviews.by_key(ReviewQueue, "2", "a") is None
        assert await view.reviews.by_key(LabelSchema, "1", "A") is None


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_listings_come_in_pages_that_hold_each_one_once(store: Store, limit: int) -> None:
    """Also where many were made at the same time, and where pages are of one user or item."""
    questions = [schema(f"q{number:02}", at=number // 3) for number in range(9)]
    queues = [
        replace(queue(f"n{number:02}"), users=("ada",) if number % 2 else ("bob", "ad_"))
        for number in range(9)
    ]
    queues[4] = replace(queues[4], name="ada", schema_ids=("ada",), created_at=7)
    items = [
        replace(
            item(f"t{number:02}", at=number // 4), status="COMPLETE" if number % 3 else "PENDING"
        )
        for number in range(9)
    ]
    async with store.write() as work:
        for one in (*questions, *queues, schema("elsewhere", 1, "2"), queue("Q")):
            await work.reviews.put(one)
        held = [replace(item("held"), queue_id=one.id) for one in queues[2:6]]
        await work.reviews.put_items([*items, *held])
        await work.commit()

    async with store.read() as view:
        reviews = view.reviews

        async def walked(read: Any) -> list[Any]:
            found: list[Any] = []
            place = None
            while page := await read(after=place, limit=limit):
                assert len(page) <= limit
                found += page
                last = page[-1]
                place = last.created_at, last.item_id if hasattr(last, "item_id") else last.id
            return found

        def ordered(things: Sequence[Any]) -> list[Any]:
            return sorted(things, key=lambda one: (-one.created_at, one.id))

        assert await walked(partial(reviews.page, LabelSchema, "1")) == ordered(questions)
        assert await walked(partial(reviews.page, Issue, "1")) == []
        every = partial(reviews.queues, "1", user=None, item_id=None)
        assert await walked(every) == ordered([*queues, queue("Q")])
        of_ada = partial(reviews.queues, "1", user="ada", item_id=None)
        assert await walked(of_ada) == ordered(
            [one for one in [*queues, queue("Q")] if "ada" in one.users]
        )
        holding = partial(reviews.queues, "1", user=None, item_id="held")
        assert await walked(holding) == ordered(queues[2:6])
        both = partial(reviews.queues, "1", user="ada", item_id="held")
        assert await walked(both) == ordered([queues[3], queues[5]])
        listed = sorted(items, key=lambda one: (-one.created_at, one.item_id))
        assert await walked(partial(reviews.items, "rq-Q")) == listed
        pending = partial(reviews.items, "rq-Q", status="PENDING")
        assert await walked(pending) == [one for one in listed if one.status == "PENDING"]


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "not_counted"])
@pytest.mark.parametrize(
    ("text", "experiment_ids"),
    [
        ("", ["1"]),
        ("", ["1", "2"]),
        ("", []),
        ("status = 'pending'", ["1", "2"]),
        ("source_run_id != 'r1' AND status != 'resolved'", ["1", "2"]),
    ],
)
async def test_issues_come_in_pages_by_their_places(
    store: Store, text: str, experiment_ids: list[str], *, counted: bool
) -> None:
    issues = [
        Issue(
            id=f"iss-{number}",
            experiment_id="12"[number % 2],
            name="same",
            description="d",
            severity=(None, "low", "high")[number % 3],
            status=("pending", "resolved")[number // 3 % 2],
            source_run_id=(None, "r1", "r2")[number // 4 % 3],
            created_at=5_000_000_000 + number // 7,
            updated_at=1,
        )
        for number in range(24)
    ]
    traces = [
        Trace(
            trace_id=f"tr-{at}",
            experiment_id="1",
            requested_at=1,
            # Twice in one trace counts once.
            assessments=tuple(found_in(f"tr-{at}", f"iss-{at * 5}", n) for n in range(2)),
        )
        for at in range(4)
    ]
    async with store.write() as work:
        for one in issues:
            await work.reviews.put(one)
        await work.traces.put(traces)
        await work.commit()
    conditions = parse_filter(text, ISSUES)
    counts = {f"iss-{at * 5}": 1 for at in range(4)}
    expected = [
        replace(one, trace_count=counts.get(one.id, 0)) if counted else one
        for one in issues
        if one.experiment_id in experiment_ids and matches(issue_values(one), conditions)
    ]
    expected.sort(key=lambda one: one.place, reverse=True)
    found: list[Issue] = []
    async with store.read() as view:
        assert await view.reviews.homes_of_issues() == {"1", "2"}
        listed = partial(view.reviews.issues, experiment_ids, conditions, counted=counted, limit=5)
        while page := await listed(after=found[-1].place if found else None):
            found += page
    assert [(one.id, one.trace_count) for one in found] == [
        (one.id, one.trace_count) for one in expected
    ]
    assert found == expected


def found_in(trace_id: str, issue_id: str, number: int = 0) -> Assessment:
    return Assessment(
        assessment_id=f"a-{number}",
        trace_id=trace_id,
        name=issue_id,
        kind=AssessmentKind.ISSUE,
        value="n",
        created_at=1,
        updated_at=1,
    )


async def test_what_was_there_before_listings_had_pages_keeps_its_place(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'tracking.sqlite'}"
    await migrate(url, "tracking", revision="2026_11_27_reviews")
    config = DatabaseConfig(url=url)
    kept = queue("Q"), replace(queue("R"), created_at=8)
    async with Database(config) as database, database.engine.begin() as connection:
        # In words of then: today's tables have columns that this revision has not.
        await connection.execute(
            sa.text(
                "INSERT INTO experiments (experiment_id, name, artifact_location, stage, "
                "created_by, created_at, updated_at, etag) "
                "VALUES ('1', '1', 's3://x', 'active', 'ada', 1, 1, 'e')"
            )
        )
        for one in kept:
            values = {"id": one.id, "key": one.key, "body": orjson.dumps(asdict(one)).decode()}
            await connection.execute(
                sa.text(
                    "INSERT INTO reviews (kind, id, experiment_id, name_key, body) "
                    "VALUES ('queue', :id, '1', :key, :body)"
                ),
                values,
            )
    await migrate(url, "tracking")
    async with (
        Database(config) as database,
        SqlStore(database, InMemoryPoints()).read() as view,
    ):
        found = await view.reviews.page(ReviewQueue, "1", after=(8, kept[1].id), limit=9)
    assert found == [kept[0]]
