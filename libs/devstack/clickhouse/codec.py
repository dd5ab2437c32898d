"""Content encodings of ClickHouse's HTTP interface: gzip, deflate, br, zstd and lz4 frames."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import brotli
import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from devstack.clickhouse.errors import UNKNOWN_COMPRESSION_METHOD, QueryError

SMALLEST_COMPRESSED = 1024
"""Bytes below which an answer is sent as it is."""
LARGEST_CHUNK = 2**20


class Decoder(Protocol):
    """Turns the bytes of a request body into data, chunk by chunk."""

    def decode(self, chunk: bytes) -> bytes:
        """The data that became available with `chunk`."""
        ...


class _Identity:
    def decode(self, chunk: bytes) -> bytes:
        return chunk


class _Frames:
    """gzip, deflate, lz4 and zstd: any number of frames, one after another."""

    def __init__(self, make: Callable[[], Any], errors: tuple[type[Exception], ...]) -> None:
        self._make = make
        self._errors = errors
        self._inner = make()

    def decode(self, chunk: bytes) -> bytes:
        parts = []
        try:
            while chunk:
                if self._inner.eof:
                    self._inner = self._make()
                parts.append(self._inner.decompress(chunk))
                chunk = self._inner.unused_data if self._inner.eof else b""
        except self._errors as error:
            raise _undecodable(str(error)) from error
        return b"".join(parts)


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    def decode(self, chunk: bytes) -> bytes:
        try:
            return bytes(self._inner.process(chunk))
        except brotli.error as error:
            raise _undecodable(str(error)) from error


def decoder(encoding: str) -> Decoder:
    """The decoder for a Content-Encoding header.

    Raises:
        QueryError: the encoding is unknown.
    """
    makers: dict[str, Callable[[], Decoder]] = {
        "": _Identity,
        "identity": _Identity,
        "gzip": lambda: _Frames(lambda: zlib.decompressobj(31), (zlib.error,)),
        "deflate": lambda: _Frames(lambda: zlib.decompressobj(47), (zlib.error,)),
        "lz4": lambda: _Frames(lz4.frame.LZ4FrameDecompressor, (RuntimeError, EOFError)),
        "zstd": lambda: _Frames(zstd.ZstdDecompressor, (zstd.ZstdError,)),
        "br": _Brotli,
    }
    make = makers.get(encoding.strip().lower())
    if make is None:
        raise QueryError.own(
            UNKNOWN_COMPRESSION_METHOD,
            "UNKNOWN_COMPRESSION_METHOD",
            f"Unknown compression method: {encoding}",
        )
    return make()


class Encoder:
    """Compresses an answer whose parts are sent as they come."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self._gzip = None
        if encoding in ("gzip", "deflate"):
            self._gzip = zlib.compressobj(3, zlib.DEFLATED, 31 if encoding == "gzip" else 15)

    def encode(self, chunk: bytes) -> bytes:
        """The bytes to send for `chunk`; lz4 and zstd make a frame of each."""
        if self.encoding == "lz4":
            return bytes(lz4.frame.compress(chunk))
        if self.encoding == "zstd":
            return zstd.compress(chunk, 1)
        assert self._gzip is not None  # noqa: S101 - the constructor made it for every other encoding
        return self._gzip.compress(chunk)

    def finish(self) -> bytes:
        """The last bytes of the answer."""
        return self._gzip.flush() if self._gzip else b""


def choose_encoding(accepted: str) -> str | None:
    """The first encoding of an Accept-Encoding header that is cheap to make; None to send data as it is."""
    offered = [part.split(";")[0].strip().lower() for part in accepted.split(",")]
    return next((name for name in offered if name in ("lz4", "zstd", "gzip", "deflate")), None)


def _undecodable(message: str) -> QueryError:
    return QueryError.own(354, "CANNOT_DECOMPRESS", f"Cannot decode the request body: {message}")
