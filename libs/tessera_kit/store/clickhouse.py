"""ClickHouse over HTTP: bound parameters, quoted names, streams, inserts that may be repeated."""

from __future__ import annotations

import asyncio
import re
import struct
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
import clickhouse_connect
from clickhouse_connect.datatypes.base import ClickHouseType
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError as DriverError
from clickhouse_connect.driver.insert import InsertContext

from tessera_kit.config import ClickHouseConfig, ConfigError
from tessera_kit.ids import new_id
from tessera_kit.store.clickhouse_errors import (
    ClickHouseUnavailable,
    QueryRejected,
    translated,
)
from tessera_kit.telemetry import names
from tessera_kit.telemetry.metrics import histogram

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ClickHouse", "QueryResult", "qualified_name", "quote_identifier"]

Parameters = Mapping[str, Any]
Settings = Mapping[str, str | int | float | bool]

_TYPES_SECONDS = 30.0
_PLACEHOLDER = re.compile(r"\{(\w+):")


@dataclass(frozen=True, slots=True)
class QueryResult:
    """A whole result."""

    column_names: tuple[str, ...]
    """One per column."""
    rows: Sequence[Sequence[Any]]
    """Row by row; times are aware, in UTC."""

    def dicts(self) -> list[dict[str, Any]]:
        """The rows by column name."""
        return [dict(zip(self.column_names, row, strict=True)) for row in self.rows]


def quote_identifier(name: str) -> str:
    """A name as SQL takes it in any place where a name may stand.

    Raises:
        ValueError: It is empty or holds NUL.
    """
    if not name or "\0" in name:
        raise ValueError("an identifier must not be empty or hold NUL")
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def qualified_name(*parts: str) -> str:
    """Quoted names joined by dots, as of a database and its table.

    Raises:
        ValueError: As for `quote_identifier`.
    """
    return ".".join(quote_identifier(part) for part in parts)


class _Target(NamedTuple):
    table: str
    columns: tuple[str, ...]


class _Types(NamedTuple):
    until: float
    types: tuple[ClickHouseType, ...]


class ClickHouse:
    """A pool of connections to one server; safe for concurrent use.

    It connects when it is first used and again after an outage. Values reach the server only as
    parameters, `{name:Type}` in the SQL, or as inserted data; names go through `quote_identifier`.

    Args:
        config: Where, who, and the database that unqualified names mean; it need not exist yet.
        connections: Most requests under way at once.
        timeout_seconds: Longest silence of the server during a request.
    """

    def __init__(
        self, config: ClickHouseConfig, *, connections: int = 16, timeout_seconds: float = 300.0
    ) -> None:
        url = urlsplit(config.url)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ConfigError("the ClickHouse URL must be http://host:port or https://host:port")
        self._config = config
        self._host = url.hostname
        self._port = url.port or (8443 if url.scheme == "https" else 8123)
        self._secure = url.scheme == "https"
        self._connections = connections
        self._timeout_seconds = timeout_seconds
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()
        self._column_types: dict[_Target, _Types] = {}

    @property
    def database(self) -> str:
        """The database that unqualified names mean."""
        return self._config.database

    async def start(self) -> None:
        """Connect now rather than with the first request.

        Raises:
            ClickHouseUnavailable: The server does not answer.
        """
        await self._connected()

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def query(
        self, sql: str, parameters: Parameters | None = None, settings: Settings | None = None
    ) -> QueryResult:
        """The whole result of a SELECT.

        Args:
            sql: With `{name:Type}` for each value, as `WHERE day >= {first:Date}`.
            parameters: Values by name.
            settings: ClickHouse settings of this query.

        Raises:
            ClickHouseUnavailable: The server does not answer, or is too busy.
            QueryRejected: The SQL or a value is wrong.
            TableNotFound: There is no such table or database.
            QueryTooLarge: It needs more memory or time than it may have.
        """
        bound = _bound(sql, parameters)
        with _timed("query"):
            client = await self._connected()
            result = await client.query(sql, parameters=bound, settings=_plain(settings))
        return QueryResult(tuple(result.column_names), result.result_rows)

    async def stream_arrow(
        self, sql: str, parameters: Parameters | None = None, settings: Settings | None = None
    ) -> AsyncIterator[pa.RecordBatch]:
        """The result of a SELECT as Arrow batches, as they arrive; otherwise as `query`."""
        bound = _bound(sql, parameters)
        with _timed("stream"):
            client = await self._connected()
            async with await client.query_arrow_stream(
                sql, parameters=bound, settings=_plain(settings), use_strings=True
            ) as batches:
                async for batch in batches:
                    yield batch

    async def stream_bytes(
        self,
        sql: str,
        parameters: Parameters | None = None,
        settings: Settings | None = None,
        *,
        format: str,  # ClickHouse's own word
    ) -> AsyncIterator[bytes]:
        """The result of a SELECT in a format of ClickHouse's, in pieces, as they arrive.

        A server that fails midway ends the bytes early: choose a format whose end can be told.
        """
        bound = _bound(sql, parameters)
        with _timed("stream"):
            client = await self._connected()
            async with await client.raw_stream(
                sql, parameters=bound, settings=_plain(settings), fmt=format
            ) as pieces:
                async for piece in pieces:
                    yield piece

    async def command(
        self,
        sql: str,
        parameters: Parameters | None = None,
        settings: Settings | None = None,
        *,
        use_database: bool = True,
    ) -> None:
        """Run a statement that has no result, as DDL. Arguments and errors as `query`.

        Args:
            sql: The statement.
            parameters: Values by name.
            settings: ClickHouse settings of this statement.
            use_database: False where the configured database need not exist, as to create it.
        """
        bound = _bound(sql, parameters)
        with _timed("command"):
            client = await self._connected()
            await client.command(
                sql, parameters=bound, settings=_plain(settings), use_database=use_database
            )

    async def insert(
        self,
        table: str,
        rows: Sequence[Sequence[Any]],
        column_names: Sequence[str],
        database: str | None = None,
        deduplication_token: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Insert rows; all of them are durable when it returns.

        Args:
            table: Name of the table, unquoted.
            rows: One sequence of values per row, in the order of `column_names`.
            column_names: The columns given; others take their defaults.
            database: Where the table is; the configured database when None.
            deduplication_token: The server passes over a second insert of one token, in tables with
                a `non_replicated_deduplication_window` (or replicated): with it a failed insert may
                be repeated.
            settings: ClickHouse settings of this insert.

        Raises:
            ClickHouseUnavailable: It may or may not have happened.
            QueryRejected: A value does not fit its column; nothing was inserted.
            TableNotFound: There is no such table.
        """
        if not rows:
            return
        with _timed("insert"):
            client = await self._connected()
            target = _Target(
                # Quoted here: the driver takes a dot in a name for one between two.
                qualified_name(database or self._config.database, table),
                tuple(column_names),
            )
            try:
                context = await self._insert_context(client, target)
                context.settings = _insert_settings(deduplication_token, settings)
                context.data = rows
                await client.data_insert(context)
            except (ValueError, TypeError, AttributeError, LookupError, struct.error) as error:
                raise QueryRejected(f"a row does not fit {table}: {error}") from error
            except DriverError:
                # The table may have changed since its types were read.
                self._column_types.pop(target, None)
                raise

    async def insert_bytes(
        self,
        table: str,
        column_names: Sequence[str],
        data: bytes | memoryview,
        *,
        format: str,
        database: str | None = None,
        deduplication_token: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Insert data in one of ClickHouse's formats, as `ArrowStream`; else as `insert`.

        Args:
            table: Name of the table, unquoted.
            column_names: The columns given; others take their defaults.
            data: Rows in the format.
            format: Its name.
            database: Where the table is; the configured database when None.
            deduplication_token: As of `insert`.
            settings: ClickHouse settings of this insert.
        """
        name = qualified_name(database or self._config.database, table)
        columns = ", ".join(map(quote_identifier, column_names))
        # The driver joins bytes to the statement, a copy of all of them, and sends a view as it is.
        block: Any = memoryview(data)
        with _timed("insert"):
            client = await self._connected()
            await client.raw_insert(
                f"{name} ({columns})",
                insert_block=block,
                settings=_insert_settings(deduplication_token, settings),
                fmt=format,
            )

    async def _insert_context(self, client: AsyncClient, target: _Target) -> InsertContext:
        """What the driver needs to write rows; the types are asked for now and then."""
        known = self._column_types.get(target)
        if known is not None and known.until > time.monotonic():
            return await client.create_insert_context(*target, column_types=known.types)
        context = await client.create_insert_context(*target)
        self._column_types[target] = _Types(
            time.monotonic() + _TYPES_SECONDS, tuple(context.column_types)
        )
        return context

    async def _connected(self) -> AsyncClient:
        if self._client is not None:
            return self._client
        async with self._connecting:
            if self._client is None:
                client = await clickhouse_connect.get_async_client(
                    host=self._host,
                    port=self._port,
                    secure=self._secure,
                    username=self._config.user,
                    password=self._config.password.reveal(),
                    connector_limit=self._connections,
                    connector_limit_per_host=self._connections,
                    send_receive_timeout=self._timeout_seconds,
                    tz_mode="aware",
                    # Compression costs more than loopback or a data centre's network.
                    compress=False,
                    client_name="tessera",
                    autogenerate_session_id=False,
                )
                # Set afterwards: connecting fails where the database does not exist yet.
                client.database = self._config.database
                self._client = client
            return self._client


@contextmanager
def _timed(operation: str) -> Iterator[None]:
    """Time an operation and turn what the driver raises into errors of ours."""
    began = time.perf_counter()
    try:
        yield
    except DriverError as error:
        raise translated(error) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ClickHouseUnavailable(
            f"ClickHouse does not answer: {type(error).__name__}"
        ) from error
    finally:
        histogram(names.CLICKHOUSE_DURATION).labels("clickhouse", operation).observe(
            time.perf_counter() - began
        )


def _bound(sql: str, parameters: Parameters | None) -> dict[str, Any] | None:
    """The parameters, seen to be bound by the server and not pasted into the text."""
    if not parameters:
        return None
    unknown = set(parameters) - set(_PLACEHOLDER.findall(sql))
    if unknown:
        raise ValueError(f"the SQL has no {{name:Type}} for {', '.join(sorted(unknown))}")
    return dict(parameters)


def _plain(settings: Settings | None) -> dict[str, Any]:
    return dict(settings or {})


def _insert_settings(token: str | None, settings: Settings | None) -> dict[str, Any]:
    # The driver repeats an insert when a kept connection turns out to be closed, so each has a
    # token.
    return {**(settings or {}), "insert_deduplication_token": token or new_id()}
