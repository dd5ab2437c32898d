"""Bounds of the door: what one caller, and all of them, may take of the process."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WireLimits"]


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds that hold before anybody is told apart."""

    message_bytes: int = 64 << 20
    """Largest message, both ways, also after decompression."""
    held_bytes: int = 512 << 20
    """Bytes of requests and unsent responses of all callers; beyond them calls are refused."""
    connections: int = 1024
    """Connections at once; more are closed as they come."""
    streams: int = 256
    """Calls at once on one connection, those that were cancelled and still end included."""
    header_list_bytes: int = 16 << 10
    """Headers of a call, counted as RFC 9113 does (section 6.5.2)."""
    stream_window: int = 4 << 20
    """Bytes of one call that a caller may send ahead."""
    connection_window: int = 16 << 20
    """Bytes of one connection that a caller may send ahead."""
    write_buffer: int = 1 << 20
    """Bytes that wait for a caller's socket before its responses wait instead."""
    handshake_seconds: float = 10.0
    """Until a connection has sent its preface and settings."""
    idle_seconds: float = 1800.0
    """How long a connection may be without a call, and a streamed request without a message."""
    stall_seconds: float = 60.0
    """How long a caller may leave a request unfinished, or a response unread, without a byte."""
    noise: int = 2000
    """Frames in a row that carry nothing forward: pings, settings, empty data and their like."""
    cancellations: int = 500
    """Calls that may be cancelled beyond those that are answered; 100 are forgiven each second."""
