"""Unmodified clients against every engine of the embedded stack."""

from __future__ import annotations

from urllib.parse import urlparse

import aiohttp
import clickhouse_connect
from aiobotocore.session import get_session
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from devstack import Stack
from tests.helpers import unique_name


async def test_an_object_put_is_read_back(stack: Stack) -> None:
    environment = stack.environment
    async with get_session().create_client(
        "s3",
        endpoint_url=environment["TESSERA_S3_ENDPOINT"],
        region_name=environment["TESSERA_S3_REGION"],
        aws_access_key_id=environment["TESSERA_S3_ACCESS_KEY"],
        aws_secret_access_key=environment["TESSERA_S3_SECRET_KEY"],
    ) as s3:
        bucket, key = environment["TESSERA_S3_BUCKET"], unique_name("object")
        await s3.put_object(Bucket=bucket, Key=key, Body=b"\x00bytes\xff")
        answer = await s3.get_object(Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            assert await body.read() == b"\x00bytes\xff"


async def test_produced_records_reach_a_consumer_group(stack: Stack) -> None:
    bootstrap, topic = stack.urls["kafka"], unique_name("topic")
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number in range(20):
            await producer.send_and_wait(topic, b"%d" % number, key=b"k")
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=unique_name("group"),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with consumer:
        seen = [await consumer.getone() for _ in range(20)]
        await consumer.commit()
        assert [int(record.value) for record in seen] == list(range(20))
        partition = TopicPartition(topic, seen[0].partition)
        assert await consumer.committed(partition) == 20


async def test_clickhouse_connect_inserts_and_queries(stack: Stack) -> None:
    environment = stack.environment
    url, database = urlparse(environment["TESSERA_CLICKHOUSE_URL"]), unique_name("db")
    client = await clickhouse_connect.get_async_client(
        host=url.hostname,
        port=url.port,
        username=environment["TESSERA_CLICKHOUSE_USER"],
        password=environment["TESSERA_CLICKHOUSE_PASSWORD"],
    )
    try:
        await client.command(f"CREATE DATABASE {database}")
        await client.command(
            f"CREATE TABLE {database}.t (a UInt64, b String) ENGINE = MergeTree ORDER BY a"
        )
        rows = [[number, f"row {number}"] for number in range(1000)]
        await client.insert("t", rows, column_names=["a", "b"], database=database)
        answer = await client.query(
            "SELECT sum(a), uniq(b) FROM {d:Identifier}.t", parameters={"d": database}
        )
        assert answer.result_rows == [(499500, 1000)]
    finally:
        await client.command(f"DROP DATABASE IF EXISTS {database}")
        await client.close()


async def test_triton_is_ready_and_has_the_python_backend(stack: Stack) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{stack.urls['triton_http']}/v2") as answer:
            described = await answer.json()
        async with session.post(f"{stack.urls['triton_http']}/v2/repository/index") as answer:
            assert answer.status == 200
    assert described["name"] == "triton"
