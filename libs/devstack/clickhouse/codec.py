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
        stream = zlib.compressobj(3, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
        encoders: dict[str, Callable[[bytes], bytes]] = {
            "gzip": stream.compress,
            "deflate": stream.compress,
            "lz4": lz4.frame.compress,
            "zstd": lambda chunk: zstd.compress(chunk, 1),
        }
        self._encode = encoders[encoding]
        self._flush = stream.flush if encoding in ("gzip", "deflate") else bytes

    def encode(self, chunk: bytes) -> bytes:
        """The bytes to send for `chunk`; lz4 and zstd make a frame of each."""
        return self._encode(chunk)

    def finish(self) -> bytes:
        """The last bytes of the answer."""
        return self._flush()


def choose_encoding(accepted: str) -> str | None:
    """The first encoding of an Accept-Encoding header that is cheap to make, if any."""
    offered = [part.split(";")[0].strip().lower() for part in accepted.split(",")]
    return next((name for name in offered if name in ("lz4", "zstd", "gzip", "deflate")), None)


def _undecodable(message: str) -> QueryError:
    return QueryError.own(354, "CANNOT_DECOMPRESS", f"Cannot decode the request body: {message}")
