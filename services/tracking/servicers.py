"""The gRPC door: messages to use cases and back, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from services.tracking.convert import messages
from services.tracking.domain.batch import Batch, check_batch_limits, check_run_tags
from services.tracking.domain.buckets import Steps
from services.tracking.domain.metrics import Point
from services.tracking.errors import InvalidUpload, InvalidValue
from services.tracking.handlers.cases import UseCases
from services.tracking.handlers.log import StreamedPoints
from services.tracking.handlers.page_tokens import foreign_token
from tessera.tracking.v1 import tracking_service_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2_grpc as rpc
from tessera_kit.rpc.identity import current_principal
from tessera_kit.rpc.pages import decode_page_token, encode_page_token, page_size
from tessera_kit.rpc.server import Binding

__all__ = ["TrackingServicer", "bindings"]

Context = grpc.aio.ServicerContext[Any, Any]

_HISTORY_PAGE: Final = 1000
_BUCKETS: Final = 1000
_CURVE_BUCKETS: Final = 400
_MOST_HISTORY: Final = 25_000


def bindings(cases: UseCases) -> tuple[Binding, ...]:
    """The service, with its servicer."""
    name = "tessera.tracking.v1.TrackingService"
    return (Binding(rpc.add_TrackingServiceServicer_to_server, TrackingServicer(cases), name),)


class TrackingServicer(rpc.TrackingServiceServicer):
    """Answers `tessera.tracking.v1.TrackingService`.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._experiments = cases.experiments
        self._runs = cases.runs
        self._log = cases.log
        self._metrics = cases.metrics
        self._search = cases.search
        self._artifacts = cases.artifacts
        self._webhooks = cases.webhooks
        self._retention = cases.retention

    # Experiments

    async def CreateExperiment(
        self, request: pb.CreateExperimentRequest, context: Context
    ) -> pb.CreateExperimentResponse:
        """Create an experiment that the caller owns."""
        experiment = await self._experiments.create(
            current_principal(),
            name=request.experiment.name,
            tags=dict(request.experiment.tags),
            request_id=request.request_id,
        )
        return pb.CreateExperimentResponse(experiment=messages.experiment_message(experiment))

    async def GetExperiment(
        self, request: pb.GetExperimentRequest, context: Context
    ) -> pb.GetExperimentResponse:
        """Return an experiment by id or by name."""
        if not (request.experiment_id or request.name):
            raise InvalidValue("give an experiment_id or a name", "experiment_id")
        experiment = await self._experiments.get(
            current_principal(), experiment_id=request.experiment_id, name=request.name
        )
        return pb.GetExperimentResponse(experiment=messages.experiment_message(experiment))

    async def UpdateExperiment(
        self, request: pb.UpdateExperimentRequest, context: Context
    ) -> pb.UpdateExperimentResponse:
        """Change an experiment's name or tags."""
        experiment = await self._experiments.update(
            current_principal(),
            request.experiment.experiment_id,
            messages.experiment_change(request),
        )
        return pb.UpdateExperimentResponse(experiment=messages.experiment_message(experiment))

    async def SearchExperiments(
        self, request: pb.SearchExperimentsRequest, context: Context
    ) -> pb.SearchExperimentsResponse:
        """Return a page of the experiments that match and that the caller may read."""
        page = await self._search.experiments(
            current_principal(),
            text=request.filter,
            order_by=request.order_by,
            stage=messages.stage_of(request.lifecycle_stage),
            size=page_size(request.page_size),
            token=request.page_token,
        )
        return pb.SearchExperimentsResponse(
            experiments=[messages.experiment_message(one) for one in page.experiments],
            next_page_token=page.next_token,
        )

    async def DeleteExperiment(
        self, request: pb.DeleteExperimentRequest, context: Context
    ) -> pb.DeleteExperimentResponse:
        """Mark an experiment and its runs as deleted."""
        await self._experiments.delete(current_principal(), request.experiment_id)
        return pb.DeleteExperimentResponse()

    async def RestoreExperiment(
        self, request: pb.RestoreExperimentRequest, context: Context
    ) -> pb.RestoreExperimentResponse:
        """Bring a deleted experiment back with its runs."""
        await self._experiments.restore(current_principal(), request.experiment_id)
        return pb.RestoreExperimentResponse()

    # Runs

    async def CreateRun(
        self, request: pb.CreateRunRequest, context: Context
    ) -> pb.CreateRunResponse:
        """Create a run that is under way."""
        started_at = None
        if request.HasField("started_at"):
            started_at = messages.micros_of_message(request.started_at, "started_at")
        run = await self._runs.create(
            current_principal(),
            experiment_id=request.experiment_id,
            name=request.name,
            started_at=started_at,
            tags=check_run_tags([(tag.key, tag.value) for tag in request.tags]),
            request_id=request.request_id,
        )
        return pb.CreateRunResponse(run=messages.run_message(run))

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """Return a run with all that was logged to it."""
        run = await self._runs.get(current_principal(), request.run_id)
        return pb.GetRunResponse(run=messages.run_message(run))

    async def UpdateRun(
        self, request: pb.UpdateRunRequest, context: Context
    ) -> pb.UpdateRunResponse:
        """Change a run's name, status or end."""
        run = await self._runs.update(
            current_principal(), request.run.run_id, messages.run_change(request)
        )
        return pb.UpdateRunResponse(run=messages.run_message(run))

    async def DeleteRun(
        self, request: pb.DeleteRunRequest, context: Context
    ) -> pb.DeleteRunResponse:
        """Mark a run as deleted."""
        await self._runs.delete(current_principal(), request.run_id)
        return pb.DeleteRunResponse()

    async def RestoreRun(
        self, request: pb.RestoreRunRequest, context: Context
    ) -> pb.RestoreRunResponse:
        """Bring a deleted run back."""
        await self._runs.restore(current_principal(), request.run_id)
        return pb.RestoreRunResponse()

    async def SearchRuns(
        self, request: pb.SearchRunsRequest, context: Context
    ) -> pb.SearchRunsResponse:
        """Return a page of the runs that match and that the caller may read."""
        page = await self._search.runs(
            current_principal(),
            experiment_ids=request.experiment_ids,
            text=request.filter,
            order_by=request.order_by,
            stage=messages.stage_of(request.lifecycle_stage),
            size=page_size(request.page_size),
            token=request.page_token,
        )
        return pb.SearchRunsResponse(
            runs=[messages.run_message(run) for run in page.runs], next_page_token=page.next_token
        )

    # What runs log

    async def LogBatch(self, request: pb.LogBatchRequest, context: Context) -> pb.LogBatchResponse:
        """Write metrics, parameters, tags and inputs of a run: all of them or none."""
        check_batch_limits(
            metrics=len(request.metrics),
            params=len(request.params),
            tags=len(request.tags),
            size=request.ByteSize(),
        )
        principal = current_principal()
        await self._log.log(principal, messages.batch_of(request, principal.name))
        return pb.LogBatchResponse()

    async def StreamMetrics(
        self, request_iterator: AsyncIterator[pb.StreamMetricsRequest], context: Context
    ) -> AsyncIterator[pb.StreamMetricsResponse]:
        """Write points from a stream; each answer tells up to which message they are durable."""
        principal = current_principal()

        async def arriving() -> AsyncIterator[StreamedPoints]:
            async for request in request_iterator:
                points = messages.joined_points(request.metrics, request.series)
                batch = Batch(run_id=request.run_id, principal=principal.name, points=points)
                yield StreamedPoints(request.sequence, batch)

        async for durable in self._log.stream(principal, arriving()):
            yield pb.StreamMetricsResponse(durable_sequence=durable)

    async def GetMetricHistory(
        self, request: pb.GetMetricHistoryRequest, context: Context
    ) -> pb.GetMetricHistoryResponse:
        """Return a page of a metric's points by step, time and value."""
        size = page_size(request.page_size, _HISTORY_PAGE, _MOST_HISTORY)
        scope = f"history:{request.run_id}:{request.key}"
        points = await self._runs.history(
            current_principal(),
            request.run_id,
            request.key,
            after=_point_before(request.page_token, scope, request.key),
            limit=size + 1,
        )
        page, token = points[:size], ""
        if len(points) > size:
            token = encode_page_token(messages.point_position(page[-1]), scope)
        return pb.GetMetricHistoryResponse(
            metrics=[messages.metric_message(point) for point in page], next_page_token=token
        )

    async def DownsampleMetric(
        self, request: pb.DownsampleMetricRequest, context: Context
    ) -> pb.DownsampleMetricResponse:
        """Return a metric in few buckets."""
        steps = Steps(
            request.first_step if request.HasField("first_step") else None,
            request.last_step if request.HasField("last_step") else None,
        )
        buckets = await self._metrics.buckets(
            current_principal(), request.run_id, request.key, steps, request.buckets or _BUCKETS
        )
        return pb.DownsampleMetricResponse(buckets=map(messages.bucket_message, buckets))

    async def DownsampleMetrics(
        self, request: pb.DownsampleMetricsRequest, context: Context
    ) -> pb.DownsampleMetricsResponse:
        """Return several metrics in few buckets."""
        curves = await self._metrics.curves(
            current_principal(), request.run_id, request.keys, request.buckets or _CURVE_BUCKETS
        )
        return pb.DownsampleMetricsResponse(
            curves=[
                pb.MetricCurve(key=key, buckets=[messages.bucket_message(one) for one in buckets])
                for key, buckets in curves.items()
            ]
        )

    async def TailRun(
        self, request: pb.TailRunRequest, context: Context
    ) -> AsyncIterator[pb.TailRunResponse]:
        """Follow a run until it ends."""
        async for news in self._metrics.tail(current_principal(), request.run_id):
            yield messages.news_message(news)

    async def ExportMetrics(
        self, request: pb.ExportMetricsRequest, context: Context
    ) -> AsyncIterator[pb.ExportMetricsResponse]:
        """Read all points of a selection as an Arrow stream."""
        chunks = self._metrics.export(
            current_principal(),
            run_ids=request.run_ids,
            experiment_ids=request.experiment_ids,
            text=request.filter,
            keys=request.keys,
        )
        async for chunk in chunks:
            yield pb.ExportMetricsResponse(chunk=chunk)

    # Artifacts

    async def UploadArtifact(
        self, request_iterator: AsyncIterator[pb.UploadArtifactRequest], context: Context
    ) -> pb.UploadArtifactResponse:
        """Write one artifact from a stream of its bytes."""
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidUpload("the first message must be the header")
        stored = await self._artifacts.upload(
            current_principal(),
            run_id=first.header.run_id,
            path=first.header.path,
            sha256=first.header.sha256,
            chunks=_chunks(request_iterator),
        )
        return pb.UploadArtifactResponse(
            artifact=messages.artifact_message(stored.artifact), sha256=stored.sha256
        )

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        """Read one artifact as a stream of its bytes."""
        chunks = await self._artifacts.download(
            current_principal(), run_id=request.run_id, path=request.path
        )
        async for chunk in chunks:
            yield pb.DownloadArtifactResponse(chunk=chunk)

    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: Context
    ) -> pb.ListArtifactsResponse:
        """Return a page of what lies directly below a path of a run's artifacts."""
        scope = f"artifacts:{request.run_id}:{request.path}"
        page = await self._artifacts.children(
            current_principal(),
            run_id=request.run_id,
            path=request.path,
            limit=page_size(request.page_size),
            token=str(decode_page_token(request.page_token, scope).get("c", "")),
        )
        token = encode_page_token({"c": page.next_token}, scope) if page.next_token else ""
        return pb.ListArtifactsResponse(
            artifacts=[messages.artifact_message(one) for one in page.artifacts],
            next_page_token=token,
        )

    # Webhooks

    async def ListGivenUpDeliveries(
        self, request: pb.ListGivenUpDeliveriesRequest, context: Context
    ) -> pb.ListGivenUpDeliveriesResponse:
        """Return a page of what webhooks did not take."""
        if self._webhooks is None:
            return pb.ListGivenUpDeliveriesResponse()
        scope = f"given-up:{request.webhook_id}"
        position = decode_page_token(request.page_token, scope)
        size = page_size(request.page_size)
        found = await self._webhooks.given_up(
            current_principal(),
            request.webhook_id,
            before=(int(position["t"]), str(position["i"])) if position else None,
            limit=size + 1,
        )
        token = ""
        if len(found) > size:
            last = found[size - 1]
            place: dict[str, str | int] = {
                "t": last.given_up_at,
                "i": last.delivery.delivery_id,
            }
            token = encode_page_token(place, scope)
        return pb.ListGivenUpDeliveriesResponse(
            deliveries=[messages.given_up_message(one) for one in found[:size]],
            next_page_token=token,
        )

    # Retention

    async def PurgeDeleted(
        self, request: pb.PurgeDeletedRequest, context: Context
    ) -> pb.PurgeDeletedResponse:
        """Remove for good what was deleted."""
        purging = await self._retention.purge(
            current_principal(),
            messages.kinds_of(request),
            older_than=messages.age_of(request),
            dry_run=request.dry_run,
        )
        return pb.PurgeDeletedResponse(
            things=[messages.deleted_message(one) for one in purging.things],
            has_more=purging.has_more,
            under_way=purging.under_way,
        )


async def _chunks(requests: AsyncIterator[pb.UploadArtifactRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidUpload("only the first message may be a header")
        yield request.chunk


def _point_before(token: str, scope: str, key: str) -> Point | None:
    position = decode_page_token(token, scope)
    if not position:
        return None
    try:
        return messages.point_at(position, key)
    except ValueError:
        raise foreign_token() from None
