"""Answers in the form of ClickHouse's HTTP interface."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping

from devstack.clickhouse.codec import SMALLEST_COMPRESSED, Encoder, choose_encoding
from devstack.clickhouse.errors import QueryError
from devstack.clickhouse.types import Send

_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8; header=present",
    "TabSeparatedWithNamesAndTypes": "text/tab-separated-values; charset=UTF-8; header=present",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
    "Parquet": "application/octet-stream",
}
_SUMMARY = (
    "read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read",
    "result_rows", "result_bytes", "elapsed_ns",
)  # fmt: skip
VERSION_SUFFIX = " (version 26.9.2.1 (official build))"


class Response:
    """One answer: headers first, then data, compressed where the client asked for it."""

    def __init__(self, send: Send, query_id: str, timezone: str, accepted_encoding: str) -> None:
        self._send = send
        self._accepted = accepted_encoding
        self._encoder: Encoder | None = None
        self._tag = secrets.token_hex(8)
        self._headers = {
            "X-ClickHouse-Server-Display-Name": "tessera",
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Timezone": timezone,
            "X-ClickHouse-Exception-Tag": self._tag,
        }
        self.started = False

    async def whole(self, data: bytes, output_format: str, summary: Mapping[str, int]) -> None:
        """Sends an answer that is known in full."""
        if len(data) >= SMALLEST_COMPRESSED:
            self._choose_encoder()
        if self._encoder:
            data = self._encoder.encode(data) + self._encoder.finish()
        headers = {"Content-Length": str(len(data))}
        await self._start(200, {**headers, **self._describe(output_format, summary)})
        await self._send({"type": "http.response.body", "body": data})

    async def start_stream(self, output_format: str) -> None:
        """Sends the headers of an answer whose parts follow."""
        self._choose_encoder()
        await self._start(200, self._describe(output_format, {}))

    async def part(self, data: bytes) -> None:
        """Sends the next part of a streamed answer."""
        data = self._encoder.encode(data) if self._encoder else data
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish_stream(self) -> None:
        """Ends a streamed answer."""
        rest = self._encoder.finish() if self._encoder else b""
        await self._send({"type": "http.response.body", "body": rest})

    async def error(self, error: QueryError) -> None:
        """Sends an error.

        It is a status where nothing was sent yet, else part of the body, marked with the exception
        tag.
        """
        text = f"{error}{VERSION_SUFFIX}\n".encode()
        if self.started:
            marked = f"{len(text)} {self._tag}\r\n__exception__\r\n".encode()
            await self.part(b"\r\n__exception__\r\n" + self._tag.encode() + b"\r\n" + text + marked)
            await self.finish_stream()
            return
        headers = {
            "Content-Type": "text/plain; charset=UTF-8",
            "Content-Length": str(len(text)),
            "X-ClickHouse-Exception-Code": str(error.code),
        }
        await self._start(error.status, headers)
        await self._send({"type": "http.response.body", "body": text})

    def _choose_encoder(self) -> None:
        encoding = choose_encoding(self._accepted)
        self._encoder = Encoder(encoding) if encoding else None

    def _describe(self, output_format: str, summary: Mapping[str, int]) -> dict[str, str]:
        known = {name: str(summary.get(name, 0)) for name in _SUMMARY}
        headers = {
            "Content-Type": _CONTENT_TYPES.get(output_format, "text/plain; charset=UTF-8"),
            "X-ClickHouse-Format": output_format,
            "X-ClickHouse-Summary": json.dumps(known, separators=(",", ":")),
        }
        if self._encoder:
            headers["Content-Encoding"] = self._encoder.encoding
        return headers

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        pairs = [
            (name.lower().encode(), value.encode("latin-1", "replace"))
            for name, value in {**self._headers, **headers}.items()
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})
