"""The life of a model on a GPU: trained there, served there, swapped and explained as any other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import duration_pb2

from devstack import Stack
from tessera import AsyncClient
from tessera.inference.v1 import endpoint_pb2, explanation_pb2
from tessera.tracking.v1 import tracking_pb2
from tessera.training.v1 import job_pb2
from tessera_kit.errors import Unavailable
from tests.e2e.world import READY_SECONDS, entity, new_schema
from tests.helpers import eventually, unique_name

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

JOB = Path(__file__).with_name("gpu_job.py")
DEVICE, GPUS = "cuda:0", 1
KIND = endpoint_pb2.DEVICE_KIND_GPU
WORKERS = 4
SWAPS = 6


async def test_trained_on_a_gpu_and_served_on_it(platform: Stack, client: AsyncClient) -> None:
    schema = await new_schema(client, "gpu")
    model = f"{schema}.adder"
    await client.models.create(model)
    job = await train(client, model)
    again = await train(client, model)
    assert (job.output_model_version, again.output_model_version) == (1, 2)
    name = unique_name("gpu")
    endpoint = await client.inference.create_endpoint(name, [on_gpu(model, 1)], table_schema=schema)
    await client.inference.wait_ready(name, timeout=READY_SECONDS)
    answered = await swap_under_load(client, name, model)
    await every_answer_has_its_row(client, name, answered)
    await an_answer_is_explained(client, name, model, job)
    rows = await client.tables.read(endpoint.inference_table_full_name, columns=["status_code"])
    assert set(rows.column("status_code").to_pylist()) == {0}
    await client.inference.delete_endpoint(name)


def on_gpu(model: str, version: int) -> endpoint_pb2.ServedEntity:
    served = entity(model, version, 100)
    served.instance_groups.add(device=KIND, count=1)
    return served


async def train(client: AsyncClient, model: str) -> job_pb2.Job:
    """The job dies once; its second attempt begins where the checkpoint was."""
    name = unique_name("gpu")
    spec = job_pb2.JobSpec(
        name=name,
        file=job_pb2.FileSource(name=JOB.name, content=JOB.read_text("utf-8")),
        arguments=[DEVICE],
        resources=job_pb2.Resources(threads_per_process=1, gpus_per_process=GPUS),
        retry=job_pb2.RetryPolicy(
            max_retries=1, initial_backoff=duration_pb2.Duration(nanos=100_000_000)
        ),
        experiment=name,
        output_model=model,
    )
    job = await client.training.submit(spec)
    job = await client.training.wait(job.job_id, timeout=240)
    assert len(job.attempts) == 2

    async def finished() -> tracking_pb2.Run:
        run = await client.tracking.get_run(job.run_id)
        assert run.status == tracking_pb2.RUN_STATUS_FINISHED
        return run

    run = await eventually(finished, timeout=60)
    params = {param.key: param.value for param in run.params}
    assert params == {"first_step_1": "0", "first_step_2": "30", "device": DEVICE}
    losses = [point.value for point in await client.tracking.metric_history(run.run_id, "loss")]
    assert losses[-1] < losses[0] / 2
    return job


async def swap_under_load(client: AsyncClient, name: str, model: str) -> int:
    """Versions take each other's place while requests come; returns how many were answered."""
    ended = asyncio.Event()
    x = np.ones((2, 16), np.float32)

    async def ask() -> int:
        answered = 0
        while not ended.is_set():
            answer = await client.inference.predict(name, {"x": x}, timeout=60)
            np.testing.assert_allclose(answer.outputs["sum"], 16.0, atol=8.0)
            answered += 1
        return answered

    asking = [asyncio.create_task(ask()) for _ in range(WORKERS)]
    for number in range(SWAPS):
        await client.inference.update_config(name, [on_gpu(model, 2 - number % 2)])
        await client.inference.wait_ready(name, timeout=READY_SECONDS)
    ended.set()
    return sum(await asyncio.gather(*asking))


async def every_answer_has_its_row(client: AsyncClient, name: str, answered: int) -> None:
    async def are_written() -> bool:
        found = await client.inference.table_statistics(name)
        assert (found.row_count, found.distinct_request_count) == (answered, answered)
        assert found.error_count == 0
        assert {one.model_version for one in found.by_served_entity} == {1, 2}
        return True

    await eventually(are_written, timeout=60, interval=0.25)


async def an_answer_is_explained(
    client: AsyncClient, name: str, model: str, job: job_pb2.Job
) -> None:
    """From an answer on the GPU to the job that trained there."""
    answer = await client.inference.predict_rows(name, {"x": [[1.0] * 16]})
    assert (answer.model_name, answer.model_version) == (model, 1)

    async def told() -> explanation_pb2.RequestExplanation:
        try:
            return await client.inference.explain_request(answer.request_id)
        except Unavailable as error:
            raise AssertionError("the row is on its way") from error

    found = await eventually(told, timeout=60, interval=0.25)
    assert (found.endpoint, list(found.gaps)) == (name, [])
    assert (found.model.model_version, found.model.job_id) == (1, job.job_id)
    assert found.model.run.run_id == job.run_id
