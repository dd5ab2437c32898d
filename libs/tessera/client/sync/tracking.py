"""Experiments and runs."""

# Made from tessera.client.aio.tracking by infra/tasks/sync_client.py.
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tessera.client.aio.tracking import AsyncTracking
from tessera.client.portal import Portal
from tessera.tracking.v1 import tracking_pb2


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

    def search_experiments(self, filter: str = "") -> list[tracking_pb2.Experiment]:
        """The experiments that match a filter such as "name LIKE 'flight%'", the newest first."""
        return self._portal.run(self._wrapped.search_experiments(filter))

    def create_run(
        self, experiment_id: str, *, name: str = "", tags: Mapping[str, str] | None = None
    ) -> tracking_pb2.Run:
        """Creates a run, under way from now on."""
        return self._portal.run(self._wrapped.create_run(experiment_id, name=name, tags=tags))

    def get_run(self, run_id: str) -> tracking_pb2.Run:
        """Reads a run with its parameters, latest metrics and tags."""
        return self._portal.run(self._wrapped.get_run(run_id))

    def end_run(
        self,
        run_id: str,
        status: tracking_pb2.RunStatus.ValueType = tracking_pb2.RUN_STATUS_FINISHED,
    ) -> tracking_pb2.Run:
        """Ends a run with a final status, now."""
        return self._portal.run(self._wrapped.end_run(run_id, status))

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

    def metric_history(self, run_id: str, key: str) -> list[tracking_pb2.Metric]:
        """All points of one metric, ordered by step and time."""
        return self._portal.run(self._wrapped.metric_history(run_id, key))

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
