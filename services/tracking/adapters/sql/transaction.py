"""Transactions of the hot paths: raw statements, and on SQLite all of them in one trip.

What runs log and that they begin is most of what tracking is told. Statement by statement,
SQLAlchemy's machinery and the trips between threads cost several times what the database itself
takes for them. Values only ever travel as parameters.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from services.tracking.adapters.sql.bulk import in_blocks, insert_statements
from services.tracking.adapters.sql.log import LOG_COLUMNS, log_rows
from services.tracking.adapters.sql.metrics import KEEP_NEWER, LATEST_COLUMNS, latest_rows
from services.tracking.adapters.sql.runs import run_row
from services.tracking.adapters.sql.tables import (
    LATEST_METRICS,
    POINT_LOG,
    REQUESTS,
    RUN_INPUTS,
    RUN_PARAMS,
    RUN_TAGS,
    RUNS,
)
from services.tracking.domain.batch import Batch, Known, News
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.points import Points
from services.tracking.domain.run import DatasetInput, Run
from services.tracking.ports.transaction import Home, RequestKey
from tessera_kit.bus.event import Event
from tessera_kit.bus.tables import OUTBOX
from tessera_kit.bus.topics import REGISTRY
from tessera_kit.store.sql import checked_record, outbox_row

__all__ = ["Execute", "SqlTransaction", "in_sqlite", "on_connection"]

T = TypeVar("T")

Execute = Callable[[str, tuple[Any, ...]], Sequence[Any]]
"""Executes a statement with its parameters; returns the rows, if it yields any."""

_PAIRS: Final = ("run_no", "key", "value")
_INPUTS: Final = ("run_no", "name", "digest", "context")
_REPLACE: Final = "ON CONFLICT (run_no, key) DO UPDATE SET value = excluded.value"
_RUN_COLUMNS: Final = tuple(column.name for column in RUNS.c if column.name != "run_no")
_OUTBOX_COLUMNS: Final = ("topic", "record_key", "value", "headers")


def in_sqlite(
    connection: sqlite3.Connection, task: Callable[[SqlTransaction], T]
) -> tuple[T, SqlTransaction]:
    """Run a task in a transaction of its own, in the connection's thread."""
    transaction = SqlTransaction(
        lambda statement, values: connection.execute(statement, values).fetchall(), "sqlite"
    )
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = task(transaction)
        transaction.finish()
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return result, transaction


def on_connection(
    connection: sa.Connection, task: Callable[[SqlTransaction], T]
) -> tuple[T, SqlTransaction]:
    """Run a task in the transaction of a connection, which the caller commits."""

    def execute(statement: str, values: tuple[Any, ...]) -> Sequence[Any]:
        result = connection.exec_driver_sql(statement, values)
        return result.all() if result.returns_rows else ()

    transaction = SqlTransaction(execute, connection.dialect.name)
    result = task(transaction)
    transaction.finish()
    return result, transaction


class SqlTransaction:
    """A `Transaction` by raw statements.

    Args:
        execute: Executes them, inside the transaction.
        dialect: The database's kind.
    """

    def __init__(self, execute: Execute, dialect: str) -> None:
        self._execute = execute
        self._dialect = dialect
        # Whole rows are held; SQLite's transaction holds the whole database anyway.
        self._hold, self._share = ("", "") if dialect == "sqlite" else (" FOR UPDATE", " FOR SHARE")
        self._numbers: dict[str, int] = {}
        self._events: list[Event] = []
        self.points = 0
        """How many points were added."""

    @property
    def tells(self) -> bool:
        """Whether events were published."""
        return bool(self._events)

    def homes(self, experiment_ids: Collection[str]) -> dict[str, Home]:
        """Return where runs of experiments are kept; the experiments are held, shared."""
        rows = self._where_in(
            "SELECT experiment_id, stage, artifact_location FROM experiments "
            "WHERE experiment_id IN ({}) AND stage <> 'purging' ORDER BY experiment_id",
            sorted(experiment_ids),
            self._share,
        )
        return {found: Home(LifecycleStage(stage), location) for found, stage, location in rows}

    def result_of(self, request: RequestKey) -> str | None:
        """Return the id of what a request created; None when it created nothing yet."""
        rows = self._run(
            "SELECT resource_id FROM requests "
            "WHERE principal = ? AND method = ? AND request_id = ?",
            (request.principal, request.method, request.request_id),
        )
        return rows[0][0] if rows else None

    def claim(self, request: RequestKey, resource_id: str) -> str | None:
        """Note that a request creates a resource; return what it created before."""
        row = (request.principal, request.method, request.request_id, resource_id)
        suffix = "ON CONFLICT DO NOTHING RETURNING resource_id"
        made = self._insert(REQUESTS, [column.name for column in REQUESTS.c], [row], suffix)
        return None if made else self.result_of(request)

    def add_runs(self, runs: Sequence[Run]) -> None:
        """Store new runs with their tags."""
        rows = []
        for run in runs:
            values = run_row(run.info)
            rows.append(tuple(values[column] for column in _RUN_COLUMNS))
        numbers = self._insert(RUNS, _RUN_COLUMNS, rows, "RETURNING run_id, run_no")
        self._numbers.update((run_id, run_no) for run_id, run_no in numbers)
        tags = [
            (self._numbers[run.info.run_id], key, value)
            for run in runs
            for key, value in run.tags.items()
        ]
        self._insert(RUN_TAGS, _PAIRS, sorted(tags))

    def lock(self, run_ids: Collection[str]) -> dict[str, LifecycleStage]:
        """Return the stages of the runs that there are, held until the transaction ends."""
        rows = self._where_in(
            "SELECT run_id, run_no, stage FROM runs "
            "WHERE run_id IN ({}) AND stage <> 'purging' ORDER BY run_no",
            sorted(run_ids),
            self._hold,
        )
        self._numbers.update((run_id, run_no) for run_id, run_no, _ in rows)
        return {run_id: LifecycleStage(stage) for run_id, _, stage in rows}

    def known(self, batches: Sequence[Batch]) -> dict[str, Known]:
        """Return what locked runs have of what batches name."""
        known = {batch.run_id: Known() for batch in batches}
        run_ids = {self._numbers[run_id]: run_id for run_id in known}
        params = [(self._numbers[b.run_id], key) for b in batches for key in b.params]
        tags = [(self._numbers[b.run_id], key) for b in batches for key in b.tags]
        for run_no, key, value in self._pairs(RUN_PARAMS, params):
            known[run_ids[run_no]].params[key] = value
        for run_no, key, value in self._pairs(RUN_TAGS, tags):
            known[run_ids[run_no]].tags[key] = value
        with_inputs = {self._numbers[b.run_id] for b in batches if b.inputs}
        rows = self._where_in(
            f"SELECT {', '.join(_INPUTS)} FROM run_inputs WHERE run_no IN ({{}})",  # noqa: S608
            sorted(with_inputs),
        )
        for run_no, *values in rows:
            known[run_ids[run_no]].inputs.add(DatasetInput(*values))
        return known

    def log(self, news: Mapping[str, Sequence[News]], etags: Mapping[str, str]) -> None:
        """Store what is new to locked runs, and the new etags of those runs."""
        params: dict[tuple[int, str], str] = {}
        tags: dict[tuple[int, str], str] = {}
        inputs: set[tuple[Any, ...]] = set()
        for run_id, entries in news.items():
            run_no = self._numbers[run_id]
            for entry in entries:
                params.update(((run_no, key), value) for key, value in entry.params.items())
                tags.update(((run_no, key), value) for key, value in entry.tags.items())
                inputs.update((run_no, *one) for one in entry.inputs)
        self._insert(RUN_PARAMS, _PAIRS, _flat(params))
        self._insert(RUN_TAGS, _PAIRS, _flat(tags), _REPLACE)
        self._insert(RUN_INPUTS, _INPUTS, sorted(inputs))
        for run_id, etag in etags.items():
            self._run("UPDATE runs SET etag = ? WHERE run_no = ?", (etag, self._numbers[run_id]))

    def add_points(self, points: Mapping[str, Points]) -> None:
        """Store points of locked runs and note what is new of each metric."""
        latest = latest_rows(points, self._numbers)
        self._insert(LATEST_METRICS, LATEST_COLUMNS, latest, KEEP_NEWER)
        self._insert(POINT_LOG, LOG_COLUMNS, log_rows(points, self._numbers))
        self.points += sum(len(added) for added in points.values())

    def publish(self, event: Event) -> None:
        """Tell an event with the commit."""
        self._events.append(event)

    def finish(self) -> None:
        """Write the events down: last, when all that they tell of is locked."""
        rows = []
        for event in self._events:
            row = outbox_row(checked_record(event, REGISTRY))
            rows.append(tuple(row[column] for column in _OUTBOX_COLUMNS))
        self._insert(OUTBOX, _OUTBOX_COLUMNS, rows)

    def _pairs(self, table: sa.Table, wanted: Sequence[tuple[int, str]]) -> list[Any]:
        rows: list[Any] = []
        # A row may lie under a key that another run asked for; the caller keeps what it named.
        for part in in_blocks(wanted):
            numbers = sorted({run_no for run_no, _ in part})
            keys = sorted({key for _, key in part})
            rows += self._run(
                f"SELECT run_no, key, value FROM {table.name} "  # noqa: S608
                f"WHERE run_no IN ({_marks(numbers)}) AND key IN ({_marks(keys)})",
                (*numbers, *keys),
            )
        return rows

    def _where_in(self, statement: str, values: Sequence[Any], suffix: str = "") -> list[Any]:
        rows: list[Any] = []
        for part in in_blocks(values):
            rows += self._run(statement.format(_marks(part)) + suffix, tuple(part))
        return rows

    def _insert(
        self,
        table: sa.Table,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
        suffix: str = "",
    ) -> list[Any]:
        yielded: list[Any] = []
        for statement, values in insert_statements(
            self._dialect, table, columns, rows, suffix=suffix
        ):
            yielded += self._execute(statement, values)
        return yielded

    def _run(self, statement: str, values: tuple[Any, ...]) -> Sequence[Any]:
        if self._dialect == "postgresql":
            statement = _numbered(statement)
        return self._execute(statement, values)


def _flat(values: Mapping[tuple[int, str], str]) -> list[tuple[int, str, str]]:
    return sorted((run_no, key, value) for (run_no, key), value in values.items())


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


@lru_cache(maxsize=256)
def _numbered(statement: str) -> str:
    """Return a statement with PostgreSQL's parameters in place of SQLite's."""
    first, *others = statement.split("?")
    return first + "".join(f"${at}{text}" for at, text in enumerate(others, 1))
