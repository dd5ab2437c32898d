"""Experiments and runs."""

# Made from tessera.client.aio.tracking by infra/tasks/sync_client.py.
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa

from tessera.client.aio.tracking import AsyncTracking
from tessera.client.metric_stream import MetricStream
from tessera.client.portal import Portal
from tessera.tracking.v1 import tracking_pb2, tracking_service_pb2


class Tracking:
    """Experiments and runs: parameters, metrics with history, tags, artifacts."""

    def __init__(self, portal: Portal, wrapped: AsyncTracking) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def create_experiment(
        self, name: str, *, tags: Mapping[str, str] | None = None, exist_ok: bool = False
    ) -> tracking_pb2.Experiment:
        """Creates an experiment; with `exist_ok` returns the one of that name."""
        return self._portal.run(self._wrapped.create_experiment(name, tags=tags, exist_ok=exist_ok))

    def get_experiment(self, experiment_id: str = "", *, name: str = "") -> tracking_pb2.Experiment:
        """Reads an experiment by its id, or by its name."""
        return self._portal.run(self._wrapped.get_experiment(experiment_id, name=name))

    def find_experiment(self, name_or_id: str) -> tracking_pb2.Experiment:
        """Reads the experiment of a name, or of an id where none has the name."""
        return self._portal.run(self._wrapped.find_experiment(name_or_id))

    def search_experiments(self, filter: str = "") -> list[tracking_pb2.Experiment]:
        """The experiments that match a filter such as "name LIKE 'flight%'", the newest first."""
        return self._portal.run(self._wrapped.search_experiments(filter))

    def create_run(
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
        return self._portal.run(
            self._wrapped.create_run(
                experiment_id, name=name, tags=tags, started_at=started_at, request_id=request_id
            )
        )

    def get_run(self, run_id: str) -> tracking_pb2.Run:
        """Reads a run with its parameters, latest metrics and tags."""
        return self._portal.run(self._wrapped.get_run(run_id))

    def end_run(
        self,
        run_id: str,
        status: tracking_pb2.RunStatus.ValueType = tracking_pb2.RUN_STATUS_FINISHED,
        *,
        ended_at: datetime | None = None,
    ) -> tracking_pb2.Run:
        """Ends a run with a final status; now when no time is given."""
        return self._portal.run(self._wrapped.end_run(run_id, status, ended_at=ended_at))

    def log(
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
        return self._portal.run(
            self._wrapped.log(
                run_id, metrics=metrics, step=step, params=params, tags=tags, inputs=inputs
            )
        )

    def log_metrics(self, run_id: str, metrics: Sequence[tracking_pb2.Metric]) -> None:
        """Appends any number of metric points, a thousand per call."""
        return self._portal.run(self._wrapped.log_metrics(run_id, metrics))

    def stream_metrics(self, run_id: str, *, most_waiting: int = 1000000) -> MetricStream:
        """Opens a stream of a run's metrics; its `log` never waits.

        Args:
            run_id: The run.
            most_waiting: How many points may wait in memory; what is logged beyond is dropped and
                counted in `dropped`.
        """
        return self._portal.run(self._wrapped.stream_metrics(run_id, most_waiting=most_waiting))

    def metric_history(self, run_id: str, key: str) -> list[tracking_pb2.Metric]:
        """All points of one metric, ordered by step and time."""
        return self._portal.run(self._wrapped.metric_history(run_id, key))

    def downsample(
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
        return self._portal.run(
            self._wrapped.downsample(
                run_id, key, buckets=buckets, first_step=first_step, last_step=last_step
            )
        )

    def downsample_many(
        self, run_id: str, keys: Sequence[str], *, buckets: int = 400
    ) -> dict[str, list[tracking_pb2.MetricBucket]]:
        """Several metrics of a run, each as `downsample` answers it; those without points are not.

        Args:
            run_id: The run.
            keys: The metrics.
            buckets: How many each has at most, up to 10,000.
        """
        return self._portal.run(self._wrapped.downsample_many(run_id, keys, buckets=buckets))

    def tail_run(self, run_id: str) -> Iterator[tracking_service_pb2.TailRunResponse]:
        """A run as it is, then what changes: the run, and the latest points, until it ends."""
        return self._portal.iterate(self._wrapped.tail_run(run_id))

    def export_metrics(
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
        return self._portal.run(
            self._wrapped.export_metrics(
                run_ids=run_ids, experiment_ids=experiment_ids, filter=filter, keys=keys
            )
        )

    def export_arrow(
        self,
        *,
        run_ids: Sequence[str] = (),
        experiment_ids: Sequence[str] = (),
        filter: str = "",
        keys: Sequence[str] = (),
    ) -> Iterator[bytes]:
        """As `export_metrics`, as the bytes of one Arrow IPC stream, in pieces."""
        return self._portal.iterate(
            self._wrapped.export_arrow(
                run_ids=run_ids, experiment_ids=experiment_ids, filter=filter, keys=keys
            )
        )

    def search_runs(
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
        return self._portal.run(
            self._wrapped.search_runs(experiment_ids, filter, order_by=order_by, limit=limit)
        )

    def upload_artifact(
        self, run_id: str, path: str, content: bytes | Path
    ) -> tracking_pb2.ArtifactInfo:
        """Writes one artifact of a run, from bytes or from a local file."""
        return self._portal.run(self._wrapped.upload_artifact(run_id, path, content))

    def download_artifact(self, run_id: str, path: str) -> bytes:
        """The content of one artifact."""
        return self._portal.run(self._wrapped.download_artifact(run_id, path))

    def list_artifacts(self, run_id: str, path: str = "") -> list[tracking_pb2.ArtifactInfo]:
        """Files and folders directly below `path` among a run's artifacts, by name."""
        return self._portal.run(self._wrapped.list_artifacts(run_id, path))

    def list_given_up_deliveries(self, webhook_id: str = "") -> list[tracking_pb2.GivenUpDelivery]:
        """What webhooks did not take, the newest first; of all webhooks without an id."""
        return self._portal.run(self._wrapped.list_given_up_deliveries(webhook_id))

    def purge_deleted(
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
        return self._portal.run(
            self._wrapped.purge_deleted(
                experiment_ids=experiment_ids,
                run_ids=run_ids,
                model_ids=model_ids,
                older_than=older_than,
                dry_run=dry_run,
            )
        )
