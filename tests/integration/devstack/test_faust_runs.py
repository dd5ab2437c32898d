"""Faust with a table on the embedded broker: the stateful streams of monitoring stand on it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from devstack import Stack
from tests.helpers import unique_name

APP = Path(__file__).with_name("counting_app.py")


async def test_a_faust_table_counts_words(stack: Stack, tmp_path: Path) -> None:
    bootstrap, name = stack.urls["kafka"], unique_name("count")
    words, counts = f"{name}-words", f"{name}-counts"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1) for topic in (words, counts)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for word in (b"a", b"b", b"a", b"a"):
            await producer.send_and_wait(words, word)
    with (tmp_path / "worker.log").open("wb") as log:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, str(APP), bootstrap, name, str(tmp_path)), stdout=log, stderr=log
        )
    try:
        consumer = AIOKafkaConsumer(
            counts, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
        )
        async with consumer, asyncio.timeout(60):
            told = [await consumer.getone() for _ in range(4)]
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.wait()
    assert [(record.key, record.value) for record in told] == [
        (b"a", b"1"),
        (b"b", b"1"),
        (b"a", b"2"),
        (b"a", b"3"),
    ]
