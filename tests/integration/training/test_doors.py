"""The gRPC doors: what callers get, what they are refused, and what a job may report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from services.training.domain.job import JobState
from services.training.handlers.runtime import checkpoint_prefix
from services.training.ports import ModelVersionFacts
from tessera.catalog.v1 import securable_pb2 as securable
from tessera.client.aio.training import AsyncTraining, JobFailed
from tessera.training.v1 import job_pb2
from tessera.training.v1 import training_service_pb2 as pb
from tessera.training.v1.training_service_pb2_grpc import (
    JobRuntimeServiceStub,
    TrainingServiceStub,
)
from tessera_kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    TesseraError,
    Unauthenticated,
)
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.status import error_from_rpc
from tests.helpers import eventually
from tests.integration.training.conftest import Running

WAIT = "import time\nprint('ready', flush=True)\ntime.sleep(600)\n"


def spec(program: str = WAIT, **changes: Any) -> job_pb2.JobSpec:
    message = job_pb2.JobSpec(
        name="job",
        file=job_pb2.FileSource(name="train.py", content=program),
        resources=job_pb2.Resources(threads_per_process=1),
    )
    message.MergeFrom(job_pb2.JobSpec(**changes))
    return message


async def ready(client: AsyncTraining, job: job_pb2.Job) -> None:
    """Wait until the job printed that it is ready."""
    async for line in client.logs(job.job_id, follow=True):
        if line.text == "ready":
            return
    raise AssertionError("the job ended before it was ready")


class Runtime:
    """The calls of a job's own processes."""

    def __init__(self, channel: grpc.aio.Channel, job_id: str, attempt: int | None = 1) -> None:
        self._stub = JobRuntimeServiceStub(channel)
        self._job_id = job_id
        self._metadata = () if attempt is None else (("tessera-job-attempt", str(attempt)),)

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None

    async def progress(self, step: int, **metrics: float) -> bool:
        progress = job_pb2.Progress(step=step, total_steps=10, metrics=metrics)
        request = pb.ReportProgressRequest(job_id=self._job_id, progress=progress)
        return bool((await self._call(self._stub.ReportProgress, request)).should_stop)

    async def upload(self, step: int, path: str, *chunks: bytes) -> pb.UploadCheckpointFileResponse:
        def messages() -> Iterator[pb.UploadCheckpointFileRequest]:
            header = pb.UploadCheckpointFileHeader(job_id=self._job_id, step=step, path=path)
            yield pb.UploadCheckpointFileRequest(header=header)
            for chunk in chunks:
                yield pb.UploadCheckpointFileRequest(chunk=chunk)

        return await self.send(messages())

    async def send(
        self, messages: Iterator[pb.UploadCheckpointFileRequest]
    ) -> pb.UploadCheckpointFileResponse:
        async def stream() -> AsyncIterator[pb.UploadCheckpointFileRequest]:
            for message in messages:
                yield message

        answer: pb.UploadCheckpointFileResponse = await self._call(
            self._stub.UploadCheckpointFile, stream()
        )
        return answer

    async def commit(self, step: int) -> job_pb2.Checkpoint:
        request = pb.CommitCheckpointRequest(job_id=self._job_id, step=step)
        answer: job_pb2.Checkpoint = (
            await self._call(self._stub.CommitCheckpoint, request)
        ).checkpoint
        return answer

    async def latest(self) -> pb.GetLatestCheckpointResponse:
        request = pb.GetLatestCheckpointRequest(job_id=self._job_id)
        answer: pb.GetLatestCheckpointResponse = await self._call(
            self._stub.GetLatestCheckpoint, request
        )
        return answer

    async def download(self, step: int, path: str) -> bytes:
        request = pb.DownloadCheckpointFileRequest(job_id=self._job_id, step=step, path=path)
        try:
            responses = self._stub.DownloadCheckpointFile(request, metadata=self._metadata)
            return b"".join([response.chunk async for response in responses])
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None

    async def version(self, model: str, version: int) -> None:
        request = pb.ReportModelVersionRequest(
            job_id=self._job_id, model_name=model, version=version
        )
        await self._call(self._stub.ReportModelVersion, request)


@pytest.fixture
async def client(training: Running) -> AsyncIterator[AsyncTraining]:
    async with training.client() as client:
        yield client


async def test_a_job_is_watched_to_its_end_and_its_log_read(client: AsyncTraining) -> None:
    program = "import sys\nfor n in range(3): print('step', n)\nprint('oops', file=sys.stderr)\n"
    job = await client.submit(spec(program, tags={"a": "b"}))
    assert job.state == job_pb2.JOB_STATE_QUEUED
    states = [seen.state async for seen in client.watch(job.job_id)]
    assert states[-1] == job_pb2.JOB_STATE_SUCCEEDED
    assert states == sorted(states)
    lines = [line async for line in client.logs(job.job_id)]
    assert [line.text for line in lines] == ["step 0", "step 1", "step 2", "oops"]
    assert [(line.number, line.rank, line.attempt) for line in lines] == [
        (n, 0, 1) for n in range(4)
    ]
    later = [line.text async for line in client.logs(job.job_id, start_line=2, follow=True)]
    assert later == ["step 2", "oops"]


async def test_a_followed_log_goes_on_through_retries(client: AsyncTraining) -> None:
    program = (
        "import os, sys\nattempt = os.environ['TESSERA_JOB_ATTEMPT']\n"
        "print('attempt', attempt, flush=True)\nsys.exit(attempt == '1')\n"
    )
    retry = job_pb2.RetryPolicy(max_retries=1, initial_backoff=Duration(nanos=1_000_000))
    job = await client.submit(spec(program, retry=retry))
    lines = [line async for line in client.logs(job.job_id, follow=True)]
    assert [(line.attempt, line.number, line.text) for line in lines] == [
        (1, 0, "attempt 1"),
        (2, 0, "attempt 2"),
    ]


async def test_a_watch_wakes_on_progress_and_ends_with_cancellation(
    training: Running, client: AsyncTraining
) -> None:
    job = await client.submit(spec())
    seen: list[job_pb2.Job] = []

    async def watch() -> None:
        async for one in client.watch(job.job_id):
            seen.append(one)

    watching = asyncio.create_task(watch())
    await ready(client, job)
    async with training.channel("ann-token") as channel:
        runtime = Runtime(channel, job.job_id)
        assert not await runtime.progress(3, loss=0.5, bad=float("nan"))
        await eventually(lambda: seen[-1].progress.step == 3)
        assert seen[-1].progress.metrics["loss"] == 0.5
        assert (await client.cancel(job.job_id)).state == job_pb2.JOB_STATE_CANCELLING
        await watching
        assert seen[-1].state == job_pb2.JOB_STATE_CANCELLED
        with pytest.raises(FailedPrecondition, match="cancelled"):
            await runtime.progress(4)
    with pytest.raises(JobFailed, match="cancelled by ann"):
        await client.wait(job.job_id)
    await eventually(lambda: training.catalog.tokens == {})


async def test_the_jobs_token_is_the_submitters_and_ends_with_the_attempt(
    training: Running, client: AsyncTraining
) -> None:
    program = (
        "import os, pathlib\nprint(pathlib.Path(os.environ['TESSERA_TOKEN_FILE']).read_text())"
    )
    job = await client.wait((await client.submit(spec(program))).job_id)
    (line,) = [line.text async for line in client.logs(job.job_id)]
    assert line in training.catalog.secrets.values()
    await eventually(lambda: training.catalog.tokens == {})
    async with training.client(line) as late:
        with pytest.raises(Unauthenticated):
            await late.get(job.job_id)


async def test_who_may_not_see_a_job_gets_nothing_of_it(
    training: Running, client: AsyncTraining
) -> None:
    job = await client.submit(spec("print('secret')"))
    await client.wait(job.job_id)
    async with training.client("bob-token") as stranger:
        with pytest.raises(PermissionDenied, match="CREATE JOB"):
            await stranger.submit(spec())
        with pytest.raises(PermissionDenied, match="SELECT"):
            await stranger.get(job.job_id)
        with pytest.raises(PermissionDenied, match="MODIFY"):
            await stranger.cancel(job.job_id)
        for stream in (stranger.watch(job.job_id), stranger.logs(job.job_id)):
            with pytest.raises(PermissionDenied):
                await anext(stream)
        assert await stranger.list_jobs() == []
        training.authority.grant(
            "bob", [securable.PRIVILEGE_SELECT], securable.SECURABLE_TYPE_JOB, job.job_id
        )
        assert [one.job_id for one in await stranger.list_jobs()] == [job.job_id]
        assert [line.text async for line in stranger.logs(job.job_id)] == ["secret"]
        with pytest.raises(PermissionDenied):
            await stranger.cancel(job.job_id)
    async with training.client("nobody") as unknown:
        with pytest.raises(Unauthenticated):
            await unknown.list_jobs()


async def test_rights_on_inputs_and_output_are_needed_to_submit(
    training: Running, client: AsyncTraining
) -> None:
    training.authority.grant(
        "bob",
        [securable.PRIVILEGE_CREATE_JOB],
        securable.SECURABLE_TYPE_METASTORE,
        "metastore",
    )
    async with training.client("bob-token") as bob:
        with pytest.raises(PermissionDenied, match=r"SELECT on table a\.b\.c"):
            await bob.submit(spec(input_tables=["a.b.c"]))
        with pytest.raises(PermissionDenied, match=r"CREATE MODEL VERSION on model a\.b\.m"):
            await bob.submit(spec(output_model="a.b.m"))
        assert await bob.list_jobs() == []


async def test_a_request_id_submits_once(client: AsyncTraining) -> None:
    one = spec("print('once')")
    first = await client.submit(one, request_id="r-1")
    again = await client.submit(one, request_id="r-1")
    assert first.job_id == again.job_id
    with pytest.raises(AlreadyExists, match="another specification"):
        await client.submit(spec("print('other')"), request_id="r-1")
    assert len(await client.list_jobs()) == 1
    both = await asyncio.gather(*(client.submit(one, request_id="r-2") for _ in range(5)))
    assert len({job.job_id for job in both}) == 1


async def test_listings_have_pages(training: Running, client: AsyncTraining) -> None:
    ids = [(await client.submit(spec("pass", name=f"job-{n}"))).job_id for n in range(5)]
    async with training.channel("ann-token") as channel:
        stub = TrainingServiceStub(channel)
        found: list[str] = []
        request = pb.ListJobsRequest(page_size=2)
        while True:
            page = await stub.ListJobs(request)
            assert len(page.jobs) <= 2
            found += [job.job_id for job in page.jobs]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert found == list(reversed(ids))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.ListJobs(pb.ListJobsRequest(name="x", page_token=request.page_token))
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [job.job_id for job in await client.list_jobs(name="job-3")] == [ids[3]]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (job_pb2.JobSpec(name="job"), "source must be one of"),
        (spec(name="No Spaces"), "spec.name"),
        (spec(environment={"TESSERA_TOKEN": "x"}), "TESSERA_TOKEN is set by the service"),
        (spec(environment={"RANK": "1"}), "RANK is set by the service"),
        (spec(environment={"A B": "1"}), "names must be like variables"),
        (spec(environment={"A": "nul\0"}), "NUL"),
        (spec(arguments=["nul\0"]), "NUL"),
        (spec(arguments=["x" * 9_999] * 30), "at most 256 KiB"),
        (spec(resources=job_pb2.Resources(gpus_per_process=1)), "asks for 1 GPUs; there are 0"),
        (spec(resources=job_pb2.Resources(process_count=65)), "process_count"),
        (spec(input_tables=["no_table"]), "input_tables"),
        (spec(timeout=Duration(seconds=-5)), "timeout must be at least"),
        (spec(timeout=Duration(seconds=2**60)), "timeout must be a duration"),
        (spec(timeout=Duration(seconds=2**33)), "timeout must be at most 3650 days"),
        (spec(retry=job_pb2.RetryPolicy(max_retries=101)), "max_retries"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_run_is_refused_with_a_reason(
    client: AsyncTraining, bad: job_pb2.JobSpec, told: str
) -> None:
    with pytest.raises(InvalidArgument, match=told):
        await client.submit(bad)
    assert await client.list_jobs() == []


async def test_unknown_jobs_and_attempts_are_not_found(client: AsyncTraining) -> None:
    job = await client.submit(spec("print(1)"))
    for call in (client.get, client.cancel):
        with pytest.raises(NotFound, match="no job 'nope'"):
            await call("nope")
    for stream in (client.watch("nope"), client.logs("nope")):
        with pytest.raises(NotFound):
            await anext(stream)
    with pytest.raises(NotFound, match="attempts"):
        await anext(client.logs(job.job_id, attempt=7))


async def test_checkpoints_are_whole_or_not_there(training: Running, client: AsyncTraining) -> None:
    job = await client.submit(spec())
    await ready(client, job)
    async with training.channel("ann-token") as channel:
        runtime = Runtime(channel, job.job_id)
        assert not (await runtime.latest()).HasField("checkpoint")
        with pytest.raises(FailedPrecondition, match="no files"):
            await runtime.commit(5)
        stored = await runtime.upload(5, "a/b.bin", b"x" * 1000, b"y" * 500)
        assert stored.size_bytes == 1500
        await runtime.upload(5, "c", b"")
        assert not (await runtime.latest()).HasField("checkpoint")
        with pytest.raises(NotFound):
            await runtime.download(5, "a/b.bin")
        saved = await runtime.commit(5)
        assert (saved.step, saved.size_bytes) == (5, 1500)
        assert await runtime.commit(5) == saved
        latest = await runtime.latest()
        assert (latest.checkpoint, list(latest.paths)) == (saved, ["a/b.bin", "c"])
        assert await runtime.download(5, "a/b.bin") == b"x" * 1000 + b"y" * 500
        with pytest.raises(FailedPrecondition, match="complete"):
            await runtime.upload(5, "a/b.bin", b"changed")
        with pytest.raises(NotFound):
            await runtime.download(5, "a")
        for step in (6, 7, 8):
            await runtime.upload(step, "c", b"z")
            await runtime.commit(step)
        await runtime.upload(9, "c", b"pending")
        assert (await runtime.latest()).checkpoint.step == 8

        async def kept() -> set[str]:
            prefix = "training/jobs/"
            return {info.key.split("/")[4] async for info in training.objects.list(prefix)}

        await eventually(lambda: _equals(kept, {"7-1", "8-1", "9-1"}))
        await client.cancel(job.job_id)
        await eventually(lambda: _equals(kept, {"8-1"}))
        assert await runtime.download(8, "c") == b"z"
        assert saved.storage_location == checkpoint_prefix(job.job_id, 1, 5)


async def _equals(kept: Any, expected: set[str]) -> bool:
    return bool(await kept() == expected)


@pytest.mark.parametrize(
    "path", ["../x", "/x", "a//b", "a/./b", "a\\b", "a/../../b", "\0", "a/", "x" * 300]
)
async def test_checkpoint_paths_stay_below_their_checkpoint(training: Running, path: str) -> None:
    async with training.client() as client, training.channel("ann-token") as channel:
        job = await client.submit(spec())
        await ready(client, job)
        with pytest.raises(InvalidArgument):
            await Runtime(channel, job.job_id).upload(1, path, b"x")
        assert [info async for info in training.objects.list("")] == []


async def test_uploads_begin_with_their_header_and_hold_chunks_only(training: Running) -> None:
    async with training.client() as client, training.channel("ann-token") as channel:
        job = await client.submit(spec())
        await ready(client, job)
        runtime = Runtime(channel, job.job_id)
        header = pb.UploadCheckpointFileRequest(
            header=pb.UploadCheckpointFileHeader(job_id=job.job_id, step=1, path="a")
        )
        chunk = pb.UploadCheckpointFileRequest(chunk=b"x")
        for messages in ([], [chunk], [header, header], [header, pb.UploadCheckpointFileRequest()]):
            with pytest.raises(InvalidArgument):
                await runtime.send(iter(messages))
        assert [info async for info in training.objects.list("")] == []


async def test_a_late_attempt_and_a_stranger_change_nothing(training: Running) -> None:
    async with training.client() as client, training.channel("ann-token") as channel:
        job = await client.submit(spec())
        await ready(client, job)
        late = Runtime(channel, job.job_id, attempt=7)
        for call in (late.progress(9), late.upload(1, "a", b"x"), late.commit(1)):
            with pytest.raises(FailedPrecondition, match="attempt 1 runs, not 7"):
                await call
        async with training.channel("bob-token") as other:
            stranger = Runtime(other, job.job_id, attempt=None)
            for call in (stranger.progress(9), stranger.upload(1, "a", b"x"), stranger.latest()):
                with pytest.raises(PermissionDenied):
                    await call
        assert not (await client.get(job.job_id)).HasField("progress")


async def test_only_versions_of_the_jobs_own_run_count(training: Running) -> None:
    async with training.client() as client, training.channel("ann-token") as channel:
        job = await client.submit(spec(output_model="a.b.m"))
        await ready(client, job)
        run_id = (await client.get(job.job_id)).run_id
        runtime = Runtime(channel, job.job_id)
        training.catalog.versions["a.b.m", 1] = ModelVersionFacts("another-run")
        training.catalog.versions["a.b.m", 2] = ModelVersionFacts(run_id)
        training.catalog.versions["a.b.n", 1] = ModelVersionFacts(run_id)
        for model, version in (("a.b.m", 1), ("a.b.m", 3), ("a.b.n", 1)):
            with pytest.raises(FailedPrecondition):
                await runtime.version(model, version)
        await runtime.version("a.b.m", 2)
        await runtime.version("a.b.m", 2)
        assert (await client.get(job.job_id)).output_model_version == 2


async def test_two_processes_meet_by_torch_distributed(client: AsyncTraining) -> None:
    program = (
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "value = torch.tensor([dist.get_rank() + 1.0])\n"
        "dist.all_reduce(value)\n"
        "print(dist.get_rank(), dist.get_world_size(), torch.get_num_threads(), value.item())\n"
        "dist.destroy_process_group()\n"
    )
    resources = job_pb2.Resources(process_count=2, threads_per_process=1)
    job = await client.wait((await client.submit(spec(program, resources=resources))).job_id)
    lines = {line.rank: line.text async for line in client.logs(job.job_id)}
    assert lines == {0: "0 2 1 3.0", 1: "1 2 1 3.0"}


async def test_a_module_of_a_package_runs(client: AsyncTraining) -> None:
    package = job_pb2.JobSpec(
        name="job", package=job_pb2.PackageSource(module="this"), arguments=["ignored"]
    )
    job = await client.wait((await client.submit(package)).job_id)
    lines = [line.text async for line in client.logs(job.job_id)]
    assert lines[0] == "The Zen of Python, by Tim Peters"


async def test_a_stopping_service_lets_go_of_who_watches(training: Running) -> None:
    async with training.client() as client:
        job = await client.submit(spec())
        await ready(client, job)
        watching = client.watch(job.job_id)
        await anext(watching)
        await training.service.stop()
        with pytest.raises(TesseraError, match="follow the job again"):
            async for _ in watching:
                pass
        stored = await training.service.jobs.get(Principal("ann"), job.job_id)
        assert stored.state is JobState.WAITING_FOR_RETRY
