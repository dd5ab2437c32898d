"""Metrics and progress, sent in the background so that training does not wait for them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from tessera.jobs.calls import PATIENCE_SECONDS, Door
from tessera.jobs.surroundings import Surroundings
from tessera.tracking.v1 import tracking_pb2, tracking_service_pb2
from tessera.tracking.v1.tracking_service_pb2_grpc import TrackingServiceStub
from tessera.training.v1 import job_pb2
from tessera.training.v1 import training_service_pb2 as pb
from tessera.training.v1.training_service_pb2_grpc import JobRuntimeServiceStub
from tessera_kit.errors import TesseraError

__all__ = ["Reporter"]

_PAUSE_SECONDS = 0.25
_BATCH = 1000
_MOST_WAITING = 100_000
_LAST_PATIENCE = 30.0


class Reporter:
    """Sends what a job reports, a few times a second.

    Args:
        training: Takes progress.
        tracking: Takes metrics and parameters.
        surroundings: Of which job and run.
    """

    def __init__(self, training: Door, tracking: Door, surroundings: Surroundings) -> None:
        self._training, self._tracking = training, tracking
        self._runtime: Any = JobRuntimeServiceStub(training.channel)
        self._runs: Any = TrackingServiceStub(tracking.channel)
        self._job_id, self._run_id = surroundings.job_id, surroundings.run_id
        self._changed = threading.Condition()
        self._metrics: list[tracking_pb2.Metric] = []
        self._progress: job_pb2.Progress | None = None
        self._sending = False
        self._closed = False
        self._failure: TesseraError | None = None
        self.should_stop = threading.Event()
        """Set once the service says that the job should stop."""
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Queue points of metrics.

        Raises:
            TesseraError: Earlier ones were refused.
        """
        now = Timestamp()
        now.GetCurrentTime()
        points = [
            tracking_pb2.Metric(key=key, value=value, timestamp=now, step=step)
            for key, value in values.items()
        ]
        with self._changed:
            self._raise_failure()
            self._changed.wait_for(lambda: len(self._metrics) < _MOST_WAITING or self._closed)
            self._metrics.extend(points)
            self._changed.notify_all()

    def params(self, values: Mapping[str, object]) -> None:
        """Write parameters now.

        Raises:
            TesseraError: They were refused, as when one has another value already.
        """
        params = [tracking_pb2.Param(key=key, value=str(value)) for key, value in values.items()]
        for start in range(0, len(params), 100):
            request = tracking_service_pb2.LogBatchRequest(
                run_id=self._run_id, params=params[start : start + 100]
            )
            self._tracking.call(self._runs.LogBatch, request)

    def progress(self, progress: job_pb2.Progress) -> None:
        """Queue how far the job is; only the latest counts."""
        with self._changed:
            self._raise_failure()
            self._progress = progress
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything queued is sent.

        Raises:
            TesseraError: Something was refused.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_idle() or not self._thread.is_alive())
            self._raise_failure()

    def close(self) -> None:
        """Send what is queued, as far as the services take it soon, and end.

        Raises:
            TesseraError: Something was refused.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            self._raise_failure()

    def _is_idle(self) -> bool:
        return not self._metrics and self._progress is None and not self._sending

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_idle() or self._closed)
                if self._is_idle():
                    return
                metrics, self._metrics = self._metrics[:_BATCH], self._metrics[_BATCH:]
                progress, self._progress = self._progress, None
                self._sending = True
                patience = _LAST_PATIENCE if self._closed else PATIENCE_SECONDS
            try:
                self._send(metrics, progress, patience)
            except TesseraError as failure:
                self._failure = failure
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                # Gathers what comes meanwhile; the end does not wait.
                self._changed.wait_for(lambda: self._closed, _PAUSE_SECONDS)

    def _send(
        self,
        metrics: list[tracking_pb2.Metric],
        progress: job_pb2.Progress | None,
        patience: float,
    ) -> None:
        if metrics:
            batch = tracking_service_pb2.LogBatchRequest(run_id=self._run_id, metrics=metrics)
            self._tracking.call(self._runs.LogBatch, batch, patience=patience)
        if progress is not None:
            report = pb.ReportProgressRequest(job_id=self._job_id, progress=progress)
            answer = self._training.call(self._runtime.ReportProgress, report, patience=patience)
            if answer.should_stop:
                self.should_stop.set()
