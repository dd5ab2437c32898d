"""Training jobs and triggers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc

from tessera.client.aio.calls import call, stream
from tessera.training.v1 import job_pb2, training_service_pb2, training_service_pb2_grpc
from tessera_kit.errors import TesseraError

FINAL_STATES = frozenset(
    {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}
)
"""The states that a job never leaves."""


class JobFailed(TesseraError):
    """A job that was waited for did not succeed; `metadata` holds its id and state."""

    reason = "JOB_FAILED"


class AsyncTraining:
    """Submits, watches and cancels training jobs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = training_service_pb2_grpc.TrainingServiceStub(channel)

    async def submit(self, spec: job_pb2.JobSpec, *, request_id: str = "") -> job_pb2.Job:
        """Submits a job.

        Args:
            spec: What the job does; see `tessera.training.v1.job_pb2.JobSpec`.
            request_id: Makes the call idempotent: the same id returns the same job.

        Raises:
            PermissionDenied: The caller lacks CREATE JOB, or rights on an input or the output.
        """
        request = training_service_pb2.SubmitJobRequest(spec=spec, request_id=request_id)
        return (await call(self._stub.SubmitJob, request)).job

    async def get(self, job_id: str) -> job_pb2.Job:
        """Reads a job."""
        return (
            await call(self._stub.GetJob, training_service_pb2.GetJobRequest(job_id=job_id))
        ).job

    async def list_jobs(
        self,
        *,
        name: str = "",
        states: Sequence[job_pb2.JobState.ValueType] = (),
        trigger_name: str = "",
        limit: int = 1000,
    ) -> list[job_pb2.Job]:
        """Jobs that the caller may see, the newest first, at most `limit`."""
        found: list[job_pb2.Job] = []
        request = training_service_pb2.ListJobsRequest(
            name=name, states=states, trigger_name=trigger_name, page_size=min(limit, 1000)
        )
        while True:
            page = await call(self._stub.ListJobs, request)
            found.extend(page.jobs)
            if not page.next_page_token or len(found) >= limit:
                return found[:limit]
            request.page_token = page.next_page_token

    async def cancel(self, job_id: str) -> job_pb2.Job:
        """Cancels a job; one that is final stays as it is."""
        return (
            await call(self._stub.CancelJob, training_service_pb2.CancelJobRequest(job_id=job_id))
        ).job

    async def watch(
        self, job_id: str, *, timeout: float | None = 86_400.0
    ) -> AsyncIterator[job_pb2.Job]:
        """The job, at once and after every change, until it is final."""
        request = training_service_pb2.WatchJobRequest(job_id=job_id)
        async for response in stream(self._stub.WatchJob, request, timeout):
            yield response.job

    async def wait(self, job_id: str, *, timeout: float | None = 86_400.0) -> job_pb2.Job:
        """Waits until a job has succeeded.

        Raises:
            JobFailed: It failed or was cancelled; the text says why.
        """
        job = job_pb2.Job(job_id=job_id)
        async for job in self.watch(job_id, timeout=timeout):
            if job.state in FINAL_STATES:
                break
        if job.state != job_pb2.JOB_STATE_SUCCEEDED:
            state = job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()
            raise JobFailed(
                f"job {job_id} {state}: {job.message}", metadata={"job_id": job_id, "state": state}
            )
        return job

    async def logs(
        self,
        job_id: str,
        *,
        attempt: int = 0,
        start_line: int = 0,
        follow: bool = False,
        timeout: float | None = 86_400.0,
    ) -> AsyncIterator[training_service_pb2.LogLine]:
        """The lines of a job's log; with `follow` until the job is final."""
        request = training_service_pb2.ReadJobLogsRequest(
            job_id=job_id, attempt=attempt, start_line=start_line, follow=follow
        )
        async for response in stream(self._stub.ReadJobLogs, request, timeout):
            for line in response.lines:
                yield line

    async def create_trigger(self, trigger: job_pb2.Trigger) -> job_pb2.Trigger:
        """Creates a trigger, which submits a job for every event of its kind and subject."""
        request = training_service_pb2.CreateTriggerRequest(trigger=trigger)
        return (await call(self._stub.CreateTrigger, request)).trigger

    async def get_trigger(self, name: str) -> job_pb2.Trigger:
        """Reads a trigger."""
        return (
            await call(self._stub.GetTrigger, training_service_pb2.GetTriggerRequest(name=name))
        ).trigger

    async def delete_trigger(self, name: str) -> None:
        """Deletes a trigger; jobs that it submitted go on."""
        await call(self._stub.DeleteTrigger, training_service_pb2.DeleteTriggerRequest(name=name))
