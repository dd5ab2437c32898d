"""The head of a call: its headers, checked (gRPC over HTTP2, RFC 9113 section 8)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, TypeAlias

import grpc

from services.inference.adapters.wire.frames import RawHeaders

__all__ = ["CallHead", "MalformedHead", "Metadata", "are_trailers", "read_head"]

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_NAME: Final = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(rb"[^\0\r\n]*")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_FORBIDDEN: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_OWN: Final = frozenset(
    {b"te", b"content-type", b"content-length", b"grpc-timeout", b"grpc-encoding"}
    | {b"grpc-accept-encoding", b"host"}
)
"""Headers that are the transport's, and not the call's metadata."""
ENCODINGS: Final = frozenset({"identity", "gzip", "deflate"})


class MalformedHead(Exception):
    """The headers are no request of HTTP/2: the stream is reset."""


class CallHead:
    """What the headers of a call say. One object may stand for many calls."""

    __slots__ = ("encoding", "failure", "http_status", "length", "metadata", "path", "timeout")

    def __init__(self) -> None:
        self.path = ""
        self.metadata: Metadata = ()
        self.timeout: float | None = None
        """Seconds that the caller gives; None without an end."""
        self.encoding = "identity"
        """How the messages that are marked so are compressed."""
        self.length: int | None = None
        """Bytes of the body, when the caller declares them."""
        self.http_status = 0
        """Not 0 for what is HTTP/2 and not gRPC: the status that it is answered with."""
        self.failure: tuple[grpc.StatusCode, str] | None = None
        """Why the call cannot begin."""


def read_head(headers: RawHeaders) -> CallHead:
    """Read the headers of a call.

    Raises:
        MalformedHead: They are no request of HTTP/2.
    """
    pseudo: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    head = CallHead()
    metadata: list[tuple[str, str | bytes]] = []
    regular = False
    for name, value in headers:
        if name[:1] == b":":
            if regular or name not in _PSEUDO or name in pseudo:
                raise MalformedHead(f"the pseudo-header {name!r}")
            pseudo[name] = value
            continue
        regular = True
        if name in _FORBIDDEN or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise MalformedHead(f"the header {name!r}")
        if name in _OWN:
            own[name] = value
        else:
            metadata.append(_entry(head, name, value))
    head.metadata = tuple(metadata)
    _read_pseudo(head, pseudo)
    _read_own(head, own)
    return head


def are_trailers(headers: RawHeaders) -> bool:
    """Whether headers may end a request: names and values are well formed, none is a pseudo-header.

    What they say has no meaning in gRPC.
    """
    return all(
        _NAME.fullmatch(name) and _VALUE.fullmatch(value) and name not in _FORBIDDEN
        for name, value in headers
    )


def _entry(head: CallHead, name: bytes, value: bytes) -> tuple[str, str | bytes]:
    key = name.decode("ascii")
    if not key.endswith("-bin"):
        return key, value.decode("utf-8", "replace")
    try:
        parts = [
            base64.b64decode(part.strip() + b"=" * (-len(part.strip()) % 4), validate=True)
            for part in value.split(b",")
        ]
    except (binascii.Error, ValueError):
        head.failure = (grpc.StatusCode.INTERNAL, f"the metadata {key!r} is not base64")
        return key, b""
    return key, b"".join(parts)


def _read_pseudo(head: CallHead, pseudo: dict[bytes, bytes]) -> None:
    path = pseudo.get(b":path", b"")
    if (
        b":method" not in pseudo
        or pseudo.get(b":scheme") not in (b"http", b"https")
        or not path.startswith(b"/")
        or not path.isascii()
    ):
        raise MalformedHead("a request without method, scheme or path")
    head.path = path.decode("ascii")
    if pseudo[b":method"] != b"POST":
        head.http_status = 405


def _read_own(head: CallHead, own: dict[bytes, bytes]) -> None:
    if own.get(b"te", b"trailers") != b"trailers":
        raise MalformedHead("the header te")
    kind = own.get(b"content-type", b"")
    if kind[:16] != b"application/grpc" or kind[16:17] not in (b"", b"+", b";"):
        head.http_status = head.http_status or 415
    length = own.get(b"content-length")
    if length is not None:
        if not length.isdigit() or len(length) > 18:
            raise MalformedHead("the header content-length")
        head.length = int(length)
    timeout = own.get(b"grpc-timeout")
    if timeout is not None:
        found = _TIMEOUT.fullmatch(timeout)
        if found is None:
            head.failure = (grpc.StatusCode.INTERNAL, "the header grpc-timeout is malformed")
        else:
            head.timeout = int(found[1]) * _UNITS[found[2]]
    head.encoding = own.get(b"grpc-encoding", b"identity").decode("ascii", "replace")
    if head.encoding not in ENCODINGS:
        head.failure = (
            grpc.StatusCode.UNIMPLEMENTED,
            f"messages compressed with {head.encoding[:32]!r} are not taken here",
        )
