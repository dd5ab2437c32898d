"""`tessera.training.v1.TrainingService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from services.training.convert import messages
from services.training.domain.trigger import Trigger
from services.training.handlers.jobs import JobHandlers
from services.training.handlers.logs import LogHandlers
from services.training.handlers.triggers import TriggerHandlers
from services.training.ports import JobQuery
from tessera.training.v1 import job_pb2
from tessera.training.v1 import training_service_pb2 as pb
from tessera.training.v1.training_service_pb2_grpc import TrainingServiceServicer
from tessera_kit.clock import Clock
from tessera_kit.rpc.identity import current_principal
from tessera_kit.rpc.pages import decode_page_token, encode_page_token, page_size

__all__ = ["TrainingServicer"]

_LOG_BYTES = 256 * 1024


class TrainingServicer(TrainingServiceServicer):
    """Translates between the contract and the handlers."""

    def __init__(
        self, jobs: JobHandlers, logs: LogHandlers, triggers: TriggerHandlers, clock: Clock
    ) -> None:
        self._jobs = jobs
        self._logs = logs
        self._triggers = triggers
        self._clock = clock

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Any) -> pb.SubmitJobResponse:
        """Queue a job."""
        spec = messages.spec_value(request.spec)
        job = await self._jobs.submit(current_principal(), spec, request.request_id)
        return pb.SubmitJobResponse(job=messages.job_message(job))

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:
        """Read a job."""
        job = await self._jobs.get(current_principal(), request.job_id)
        return pb.GetJobResponse(job=messages.job_message(job))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        """List jobs, the newest first."""
        states = {messages.state_value(state) for state in request.states} - {None}
        query = JobQuery(
            request.name,
            frozenset(state for state in states if state is not None),
            request.trigger_name,
        )
        names = ",".join(sorted(state.value for state in query.states))
        scope = f"jobs|{query.name}|{query.trigger_name}|{names}"
        before = str(decode_page_token(request.page_token, scope).get("before", ""))
        size = page_size(request.page_size)
        page = await self._jobs.page(current_principal(), query, before, size)
        token = encode_page_token({"before": page.before}, scope) if page.before else ""
        return pb.ListJobsResponse(
            jobs=[messages.job_message(job) for job in page.jobs], next_page_token=token
        )

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:
        """Ask a job to end."""
        job = await self._jobs.cancel(current_principal(), request.job_id)
        return pb.CancelJobResponse(job=messages.job_message(job))

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Any
    ) -> AsyncIterator[pb.WatchJobResponse]:
        """Stream a job's state until it is final."""
        async for job in self._jobs.watch(current_principal(), request.job_id):
            yield pb.WatchJobResponse(job=messages.job_message(job))

    async def ReadJobLogs(
        self, request: pb.ReadJobLogsRequest, context: Any
    ) -> AsyncIterator[pb.ReadJobLogsResponse]:
        """Stream a job's log lines."""
        pages = self._logs.read(
            current_principal(),
            request.job_id,
            request.attempt,
            request.start_line,
            request.follow,
        )
        async for page in pages:
            response, size = pb.ReadJobLogsResponse(), 0
            for record in page.records:
                response.lines.append(messages.log_line_message(record, page.attempt))
                size += len(record.text)
                if size > _LOG_BYTES:
                    yield response
                    response, size = pb.ReadJobLogsResponse(), 0
            if response.lines:
                yield response

    async def CreateTrigger(
        self, request: pb.CreateTriggerRequest, context: Any
    ) -> pb.CreateTriggerResponse:
        """Create a trigger of the caller."""
        principal = current_principal()
        trigger = _new_trigger(request.trigger, principal.name, self._clock)
        trigger = await self._triggers.create(principal, trigger, request.request_id)
        return pb.CreateTriggerResponse(trigger=messages.trigger_message(trigger))

    async def GetTrigger(
        self, request: pb.GetTriggerRequest, context: Any
    ) -> pb.GetTriggerResponse:
        """Read a trigger."""
        trigger = await self._triggers.get(current_principal(), request.name)
        return pb.GetTriggerResponse(trigger=messages.trigger_message(trigger))

    async def ListTriggers(
        self, request: pb.ListTriggersRequest, context: Any
    ) -> pb.ListTriggersResponse:
        """List triggers by name."""
        after = str(decode_page_token(request.page_token, "triggers").get("after", ""))
        size = page_size(request.page_size)
        found, after = await self._triggers.page(current_principal(), after, size)
        return pb.ListTriggersResponse(
            triggers=[messages.trigger_message(trigger) for trigger in found],
            next_page_token=encode_page_token({"after": after}, "triggers") if after else "",
        )

    async def DeleteTrigger(
        self, request: pb.DeleteTriggerRequest, context: Any
    ) -> pb.DeleteTriggerResponse:
        """Remove a trigger."""
        await self._triggers.delete(current_principal(), request.name)
        return pb.DeleteTriggerResponse()


def _new_trigger(message: job_pb2.Trigger, creator: str, clock: Clock) -> Trigger:
    return Trigger(
        name=message.name,
        event=messages.trigger_event_value(message.event),
        subject=message.subject,
        job=messages.spec_value(message.job),
        created_by=creator,
        created_at=clock.now(),
        cool_down=messages.cool_down_value(message),
    )
