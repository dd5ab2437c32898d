"""kill -9 of each engine: it comes back on the same port with everything it acknowledged."""

from __future__ import annotations

import base64
import json

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from devstack import Stack
from devstack.triton import regions, shared_memory_prefix
from tests.helpers import eventually, unique_name
from tests.integration.devstack.clients import clickhouse_client, s3_client

ECHO_MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(request, "IN").as_numpy())
            ])
            for request in requests
        ]
"""
ECHO_CONFIG = {
    "name": "echo",
    "backend": "python",
    "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [-1]}],
}


async def kill_and_wait(stack: Stack, name: str) -> None:
    door, restarts = stack.process(name).doors, stack.restarts(name)
    pid = stack.kill(name)
    await stack.wait_healthy(name, timeout=60)
    assert stack.process(name).pid != pid
    assert stack.restarts(name) == restarts + 1
    assert stack.process(name).doors == door


async def test_objects_survive_a_killed_object_store(local_stack: Stack) -> None:
    bucket, key = local_stack.environment["TESSERA_S3_BUCKET"], unique_name("kept")
    async with s3_client(local_stack) as s3:
        await s3.put_object(Bucket=bucket, Key=key, Body=b"kept" * 500_000)
    await kill_and_wait(local_stack, "objectstore")
    async with s3_client(local_stack) as s3:
        answer = await s3.get_object(Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            assert await body.read() == b"kept" * 500_000


async def sent(producer: AIOKafkaProducer, topic: str, number: int) -> bool:
    """Send a record; False when the broker cannot reach its object store yet, as it then says."""
    try:
        await producer.send_and_wait(topic, b"%d" % number, partition=0)
    except KafkaError:
        return False
    return True


async def test_records_survive_a_killed_broker_and_a_killed_object_store(
    local_stack: Stack,
) -> None:
    bootstrap, topic = local_stack.urls["kafka"], unique_name("kept")
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number in range(10):
            await producer.send_and_wait(topic, b"%d" % number, partition=0)
    await kill_and_wait(local_stack, "kafka")
    await kill_and_wait(local_stack, "objectstore")
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number in range(10, 20):
            await eventually(lambda n=number: sent(producer, topic, n))
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    async with consumer:
        seen: dict[int, None] = {}
        while len(seen) < 20:
            seen[int((await consumer.getone()).value)] = None
    assert list(seen) == list(range(20))


async def test_rows_survive_a_killed_clickhouse(local_stack: Stack) -> None:
    database = unique_name("kept")
    async with clickhouse_client(local_stack) as client:
        await client.command(f"CREATE DATABASE {database}")
        await client.command(f"CREATE TABLE {database}.t (n UInt64) ENGINE = MergeTree ORDER BY n")
        for start in range(0, 1000, 100):
            rows = [[number] for number in range(start, start + 100)]
            await client.insert("t", rows, column_names=["n"], database=database)
    await kill_and_wait(local_stack, "clickhouse")
    async with clickhouse_client(local_stack) as client:
        answer = await client.query(
            "SELECT count(), uniqExact(n), max(n) FROM {database:Identifier}.t",
            parameters={"database": database},
        )
        assert answer.result_rows == [(1000, 1000, 999)]
        await client.command(f"DROP DATABASE {database}")


async def test_triton_comes_back_empty_and_leaves_nothing_behind(local_stack: Stack) -> None:
    url, prefix = local_stack.urls["triton_http"], shared_memory_prefix(local_stack.home)
    async with aiohttp.ClientSession(url) as session:
        await load_echo(session)
        assert await infer_echo(session, [1.0, 2.0]) == [1.0, 2.0]
    before = set(regions(prefix))
    assert before
    await kill_and_wait(local_stack, "triton")
    assert not before & set(regions(prefix))
    async with aiohttp.ClientSession(url) as session:
        async with session.post("/v2/repository/index") as answer:
            assert await answer.json() == []
        await load_echo(session)
        assert await infer_echo(session, [3.0]) == [3.0]
        async with session.post("/v2/repository/models/echo/unload") as answer:
            assert answer.status == 200


async def load_echo(session: aiohttp.ClientSession) -> None:
    model = base64.b64encode(ECHO_MODEL.encode()).decode()
    parameters = {"config": json.dumps(ECHO_CONFIG), "file:1/model.py": model}
    async with session.post(
        "/v2/repository/models/echo/load", json={"parameters": parameters}
    ) as answer:
        assert answer.status == 200, await answer.text()

    async def ready() -> bool:
        async with session.get("/v2/models/echo/ready") as answer:
            return answer.status == 200

    await eventually(ready, timeout=30)


async def infer_echo(session: aiohttp.ClientSession, values: list[float]) -> list[float]:
    tensor = {"name": "IN", "datatype": "FP32", "shape": [len(values)], "data": values}
    async with session.post("/v2/models/echo/infer", json={"inputs": [tensor]}) as answer:
        assert answer.status == 200, await answer.text()
        return list((await answer.json())["outputs"][0]["data"])
