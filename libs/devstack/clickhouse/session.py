"""One chDB connection, brought to the database and settings of each request; nothing leaks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import chdb

from devstack.clickhouse.errors import READONLY, SYNTAX_ERROR, QueryError
from devstack.clickhouse.form import ExternalTable
from devstack.clickhouse.statement import Statement

_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


@dataclass(frozen=True)
class Request:
    """What an HTTP request asks of the engine."""

    statement: Statement
    database: str
    settings: Mapping[str, str]
    parameters: Mapping[str, str]
    default_format: str
    readonly: bool
    keeps: bool = False
    """What the statement leaves on the connection stays there, for a named session."""
    tables: tuple[ExternalTable, ...] = ()
    """Tables that the request brings with it."""


@dataclass(frozen=True)
class Answer:
    """A query's whole result."""

    data: bytes
    summary: Mapping[str, int]


class Session:
    """A connection for the use of one thread."""

    def __init__(self, target: str, base_settings: Mapping[str, str]) -> None:
        self._target = target
        self._base = base_settings
        self._open()

    def _open(self) -> None:
        self._connection: Any = chdb.connect(self._target)
        self._database = "default"
        self._settings: dict[str, str] = {}
        self._connection.query(_set_statement(self._base))

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def reset(self) -> None:
        """Forgets everything that statements left on the connection."""
        self._connection.close()
        self._open()

    def query(self, request: Request) -> Answer:
        """Runs a statement and returns its whole result.

        Raises:
            QueryError: the engine refused or failed it.
        """
        with _Engine():
            self._prepare(request)
            try:
                for table in request.tables:
                    self._bring(table)
                result = self._connection.query(
                    request.statement.text.decode(errors="surrogateescape"),
                    request.default_format,
                    params=dict(request.parameters),
                )
            finally:
                if request.tables or (request.statement.changes_session and not request.keeps):
                    self.reset()
            return Answer(bytes(result.bytes()), _read_summary(result))

    def stream(self, request: Request) -> Iterator[bytes]:
        """Runs a query and yields its result block by block, each in the request's format.

        Raises:
            QueryError: the engine refused or failed it, before or between blocks.
        """
        with _Engine():
            self._prepare(request)
            text = request.statement.text.decode(errors="surrogateescape")
            parameters = dict(request.parameters)
            stream = self._connection.send_query(text, request.default_format, params=parameters)
            try:
                for block in stream:
                    yield bytes(block.bytes())
            finally:
                stream.close()

    def insert(self, request: Request, chunks: Iterator[bytes]) -> Answer:
        """Inserts the bytes of `chunks`, in the statement's format, without holding them all.

        Raises:
            QueryError: the engine refused the statement or the data.
        """
        with _Engine():
            self._prepare(request)
            parameters = {f"param_{name}": value for name, value in request.parameters.items()}
            if parameters:
                self._connection.query(_set_statement(parameters))
            text = request.statement.text.decode(errors="surrogateescape")
            try:
                inserter = self._connection.send_insert(text, request.statement.insert_format)
                with inserter:
                    for chunk in chunks:
                        inserter.append(chunk)
                    done = inserter.finish()
            finally:
                if parameters:
                    self.reset()
        written = {"written_rows": done.rows_written, "written_bytes": done.bytes_written}
        return Answer(b"", {**written, "elapsed_ns": int(done.elapsed * 1e9)})

    def _bring(self, table: ExternalTable) -> None:
        self._connection.query(f"CREATE TEMPORARY TABLE {table.name} ({table.structure})")
        statement = f"INSERT INTO {table.name}"
        with self._connection.send_insert(statement, table.format) as inserter:
            inserter.append(table.data)
            inserter.finish()

    def _prepare(self, request: Request) -> None:
        self._check(request)
        if request.database != self._database:
            self._connection.query(f"USE {_quote_identifier(request.database)}")
            self._database = request.database
        self._apply(request.settings)

    def _check(self, request: Request) -> None:
        if request.statement.insert_format is not None:
            if request.readonly:
                raise _readonly()
            return
        found = self._connection._conn.classify_query(
            request.statement.text.decode(errors="surrogateescape")
        )
        if found["statement_count"] > 1:
            raise QueryError.own(SYNTAX_ERROR, "SYNTAX_ERROR", "Multi-statements are not allowed")
        if request.readonly and found["query_class"].name != "READ_ONLY":
            raise _readonly()

    def _apply(self, wanted: Mapping[str, str]) -> None:
        """Sends only what differs from the settings of the request before, in one statement."""
        if wanted == self._settings:
            return
        changes = {
            name: value for name, value in wanted.items() if self._settings.get(name) != value
        }
        forgotten = [name for name in self._settings if name not in wanted]
        restored = {name: self._base[name] for name in forgotten if name in self._base}
        assignments = [_assignment(name, value) for name, value in {**changes, **restored}.items()]
        assignments += [f"{name} = DEFAULT" for name in forgotten if name not in self._base]
        try:
            self._connection.query(f"SET {', '.join(assignments)}")
        except chdb.ChdbError:
            self.reset()
            raise
        self._settings = dict(wanted)


class _Engine:
    """Turns the engine's errors into `QueryError`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, (chdb.ChdbError, RuntimeError)):
            raise QueryError.of_engine(error) from error


def _readonly() -> QueryError:
    return QueryError.own(
        READONLY, "READONLY", "Cannot execute query in readonly mode; send it with POST"
    )


def _set_statement(settings: Mapping[str, str]) -> str:
    return "SET " + ", ".join(_assignment(name, value) for name, value in settings.items())


def _assignment(name: str, value: str) -> str:
    if _SETTING_NAME.fullmatch(name) is None:
        raise QueryError.own(115, "UNKNOWN_SETTING", f"Unknown setting '{name}'")
    # Quoted numbers are converted where a setting is numeric.
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name} = '{escaped}'"


def _quote_identifier(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def _read_summary(result: Any) -> Mapping[str, int]:
    return {
        "read_rows": int(result.storage_rows_read()),
        "read_bytes": int(result.storage_bytes_read()),
        "result_rows": int(result.rows_read()),
        "result_bytes": int(result.bytes_read()),
        "elapsed_ns": int(result.elapsed() * 1e9),
    }
