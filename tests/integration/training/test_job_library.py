"""A job that does what jobs do, among the real services: reads, logs, registers, is told of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pyarrow as pa
import pytest
import torch
from google.protobuf.duration_pb2 import Duration

from tessera import AsyncClient
from tessera.catalog.v1 import catalog_pb2, model_pb2
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.client.aio.training import JobFailed
from tessera.training.v1 import job_pb2
from tests.helpers import eventually, unique_name

pytestmark = pytest.mark.timeout(240)

PROGRAM = '''
"""Fits a line to a table's rows and registers it; killed once after it did."""

import os
import signal
import sys

import torch

from tessera import jobs

job = jobs.current()
rows = job.read_table(sys.argv[1], columns=["x", "y"], where=[("x", "<", 50)], order_by=["x"])
x = torch.tensor(rows["x"].to_numpy(), dtype=torch.float32).unsqueeze(1)
y = torch.tensor(rows["y"].to_numpy(), dtype=torch.float32).unsqueeze(1)
print("rows", len(rows), flush=True)
job.log_params({"learning_rate": 0.1, "rows": len(rows)})
model = torch.nn.Linear(1, 1)
with torch.no_grad():
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x)], 1), y).solution
    model.weight.copy_(solution[:1].T)
    model.bias.copy_(solution[1])
loss = torch.nn.functional.mse_loss(model(x), y)
for step in range(3):
    job.log_metrics({"loss": loss, "step": step}, step=step)
    job.progress(step + 1, 3, "fitting", loss=loss)
signature = {
    "inputs": [
        {"name": "asked_at", "datatype": "INT64", "shape": [-1, 1], "role": "METADATA"},
        {"name": "x", "datatype": "FP32", "shape": [-1, 1], "role": "FEATURE"},
    ],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
}
version = job.register_model(model, [x[:2]], signature=signature, metrics={"mse": loss})
print("version", version, flush=True)
job.flush()
if job.attempt == 1:
    os.kill(os.getpid(), signal.SIGKILL)
'''


async def make_table(client: AsyncClient) -> tuple[str, str]:
    """A table of 100 rows of a line, and a model beside it; returns their names."""
    catalog, schema = unique_name("catalog"), unique_name("schema")
    await client.catalog.create_catalog(catalog)
    await client.catalog.create_schema(f"{catalog}.{schema}")
    table = f"{catalog}.{schema}.line"
    columns = [
        catalog_pb2.Column(name="x", data_type="Float64"),
        catalog_pb2.Column(name="y", data_type="Float64"),
    ]
    await client.catalog.create_table(table, columns, order_by=["x"])
    x = numpy.arange(100.0)
    await client.tables.append(table, pa.table({"x": x, "y": 3 * x + 1}))
    await client.models.create(f"{catalog}.{schema}.model")
    return table, f"{catalog}.{schema}.model"


async def test_a_job_reads_logs_and_registers_one_version_even_when_it_is_killed(
    platform_client: AsyncClient, tmp_path: Path
) -> None:
    client = platform_client
    table, model = await make_table(client)
    job = await client.training.submit(
        job_pb2.JobSpec(
            name="fit",
            file=job_pb2.FileSource(name="fit.py", content=PROGRAM),
            arguments=[table],
            output_model=model,
            experiment=unique_name("experiment"),
            retry=job_pb2.RetryPolicy(max_retries=1, initial_backoff=Duration(nanos=1_000_000)),
        )
    )
    job = await client.training.wait(job.job_id)
    assert [attempt.exit_code for attempt in job.attempts] == [-9, 0]
    said = [(line.attempt, line.text) async for line in client.training.logs(job.job_id, attempt=2)]
    assert said == [(2, "rows 50"), (2, "version 1")]
    assert job.output_model_version == 1
    assert (job.progress.step, job.progress.total_steps, job.progress.message) == (3, 3, "fitting")

    versions = await client.models.list_versions(model)
    assert [(one.version, one.run_id) for one in versions] == [(1, job.run_id)]
    assert versions[0].status == model_pb2.MODEL_VERSION_STATUS_READY
    assert "mse" in versions[0].tags
    manifest = json.loads(await client.models.download(model, 1, "model.json"))
    assert (manifest["flavor"], manifest["file"]) == ("torch_export", "model.pt2")
    assert [one["name"] for one in manifest["inputs"]] == ["asked_at", "x"]
    path = tmp_path / "model.pt2"
    path.write_bytes(await client.models.download(model, 1, "model.pt2"))
    loaded = torch.export.load(path).module()
    answers = loaded(torch.tensor([[0.0], [10.0], [20.0]])).squeeze(1)
    assert torch.allclose(answers, torch.tensor([1.0, 31.0, 61.0]), atol=1e-2)

    run = await client.tracking.get_run(job.run_id)
    assert {param.key: param.value for param in run.params} == {
        "learning_rate": "0.1",
        "rows": "50",
    }
    assert {"loss", "mse", "step"} == {metric.key for metric in run.metrics}
    version = await client.tables.version(table)
    # The job did not declare the table: it read it.
    assert [(one.name, one.digest) for one in run.inputs] == [(table, version)]
    for attempt in job.attempts:
        assert [(one.full_name, one.version) for one in attempt.input_tables] == [(table, version)]
    created_by = (await client.access.who_am_i()).name
    assert (run.created_by, job.submitted_by) == (created_by, created_by)

    async def edges() -> bool:
        found = await client.lineage.get(
            lineage.LINEAGE_NODE_TYPE_MODEL_VERSION,
            f"{model}/1",
            direction=lineage.LINEAGE_DIRECTION_UPSTREAM,
        )
        sources = {(edge.source.name, edge.source_version) for edge in found}
        return sources == {(job.run_id, ""), (job.job_id, ""), (table, version)}

    await eventually(edges, timeout=30)


async def test_a_job_whose_metrics_were_refused_has_not_succeeded(
    platform_client: AsyncClient,
) -> None:
    program = "from tessera import jobs\njobs.current().log_metrics({'k' * 300: 1.0})\n"
    job = await platform_client.training.submit(
        job_pb2.JobSpec(name="refused", file=job_pb2.FileSource(name="refused.py", content=program))
    )
    with pytest.raises(JobFailed, match="key"):
        await platform_client.training.wait(job.job_id)
