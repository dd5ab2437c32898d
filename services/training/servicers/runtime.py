"""`tessera.training.v1.JobRuntimeService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from services.training.convert import messages
from services.training.handlers.runtime import RuntimeHandlers
from tessera.training.v1 import training_service_pb2 as pb
from tessera.training.v1.training_service_pb2_grpc import JobRuntimeServiceServicer
from tessera_kit.errors import InvalidArgument
from tessera_kit.rpc.identity import current_principal

__all__ = ["ATTEMPT_METADATA", "JobRuntimeServicer"]

ATTEMPT_METADATA = "tessera-job-attempt"
"""Metadata key by which a process says of which attempt it is: a late one changes nothing."""

_CHUNK_BYTES = 1 << 20


class JobRuntimeServicer(JobRuntimeServiceServicer):
    """Translates between the contract and the handlers."""

    def __init__(self, handlers: RuntimeHandlers) -> None:
        self._handlers = handlers

    async def ReportProgress(
        self, request: pb.ReportProgressRequest, context: Any
    ) -> pb.ReportProgressResponse:
        """Record how far a job is."""
        progress = messages.progress_value(request.progress)
        stop = await self._handlers.report(
            current_principal(), request.job_id, _attempt(context), progress
        )
        return pb.ReportProgressResponse(should_stop=stop)

    async def UploadCheckpointFile(
        self, request_iterator: AsyncIterator[pb.UploadCheckpointFileRequest], context: Any
    ) -> pb.UploadCheckpointFileResponse:
        """Store one file of a checkpoint."""
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidArgument("the first message must carry the header")
        header = first.header
        file = await self._handlers.upload(
            current_principal(),
            header.job_id,
            _attempt(context),
            header.step,
            header.path,
            _chunks(request_iterator),
        )
        return pb.UploadCheckpointFileResponse(size_bytes=file.size_bytes, sha256=file.sha256)

    async def CommitCheckpoint(
        self, request: pb.CommitCheckpointRequest, context: Any
    ) -> pb.CommitCheckpointResponse:
        """Declare a checkpoint complete."""
        checkpoint = await self._handlers.commit(
            current_principal(), request.job_id, _attempt(context), request.step
        )
        return pb.CommitCheckpointResponse(checkpoint=messages.checkpoint_message(checkpoint))

    async def GetLatestCheckpoint(
        self, request: pb.GetLatestCheckpointRequest, context: Any
    ) -> pb.GetLatestCheckpointResponse:
        """Tell the latest complete checkpoint."""
        latest = await self._handlers.latest(current_principal(), request.job_id)
        if latest is None:
            return pb.GetLatestCheckpointResponse()
        return pb.GetLatestCheckpointResponse(
            checkpoint=messages.checkpoint_message(latest.checkpoint),
            paths=[file.path for file in latest.files],
        )

    async def DownloadCheckpointFile(
        self, request: pb.DownloadCheckpointFileRequest, context: Any
    ) -> AsyncIterator[pb.DownloadCheckpointFileResponse]:
        """Stream one file of a checkpoint."""
        content = self._handlers.download(
            current_principal(), request.job_id, request.step, request.path
        )
        async for data in content:
            for start in range(0, len(data), _CHUNK_BYTES):
                chunk = data[start : start + _CHUNK_BYTES]
                yield pb.DownloadCheckpointFileResponse(chunk=chunk)

    async def ReportModelVersion(
        self, request: pb.ReportModelVersionRequest, context: Any
    ) -> pb.ReportModelVersionResponse:
        """Record the version that a job registered."""
        await self._handlers.version(
            current_principal(),
            request.job_id,
            _attempt(context),
            request.model_name,
            request.version,
        )
        return pb.ReportModelVersionResponse()

    async def ReportInputTable(
        self, request: pb.ReportInputTableRequest, context: Any
    ) -> pb.ReportInputTableResponse:
        """Record a table that a job is about to read."""
        version = await self._handlers.input_table(
            current_principal(), request.job_id, _attempt(context), request.table_full_name
        )
        return pb.ReportInputTableResponse(version=version)


def _attempt(context: Any) -> int | None:
    """The attempt that the caller says it is of; None when it says nothing."""
    for key, value in context.invocation_metadata() or ():
        if key == ATTEMPT_METADATA:
            if not str(value).isdecimal() or len(value) > 9:
                raise InvalidArgument(f"metadata {ATTEMPT_METADATA} must be an attempt's number")
            return int(value)
    return None


async def _chunks(requests: AsyncIterator[pb.UploadCheckpointFileRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgument("only the first message may carry a header")
        yield request.chunk
