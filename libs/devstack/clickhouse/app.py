"""ClickHouse's HTTP interface as an ASGI application over chDB."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from devstack.clickhouse.body import Body, ClientDisconnectedError
from devstack.clickhouse.cancel import kill_of, killing, marked
from devstack.clickhouse.codec import decoder
from devstack.clickhouse.errors import UNKNOWN_FORMAT, QueryError
from devstack.clickhouse.form import external_tables, read_form, setting_names
from devstack.clickhouse.request import Envelope, authenticate, read_envelope, with_fields
from devstack.clickhouse.response import Response
from devstack.clickhouse.session import Answer, Request, Session
from devstack.clickhouse.statement import Statement, read_statement
from devstack.clickhouse.types import Receive, Scope, Send
from devstack.clickhouse.workers import Workers
from devstack.secrets import Credentials

Result = TypeVar("Result")

INSERT_BUFFER = 4 * 2**20
"""Bytes of an insert that are read before a thread is taken for it; a longer one is streamed."""
LARGEST_STATEMENT = 64 * 2**20
_INSERT_CHUNK = 2**20
_SERIES_OF_BLOCKS = frozenset({"native", "tabseparated", "tsv", "csv", "rowbinary", "jsoneachrow"})
"""Formats without head or foot: blocks one after another are a valid answer."""
_NOT_OF_CLICKHOUSE = frozenset({"dataframe", "datastore", "arrowtable"})
"""Names that chDB answers with Python objects."""


class ClickHouseApp:
    """Answers `/ping`, `/replicas_status` and queries on `/`."""

    def __init__(self, workers: Workers, credentials: Credentials, timezone: str) -> None:
        self._workers = workers
        self._credentials = credentials
        self._timezone = timezone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        path, query_string = scope["path"], scope["query_string"]
        if path in ("/ping", "/replicas_status") or (path == "/" and _is_greeting(scope)):
            await _ok(send)
            return
        response = Response(send, "", self._timezone, "")
        try:
            authenticate(query_string, headers, self._credentials)
            envelope = read_envelope(scope["method"], query_string, headers)
            response = Response(send, envelope.query_id, self._timezone, envelope.accepted_encoding)
            await self._answer(envelope, receive, response)
        except QueryError as error:
            await response.error(error)
        except ClientDisconnectedError:
            return

    async def _live(self, receive: Receive, send: Send) -> None:
        """Closes the engine at the end, for the server leaves with the signal that ended it."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await asyncio.to_thread(self._workers.close)
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})

    async def _answer(self, envelope: Envelope, receive: Receive, response: Response) -> None:
        body = Body(receive, decoder(envelope.content_encoding))
        if envelope.content_type.startswith("multipart/form-data"):
            await self._answer_form(envelope, body, response)
            return
        prefix = f"{envelope.query}\n".encode() if envelope.query else b""
        text = prefix + await body.read(INSERT_BUFFER)
        statement = read_statement(text)
        if statement.insert_format is None and not body.complete:
            text += await body.read(LARGEST_STATEMENT)
            if not body.complete:
                raise QueryError.own(62, "SYNTAX_ERROR", "Max query size exceeded")
            statement = read_statement(text)
        request = _make_request(envelope, statement)
        output_format = statement.output_format or envelope.default_format
        if statement.insert_format is not None:
            answer = await self._insert(envelope, request, text[statement.data_offset :], body)
            await response.whole(answer.data, output_format, answer.summary)
        elif self._may_stream(envelope, statement, output_format):
            work = self._stream(envelope, request, output_format, response)
            await _while_connected(receive, work)
        elif statement.selects:
            answer = await _while_connected(receive, self._run(envelope, request))
            await response.whole(answer.data, output_format, answer.summary)
        else:
            answer = await self._run(envelope, request)
            await response.whole(answer.data, output_format, answer.summary)

    async def _answer_form(self, envelope: Envelope, body: Body, response: Response) -> None:
        form = read_form(envelope.content_type, await body.read(LARGEST_STATEMENT))
        tables = external_tables(form, envelope.settings)
        envelope = with_fields(envelope, form.fields, without=setting_names(tables))
        statement = read_statement(envelope.query.encode())
        request = replace(_make_request(envelope, statement), tables=tables)
        answer = await _while_connected(body.receive, self._run(envelope, request))
        output_format = statement.output_format or envelope.default_format
        await response.whole(answer.data, output_format, answer.summary)

    async def _run(self, envelope: Envelope, request: Request) -> Answer:
        def job(session: Session) -> Answer:
            return session.query(request)

        if request.statement.kills:
            return await self._workers.end_others(job)
        keeps = request.statement.changes_session
        return await self._workers.run(
            *(job, envelope.session_id, keeps, envelope.session_seconds), _stop_of(envelope)
        )

    async def _insert(
        self, envelope: Envelope, request: Request, first: bytes, body: Body
    ) -> Answer:
        def job(session: Session) -> Answer:
            return session.insert(request, body.chunks(first, _INSERT_CHUNK))

        return await self._workers.run(job, envelope.session_id, False, envelope.session_seconds)

    async def _stream(
        self, envelope: Envelope, request: Request, output_format: str, response: Response
    ) -> None:
        """Sends blocks as the engine makes them.

        The engine's thread waits for the client, so that little is held in memory.
        """
        loop = asyncio.get_running_loop()

        async def send_block(block: bytes) -> None:
            if not response.started:
                await response.start_stream(output_format)
            await response.part(block)

        def job(session: Session) -> bytes:
            # The last block is kept back: an answer of one block, as most are, goes out whole.
            last = b""
            for number, block in enumerate(session.stream(request)):
                if number > 0:
                    asyncio.run_coroutine_threadsafe(send_block(last), loop).result()
                last = block
            return last

        last = await self._workers.run(
            *(job, envelope.session_id, False, envelope.session_seconds), _stop_of(envelope)
        )
        if response.started:
            await response.part(last)
            await response.finish_stream()
        else:
            await response.whole(last, output_format, {})

    @staticmethod
    def _may_stream(envelope: Envelope, statement: Statement, output_format: str) -> bool:
        known = output_format.lower() in _SERIES_OF_BLOCKS
        return statement.selects and known and not envelope.whole


def _make_request(envelope: Envelope, statement: Statement) -> Request:
    asked = (statement.output_format, statement.insert_format, envelope.default_format)
    for name in asked:
        if name is not None and name.lower() in _NOT_OF_CLICKHOUSE:
            raise QueryError.own(UNKNOWN_FORMAT, "UNKNOWN_FORMAT", f"Unknown format {name}")
    if statement.kills:
        statement = replace(statement, text=killing(statement.text))
    elif statement.insert_format is None:
        statement = replace(statement, text=marked(statement.text, envelope.query_id))
    return Request(
        statement=statement,
        database=envelope.database,
        settings=envelope.settings,
        parameters=envelope.parameters,
        default_format=envelope.default_format,
        readonly=envelope.readonly,
        keeps=envelope.session_id is not None and statement.changes_session,
    )


def _stop_of(envelope: Envelope) -> Callable[[Session], object]:
    """What ends the envelope's statement, run on another connection."""
    statement = Statement(kill_of(envelope.query_id), kills=True)
    request = Request(statement, "default", {}, {}, envelope.default_format, readonly=False)
    return lambda session: session.query(request)


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns; it is cancelled when the client goes, whose body was read whole.

    Raises:
        ClientDisconnectedError: the client went away before.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnectedError
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_greeting(scope: Mapping[str, object]) -> bool:
    return scope["method"] in ("GET", "HEAD") and not scope["query_string"]


async def _ok(send: Send) -> None:
    headers = [(b"content-type", b"text/html; charset=UTF-8"), (b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Ok.\n"})
