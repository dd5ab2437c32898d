"""What tests share: waiting, names that no other test uses, and spans to look at."""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

Value = TypeVar("Value")


@overload
async def eventually(
    check: Callable[[], Awaitable[Value]], timeout: float = 10.0, interval: float = 0.05
) -> Value: ...


@overload
async def eventually(
    check: Callable[[], Value], timeout: float = 10.0, interval: float = 0.05
) -> Value: ...


async def eventually(
    check: Callable[[], Any], timeout: float = 10.0, interval: float = 0.05
) -> Any:
    """Calls `check` until it neither raises AssertionError nor returns False or None.

    Returns what it returned. After `timeout` seconds the last assertion is raised, or one that says
    what was returned.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: AssertionError
        try:
            value = check()
            if inspect.isawaitable(value):
                value = await value
            if value is not None and value is not False:
                return value
            failure = AssertionError(f"still {value!r} after {timeout} s")
        except AssertionError as error:
            failure = error
        if time.monotonic() >= deadline:
            raise failure
        await asyncio.sleep(interval)


def unique_name(prefix: str = "t") -> str:
    """A name of lower-case letters, digits and underscores that no other test has.

    For topics, tables, catalogs.
    """
    return f"{prefix}_{uuid.uuid4().hex[:12]}"


class Spans:
    """A tracer, and the spans of it that ended."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer = provider.get_tracer("test")

    def ended(self) -> dict[str, ReadableSpan]:
        """By name; of several with one name the last."""
        return {span.name: span for span in self._kept.get_finished_spans()}

    def finished(self, count: int) -> tuple[ReadableSpan, ...] | None:
        """All of them in the order of their ends, once there are `count`."""
        spans = self._kept.get_finished_spans()
        return spans if len(spans) >= count else None
