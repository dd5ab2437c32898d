"""From an HTTP request's URL and headers to what it asks of the engine, and who asks."""

from __future__ import annotations

import base64
import binascii
import hmac
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from devstack.clickhouse.errors import AUTHENTICATION_FAILED, NOT_IMPLEMENTED, QueryError
from devstack.secrets import Credentials

# Parameters of the HTTP interface that are no settings of the engine (HTTPHandler.cpp), and
# settings that only concern the interface and are answered here.
_INTERFACE = frozenset(
    {
        "query", "user", "password", "database", "default_format", "query_id", "quota_key", "role",
        "session_id", "session_timeout", "session_check", "wait_end_of_query", "buffer_size",
        "compress", "decompress", "client_protocol_version", "enable_http_compression",
        "http_zlib_compression_level", "add_http_cors_header", "stacktrace",
        "send_progress_in_http_headers", "http_headers_progress_interval_ms", "close_session",
        "cancel_http_readonly_queries_on_client_close", "readonly", "http_wait_end_of_query",
    }
)  # fmt: skip
_DEFAULT_SESSION_SECONDS = 60.0


@dataclass(frozen=True)
class Envelope:
    """Everything of a request but its body."""

    query: str
    query_id: str
    database: str
    default_format: str
    settings: Mapping[str, str]
    parameters: Mapping[str, str]
    session_id: str | None
    session_seconds: float
    readonly: bool
    whole: bool
    """Answer only when the query has ended (`wait_end_of_query`): an error is always a status."""
    accepted_encoding: str
    content_encoding: str
    content_type: str


def read_envelope(method: str, query_string: bytes, headers: Mapping[str, str]) -> Envelope:
    """Sorts the URL's parameters into settings, query parameters and those of the interface.

    Raises:
        QueryError: a feature that this server does not have.
    """
    fields = dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True))
    for name in ("compress", "decompress"):
        if fields.get(name, "0") not in ("0", ""):
            raise QueryError.own(
                NOT_IMPLEMENTED,
                "NOT_IMPLEMENTED",
                f"{name}=1 is not supported; use the Accept-Encoding and Content-Encoding headers",
            )
    compressed = fields.get("enable_http_compression", "0") not in ("0", "false")
    return Envelope(
        query=fields.get("query", ""),
        query_id=fields.get("query_id") or str(uuid.uuid4()),
        database=fields.get("database") or headers.get("x-clickhouse-database") or "default",
        default_format=fields.get("default_format")
        or headers.get("x-clickhouse-format")
        or "TabSeparated",
        settings={
            name: value
            for name, value in fields.items()
            if name not in _INTERFACE and not name.startswith("param_")
        },
        parameters={
            name.removeprefix("param_"): value
            for name, value in fields.items()
            if name.startswith("param_")
        },
        session_id=fields.get("session_id") or None,
        session_seconds=_seconds(fields.get("session_timeout", "")),
        readonly=method in ("GET", "HEAD") or fields.get("readonly", "0") not in ("0", ""),
        whole=fields.get("wait_end_of_query", "0") not in ("0", ""),
        accepted_encoding=headers.get("accept-encoding", "") if compressed else "",
        content_encoding=headers.get("content-encoding", ""),
        content_type=headers.get("content-type", ""),
    )


def with_fields(
    envelope: Envelope, fields: Mapping[str, str], *, without: frozenset[str]
) -> Envelope:
    """The envelope with a form's fields, which may hold the query and its parameters."""
    parameters = {
        name.removeprefix("param_"): value
        for name, value in fields.items()
        if name.startswith("param_")
    }
    settings = {name: text for name, text in envelope.settings.items() if name not in without}
    return replace(
        envelope,
        query=fields.get("query", "") + envelope.query,
        parameters={**envelope.parameters, **parameters},
        settings=settings,
    )


def authenticate(query_string: bytes, headers: Mapping[str, str], credentials: Credentials) -> None:
    """Checks user and password: the X-ClickHouse headers, HTTP basic authentication, or the URL.

    Raises:
        QueryError: they are missing or wrong; the text does not say which.
    """
    user, password = _presented(query_string, headers)
    known = hmac.compare_digest(user.encode(), credentials.user.encode())
    right = hmac.compare_digest(password.encode(), credentials.secret.encode())
    if not (known and right):
        raise QueryError.own(
            AUTHENTICATION_FAILED,
            "AUTHENTICATION_FAILED",
            f"{user}: Authentication failed: password is incorrect or there is no such user",
        )


def _presented(query_string: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
    if "x-clickhouse-user" in headers:
        return headers["x-clickhouse-user"], headers.get("x-clickhouse-key", "")
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "default", ""
        return user, password
    fields = dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True))
    return fields.get("user", "default"), fields.get("password", "")


def _seconds(text: str) -> float:
    return float(text) if text.isdigit() else _DEFAULT_SESSION_SECONDS
