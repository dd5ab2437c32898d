"""Experiments and runs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pyarrow as pa
from google.protobuf import field_mask_pb2, timestamp_pb2

from tessera.client.aio.calls import call, pieces, sha256_of, stream
from tessera.client.metric_stream import MetricStream
from tessera.tracking.v1 import tracking_pb2, tracking_service_pb2, tracking_service_pb2_grpc
from tessera_kit.errors import AlreadyExists, InvalidArgument, NotFound

_MOST_METRICS = 1000
_MOST_BUCKETS = 20_000
_MOST_CURVES = 50


class AsyncTracking:
    """Experiments and runs: parameters, metrics with history, tags, artifacts."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = tracking_service_pb2_grpc.TrackingServiceStub(channel)

    async def create_experiment(
        self, name: str, *, tags: Mapping[str, str] | None = None, exist_ok: bool = False
    ) -> tracking_pb2.Experiment:
        """Creates an experiment; with `exist_ok` returns the one of that name."""
        request = tracking_service_pb2.CreateExperimentRequest(
            experiment=tracking_pb2.Experiment(name=name, tags=tags)
        )
        try:
            return (await call(self._stub.CreateExperiment, request)).experiment
        except AlreadyExists:
            if not exist_ok:
                raise
            return await self.get_experiment(name=name)

    async def get_experiment(
        self, experiment_id: str = "", *, name: str = ""
    ) -> tracking_pb2.Experiment:
        """Reads an experiment by its id, or by its name."""
        request = (
            tracking_service_pb2.GetExperimentRequest(name=name)
            if name
            else tracking_service_pb2.GetExperimentRequest(experiment_id=experiment_id)
        )
        return (await call(self._stub.GetExperiment, request)).experiment

    async def find_experiment(self, name_or_id: str) -> tracking_pb2.Experiment:
        """Reads the experiment of a name, or of an id where none has the name."""
        try:
            return await self.get_experiment(name=name_or_id)
        except NotFound:
            with contextlib.suppress(NotFound, InvalidArgument):
                return await self.get_experiment(name_or_id)
            raise

    async def search_experiments(self, filter: str = "") -> list[tracking_pb2.Experiment]:
        """The experiments that match a filter such as "name LIKE 'flight%'", the newest first."""
        found: list[tracking_pb2.Experiment] = []
        request = tracking_service_pb2.SearchExperimentsRequest(filter=filter, page_size=1000)
        while True:
            page = await call(self._stub.SearchExperiments, request)
            found.extend(page.experiments)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def create_run(
        self,
        experiment_id: str,
        *,
        name: str = "",
        tags: Mapping[str, str] | None = None,
        started_at: datetime | None = None,
        request_id: str = "",
    ) -> tracking_pb2.Run:
        """Creates a run that is under way.

        Args:
            experiment_id: The experiment.
            name: The run's name; made up when empty.
            tags: Values by name.
            started_at: When it began; now when None.
            request_id: A second call with the same one returns the first one's run.
        """
        request = tracking_service_pb2.CreateRunRequest(
            experiment_id=experiment_id, name=name, tags=_tags(tags), request_id=request_id
        )
        if started_at is not None:
            request.started_at.FromDatetime(started_at)
        return (await call(self._stub.CreateRun, request)).run

    async def get_run(self, run_id: str) -> tracking_pb2.Run:
        """Reads a run with its parameters, latest metrics and tags."""
        return (
            await call(self._stub.GetRun, tracking_service_pb2.GetRunRequest(run_id=run_id))
        ).run

    async def end_run(
        self,
        run_id: str,
        status: tracking_pb2.RunStatus.ValueType = tracking_pb2.RUN_STATUS_FINISHED,
        *,
        ended_at: datetime | None = None,
    ) -> tracking_pb2.Run:
        """Ends a run with a final status; now when no time is given."""
        run = tracking_pb2.Run(run_id=run_id, status=status)
        run.ended_at.FromDatetime(ended_at or datetime.now(UTC))
        mask = field_mask_pb2.FieldMask(paths=["status", "ended_at"])
        return (
            await call(
                self._stub.UpdateRun,
                tracking_service_pb2.UpdateRunRequest(run=run, update_mask=mask),
            )
        ).run

    async def log(
        self,
        run_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        inputs: Sequence[tracking_pb2.DatasetInput] = (),
    ) -> None:
        """Writes metrics of one step, parameters, tags and inputs of a run: all or none.

        Args:
            run_id: The run.
            metrics: Values by name, of any finite or infinite float, or NaN.
            step: The step at which the metrics were measured.
            params: Values by name, as their text; written once.
            tags: Values by name; may be changed later.
            inputs: Data sets that the run used.

        Raises:
            FailedPrecondition: A parameter has another value already, or the run was deleted.
            InvalidArgument: A name breaks the rules, or a limit is passed.
        """
        now = timestamp_pb2.Timestamp()
        now.GetCurrentTime()
        request = tracking_service_pb2.LogBatchRequest(
            run_id=run_id,
            metrics=[
                tracking_pb2.Metric(key=key, value=value, timestamp=now, step=step)
                for key, value in (metrics or {}).items()
            ],
            params=[
                tracking_pb2.Param(key=key, value=str(value))
                for key, value in (params or {}).items()
            ],
            tags=_tags(tags),
            inputs=inputs,
        )
        await call(self._stub.LogBatch, request)

    async def log_metrics(self, run_id: str, metrics: Sequence[tracking_pb2.Metric]) -> None:
        """Appends any number of metric points, a thousand per call."""
        for start in range(0, len(metrics), _MOST_METRICS):
            request = tracking_service_pb2.LogBatchRequest(
                run_id=run_id, metrics=metrics[start : start + _MOST_METRICS]
            )
            await call(self._stub.LogBatch, request)

    async def stream_metrics(self, run_id: str, *, most_waiting: int = 1_000_000) -> MetricStream:
        """Opens a stream of a run's metrics; its `log` never waits.

        Args:
            run_id: The run.
            most_waiting: How many points may wait in memory; what is logged beyond is dropped and
                counted in `dropped`.
        """
        return MetricStream(self._stub, run_id, most_waiting=most_waiting)

    async def metric_history(self, run_id: str, key: str) -> list[tracking_pb2.Metric]:
        """All points of one metric, ordered by step and time."""
        found: list[tracking_pb2.Metric] = []
        request = tracking_service_pb2.GetMetricHistoryRequest(
            run_id=run_id, key=key, page_size=25_000
        )
        while True:
            page = await call(self._stub.GetMetricHistory, request)
            found.extend(page.metrics)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def downsample(
        self,
        run_id: str,
        key: str,
        *,
        buckets: int = 1000,
        first_step: int | None = None,
        last_step: int | None = None,
    ) -> list[tracking_pb2.MetricBucket]:
        """A metric as at most so many buckets of steps: count, min, max and mean of each.

        Args:
            run_id: The run.
            key: The metric.
            buckets: How many at most, up to 10,000.
            first_step: Where to begin; at the metric's first step when None.
            last_step: Where to end; at the metric's last step when None.
        """
        request = tracking_service_pb2.DownsampleMetricRequest(
            run_id=run_id, key=key, buckets=buckets, first_step=first_step, last_step=last_step
        )
        return list((await call(self._stub.DownsampleMetric, request)).buckets)

    async def downsample_many(
        self, run_id: str, keys: Sequence[str], *, buckets: int = 400
    ) -> dict[str, list[tracking_pb2.MetricBucket]]:
        """Several metrics of a run, each as `downsample` answers it; those without points are not.

        Args:
            run_id: The run.
            keys: The metrics.
            buckets: How many each has at most, up to 10,000.
        """
        found: dict[str, list[tracking_pb2.MetricBucket]] = {}
        at_once = min(max(_MOST_BUCKETS // buckets, 1), _MOST_CURVES)
        for start in range(0, len(keys), at_once):
            request = tracking_service_pb2.DownsampleMetricsRequest(
                run_id=run_id, keys=keys[start : start + at_once], buckets=buckets
            )
            curves = (await call(self._stub.DownsampleMetrics, request)).curves
            found |= {curve.key: list(curve.buckets) for curve in curves}
        return found

    async def tail_run(self, run_id: str) -> AsyncIterator[tracking_service_pb2.TailRunResponse]:
        """A run as it is, then what changes: the run, and the latest points, until it ends."""
        request = tracking_service_pb2.TailRunRequest(run_id=run_id)
        async for news in stream(self._stub.TailRun, request):
            yield news

    async def export_metrics(
        self,
        *,
        run_ids: Sequence[str] = (),
        experiment_ids: Sequence[str] = (),
        filter: str = "",
        keys: Sequence[str] = (),
    ) -> pa.Table:
        """All points of runs: run_id, key, step, timestamp, value.

        Args:
            run_ids: The runs; or
            experiment_ids: the experiments whose active runs are meant,
            filter: and which of these, as in `search_runs`.
            keys: The metrics; all when empty.
        """
        chunks = self.export_arrow(
            run_ids=run_ids, experiment_ids=experiment_ids, filter=filter, keys=keys
        )
        return pa.ipc.open_stream(b"".join([chunk async for chunk in chunks])).read_all()

    async def export_arrow(
        self,
        *,
        run_ids: Sequence[str] = (),
        experiment_ids: Sequence[str] = (),
        filter: str = "",
        keys: Sequence[str] = (),
    ) -> AsyncIterator[bytes]:
        """As `export_metrics`, as the bytes of one Arrow IPC stream, in pieces."""
        request = tracking_service_pb2.ExportMetricsRequest(
            run_ids=run_ids, experiment_ids=experiment_ids, filter=filter, keys=keys
        )
        async for response in stream(self._stub.ExportMetrics, request, 3600.0):
            yield response.chunk

    async def search_runs(
        self,
        experiment_ids: Sequence[str],
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: float = math.inf,
    ) -> list[tracking_pb2.Run]:
        """Finds runs, as by `"metrics.auc > 0.7 AND params.hidden = '64'"`.

        Raises:
            InvalidArgument: The filter is wrong; the text says where.
        """
        found: list[tracking_pb2.Run] = []
        request = tracking_service_pb2.SearchRunsRequest(
            experiment_ids=experiment_ids,
            filter=filter,
            order_by=order_by,
            page_size=int(min(limit, 1000)),
        )
        while True:
            page = await call(self._stub.SearchRuns, request)
            found.extend(page.runs)
            if not page.next_page_token or len(found) >= limit:
                return found[: int(min(limit, len(found)))]
            request.page_token = page.next_page_token

    async def upload_artifact(
        self, run_id: str, path: str, content: bytes | Path
    ) -> tracking_pb2.ArtifactInfo:
        """Writes one artifact of a run, from bytes or from a local file."""

        async def requests() -> AsyncIterator[tracking_service_pb2.UploadArtifactRequest]:
            header = tracking_service_pb2.UploadArtifactHeader(
                run_id=run_id, path=path, sha256=sha256_of(content)
            )
            yield tracking_service_pb2.UploadArtifactRequest(header=header)
            for piece in pieces(content):
                yield tracking_service_pb2.UploadArtifactRequest(chunk=piece)

        return (await call(self._stub.UploadArtifact, requests(), timeout=3600.0)).artifact

    async def download_artifact(self, run_id: str, path: str) -> bytes:
        """The content of one artifact."""
        request = tracking_service_pb2.DownloadArtifactRequest(run_id=run_id, path=path)
        return b"".join(
            [part.chunk async for part in stream(self._stub.DownloadArtifact, request, 3600.0)]
        )

    async def list_artifacts(self, run_id: str, path: str = "") -> list[tracking_pb2.ArtifactInfo]:
        """Files and folders directly below `path` among a run's artifacts, by name."""
        found: list[tracking_pb2.ArtifactInfo] = []
        request = tracking_service_pb2.ListArtifactsRequest(
            run_id=run_id, path=path, page_size=1000
        )
        while True:
            page = await call(self._stub.ListArtifacts, request)
            found.extend(page.artifacts)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def list_given_up_deliveries(
        self, webhook_id: str = ""
    ) -> list[tracking_pb2.GivenUpDelivery]:
        """What webhooks did not take, the newest first; of all webhooks without an id."""
        found: list[tracking_pb2.GivenUpDelivery] = []
        request = tracking_service_pb2.ListGivenUpDeliveriesRequest(
            webhook_id=webhook_id, page_size=1000
        )
        while True:
            page = await call(self._stub.ListGivenUpDeliveries, request)
            found.extend(page.deliveries)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def purge_deleted(
        self,
        *,
        experiment_ids: Sequence[str] = (),
        run_ids: Sequence[str] = (),
        model_ids: Sequence[str] = (),
        older_than: timedelta | None = None,
        dry_run: bool = False,
    ) -> tracking_service_pb2.PurgeDeletedResponse:
        """Removes for good what was deleted: what is named, or all there is.

        Args:
            experiment_ids: Deleted experiments, with all that is in them.
            run_ids: Deleted runs.
            model_ids: Deleted logged models.
            older_than: For how long they must have been deleted.
            dry_run: Only tells what would be removed, 1,000 of each kind at most.

        Raises:
            NotFound, FailedPrecondition: One that is named is not there, not deleted, or was
                deleted too recently; nothing is removed.
        """
        request = tracking_service_pb2.PurgeDeletedRequest(
            experiment_ids=experiment_ids, run_ids=run_ids, model_ids=model_ids, dry_run=dry_run
        )
        if older_than is not None:
            request.older_than.FromTimedelta(older_than)
        things: list[tracking_pb2.DeletedThing] = []
        while True:
            answer = await call(self._stub.PurgeDeleted, request)
            things.extend(answer.things)
            if dry_run or not answer.has_more:
                return tracking_service_pb2.PurgeDeletedResponse(
                    things=things, has_more=answer.has_more, under_way=answer.under_way
                )


def _tags(tags: Mapping[str, str] | None) -> list[tracking_pb2.Tag]:
    return [tracking_pb2.Tag(key=key, value=value) for key, value in (tags or {}).items()]
