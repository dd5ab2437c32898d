"""The tracking service over gRPC, with the submitter's rights."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from services.training.adapters.remote import raised_here
from services.training.convert.messages import timestamp
from services.training.domain.job import GitSource, InputTable, Job, JobState
from tessera.tracking.v1 import tracking_pb2, tracking_service_pb2, tracking_service_pb2_grpc
from tessera_kit.config import Secret
from tessera_kit.errors import AlreadyExists, NotFound

__all__ = ["GrpcTracking"]

_STATUS = {
    JobState.SUCCEEDED: tracking_pb2.RUN_STATUS_FINISHED,
    JobState.FAILED: tracking_pb2.RUN_STATUS_FAILED,
    JobState.CANCELLED: tracking_pb2.RUN_STATUS_KILLED,
}
_CALL_SECONDS = 30.0
# MLflow's names, by which its clients show where a run's code came from.
_COMMIT, _REPOSITORY, _SOURCE = (
    "mlflow.source.git.commit",
    "mlflow.source.git.repoURL",
    "mlflow.source.name",
)

Metadata = Sequence[tuple[str, str]]


class GrpcTracking:
    """`ports.Tracking` over a channel without a token of its own."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = tracking_service_pb2_grpc.TrackingServiceStub(channel)

    async def create_run(self, token: Secret, job: Job) -> str:
        """The id of the job's run, under way; made once, its experiment too if missing."""
        caller = _caller(token)
        experiment_id = await self._experiment(caller, job.spec.experiment)
        own = {"tessera.job_id": job.job_id, "tessera.job_name": job.spec.name}
        if job.trigger_name:
            own["tessera.trigger"] = job.trigger_name
        with raised_here("tracking"):
            made = await self._stub.CreateRun(
                tracking_service_pb2.CreateRunRequest(
                    experiment_id=experiment_id,
                    name=job.spec.name,
                    tags=[tracking_pb2.Tag(key=key, value=value) for key, value in own.items()],
                    request_id=job.job_id,
                ),
                metadata=caller,
                timeout=_CALL_SECONDS,
            )
        await self._describe(caller, made.run.run_id, job)
        return made.run.run_id

    async def note_commit(self, token: Secret, job: Job, commit: str) -> None:
        """Tag the job's run with the Git commit that its code is of, as MLflow's clients do."""
        tags = {_COMMIT: commit}
        if isinstance(source := job.spec.source, GitSource):
            tags |= {_REPOSITORY: source.url, _SOURCE: source.path}
        request = tracking_service_pb2.LogBatchRequest(
            run_id=job.run_id,
            tags=[tracking_pb2.Tag(key=key, value=value) for key, value in tags.items()],
        )
        with raised_here("tracking"):
            await self._stub.LogBatch(request, metadata=_caller(token), timeout=_CALL_SECONDS)

    async def note_inputs(self, token: Secret, job: Job, tables: Sequence[InputTable]) -> None:
        """Log the tables as inputs of the job's run; again changes nothing."""
        request = tracking_service_pb2.LogBatchRequest(
            run_id=job.run_id,
            inputs=[
                tracking_pb2.DatasetInput(
                    name=table.full_name, digest=table.version, context="training"
                )
                for table in tables
            ],
        )
        with raised_here("tracking"):
            await self._stub.LogBatch(request, metadata=_caller(token), timeout=_CALL_SECONDS)

    async def end_run(self, token: Secret, job: Job) -> None:
        """Give the run of a final job its status and end; so be it if the run is gone."""
        run = tracking_pb2.Run(
            run_id=job.run_id, status=_STATUS[job.state], ended_at=timestamp(job.ended_at)
        )
        request = tracking_service_pb2.UpdateRunRequest(
            run=run, update_mask=FieldMask(paths=["status", "ended_at"])
        )
        with raised_here("tracking", ignore={grpc.StatusCode.NOT_FOUND}):
            await self._stub.UpdateRun(request, metadata=_caller(token), timeout=_CALL_SECONDS)

    async def _experiment(self, caller: Metadata, name: str) -> str:
        try:
            return await self._find(caller, name)
        except NotFound:
            pass
        request = tracking_service_pb2.CreateExperimentRequest(
            experiment=tracking_pb2.Experiment(name=name)
        )
        try:
            with raised_here("tracking"):
                made = await self._stub.CreateExperiment(
                    request, metadata=caller, timeout=_CALL_SECONDS
                )
        except AlreadyExists:
            return await self._find(caller, name)
        return made.experiment.experiment_id

    async def _find(self, caller: Metadata, name: str) -> str:
        request = tracking_service_pb2.GetExperimentRequest(name=name)
        with raised_here("tracking"):
            found = await self._stub.GetExperiment(request, metadata=caller, timeout=_CALL_SECONDS)
        return found.experiment.experiment_id

    async def _describe(self, caller: Metadata, run_id: str, job: Job) -> None:
        """Copy the job's tags to its run; again changes nothing."""
        if not job.spec.tags:
            return
        request = tracking_service_pb2.LogBatchRequest(
            run_id=run_id,
            tags=[tracking_pb2.Tag(key=key, value=value) for key, value in job.spec.tags.items()],
        )
        with raised_here("tracking"):
            await self._stub.LogBatch(request, metadata=caller, timeout=_CALL_SECONDS)


def _caller(token: Secret) -> Metadata:
    return (("authorization", f"Bearer {token.reveal()}"),)
