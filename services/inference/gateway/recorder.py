"""Keeps one payload record of every request, before its reply leaves."""

from __future__ import annotations

from time import perf_counter_ns

from services.inference.errors import SpoolFull
from services.inference.gateway.metrics import GatewayMetrics
from services.inference.gateway.records import (
    Exchange,
    answering_note_of,
    asking_note_of,
    begun_record_of,
    make_head,
    record_of,
)
from services.inference.gateway.routing import RouteTable
from services.inference.ports import Capture

__all__ = ["Recorder"]


class Recorder:
    """Turns exchanges that have ended into records of the capture.

    Args:
        capture: Keeps the records.
        routes: Tells which names are endpoints, as each has a table.
        metrics: Where records that are not kept are counted.
    """

    def __init__(self, capture: Capture, routes: RouteTable, metrics: GatewayMetrics) -> None:
        self._capture = capture
        self._routes = routes
        self._metrics = metrics
        self._begun: set[str] = set()

    def prepare(self, exchange: Exchange) -> None:
        """Do what can be done of a record while the model computes, if the exchange is kept."""
        if not _is_sampled_out(exchange):
            make_head(exchange)

    def begin(self, exchange: Exchange) -> None:
        """Note an answer in parts before its model is asked; `keep` and `end` follow.

        Raises:
            SpoolFull: There is no room; nothing was noted.
        """
        route = exchange.route
        if route is None or _is_sampled_out(exchange):
            return
        try:
            self._capture.begin(exchange.request_id, begun_record_of(exchange))
        except SpoolFull:
            if not route.counts_losses:
                raise
            return
        self._begun.add(exchange.request_id)

    def note_asking(self, exchange: Exchange) -> None:
        """Add to the note which entity is asked now."""
        if exchange.request_id in self._begun:
            self._capture.add(exchange.request_id, asking_note_of(exchange))

    def note_answering(self, exchange: Exchange) -> None:
        """Add to the note that the first part is there, before it leaves."""
        if exchange.request_id in self._begun:
            self._capture.add(exchange.request_id, answering_note_of(exchange))

    def end(self, exchange: Exchange) -> None:
        """Forget that an answer has begun, in the same step as it was kept."""
        if exchange.request_id in self._begun:
            self._begun.discard(exchange.request_id)
            self._capture.end(exchange.request_id)

    def keep(self, exchange: Exchange, reply: bytes, status: int, message: str) -> None:
        """Keep an exchange.

        Args:
            exchange: Of an endpoint.
            reply: The response; empty on failure.
            status: Its gRPC status code.
            message: Public text of the failure; empty on success.

        Raises:
            SpoolFull: There is no room; nothing was kept.
        """
        route = exchange.route
        if _is_sampled_out(exchange):
            self._metrics.sampled_out.inc()
            return
        record = record_of(exchange, reply, status, message)
        exchange.spool_began = perf_counter_ns()
        try:
            self._capture.append(*record)
        except SpoolFull:
            if route is None or not route.counts_losses:
                raise
            self._metrics.lost.inc()
            return
        exchange.spool_ended = perf_counter_ns()

    def keep_failure(
        self, exchange: Exchange, status: int, message: str, reply: bytes = b""
    ) -> None:
        """Keep an exchange that failed; one that names no endpoint has no table to go to.

        Args:
            exchange: Which.
            status: Its gRPC status code.
            message: Public text of the failure.
            reply: What its caller had got of a stream.
        """
        if not self._routes.knows(exchange.endpoint):
            return
        try:
            self.keep(exchange, reply, status, message)
        except SpoolFull:
            self._metrics.unlogged.inc()


def _is_sampled_out(exchange: Exchange) -> bool:
    """Whether a request is not kept: by the random part of its id, which its mirrors have too."""
    route = exchange.route
    if route is None or route.sampled >= 1.0:
        return False
    return int(exchange.request_id[24:36], 16) >= route.sampled * (1 << 48)
