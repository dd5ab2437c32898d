"""Training jobs and triggers."""

# Made from tessera.client.aio.training by infra/tasks/sync_client.py.
from __future__ import annotations

from collections.abc import Iterator, Sequence

from tessera.client.aio.training import AsyncTraining
from tessera.client.portal import Portal
from tessera.training.v1 import job_pb2, training_service_pb2


class Training:
    """Submits, watches and cancels training jobs."""

    def __init__(self, portal: Portal, wrapped: AsyncTraining) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def submit(self, spec: job_pb2.JobSpec, *, request_id: str = "") -> job_pb2.Job:
        """Submits a job.

        Args:
            spec: What the job does; see `tessera.training.v1.job_pb2.JobSpec`.
            request_id: Makes the call idempotent: the same id returns the same job.

        Raises:
            PermissionDenied: The caller lacks CREATE JOB, or rights on an input or the output.
        """
        return self._portal.run(self._wrapped.submit(spec, request_id=request_id))

    def get(self, job_id: str) -> job_pb2.Job:
        """Reads a job."""
        return self._portal.run(self._wrapped.get(job_id))

    def list_jobs(
        self,
        *,
        name: str = "",
        states: Sequence[job_pb2.JobState.ValueType] = (),
        trigger_name: str = "",
        limit: int = 1000,
    ) -> list[job_pb2.Job]:
        """Jobs that the caller may see, the newest first, at most `limit`."""
        return self._portal.run(
            self._wrapped.list_jobs(
                name=name, states=states, trigger_name=trigger_name, limit=limit
            )
        )

    def cancel(self, job_id: str) -> job_pb2.Job:
        """Cancels a job; one that is final stays as it is."""
        return self._portal.run(self._wrapped.cancel(job_id))

    def watch(self, job_id: str, *, timeout: float | None = 86400.0) -> Iterator[job_pb2.Job]:
        """The job, at once and after every change, until it is final."""
        return self._portal.iterate(self._wrapped.watch(job_id, timeout=timeout))

    def wait(self, job_id: str, *, timeout: float | None = 86400.0) -> job_pb2.Job:
        """Waits until a job has succeeded.

        Raises:
            JobFailed: It failed or was cancelled; the text says why.
        """
        return self._portal.run(self._wrapped.wait(job_id, timeout=timeout))

    def logs(
        self,
        job_id: str,
        *,
        attempt: int = 0,
        start_line: int = 0,
        follow: bool = False,
        timeout: float | None = 86400.0,
    ) -> Iterator[training_service_pb2.LogLine]:
        """The lines of a job's log; with `follow` until the job is final."""
        return self._portal.iterate(
            self._wrapped.logs(
                job_id, attempt=attempt, start_line=start_line, follow=follow, timeout=timeout
            )
        )

    def create_trigger(self, trigger: job_pb2.Trigger) -> job_pb2.Trigger:
        """Creates a trigger, which submits a job for every event of its kind and subject."""
        return self._portal.run(self._wrapped.create_trigger(trigger))

    def get_trigger(self, name: str) -> job_pb2.Trigger:
        """Reads a trigger."""
        return self._portal.run(self._wrapped.get_trigger(name))

    def delete_trigger(self, name: str) -> None:
        """Deletes a trigger; jobs that it submitted go on."""
        return self._portal.run(self._wrapped.delete_trigger(name))
