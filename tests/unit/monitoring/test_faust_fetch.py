"""Faust's consumer waits for records as long as the platform says."""

from __future__ import annotations

import asyncio

import faust

from services.monitoring.adapters.faust_fetch import fetch_within


async def test_a_fetch_waits_as_long_as_is_said() -> None:
    application = faust.App(
        "waiting",
        broker="kafka://127.0.0.1:1",
        loop=asyncio.get_running_loop(),
        web_enabled=False,
    )
    fetch_within(application, 0.25)
    thread = application._new_consumer()._thread
    made = thread._create_worker_consumer(application.transport)
    thread.thread_loop.close()
    await made.stop()
    assert made._fetch_max_wait_ms == 250
