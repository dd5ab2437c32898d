"""Between the contract's messages and the domain; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from services.tracking.domain.artifacts import Artifact
from services.tracking.domain.batch import Batch, check_params_unique, check_run_tags
from services.tracking.domain.buckets import Bucket
from services.tracking.domain.experiment import Experiment, ExperimentChange
from services.tracking.domain.keys import check_key, check_text
from services.tracking.domain.lifecycle import LifecycleStage, Micros, fits_64_bits
from services.tracking.domain.metrics import Point
from services.tracking.domain.points import Floats, Integers, Points
from services.tracking.domain.retention import Deleted, Kind
from services.tracking.domain.run import DatasetInput, Run, RunChange, RunNews, RunStatus
from services.tracking.domain.webhooks import GivenUp
from services.tracking.errors import InvalidUpdate, InvalidValue
from tessera.tracking.v1 import tracking_pb2 as pb
from tessera.tracking.v1 import tracking_service_pb2 as service_pb

__all__ = [
    "age_of",
    "artifact_message",
    "batch_of",
    "bucket_message",
    "deleted_message",
    "experiment_change",
    "experiment_message",
    "joined_points",
    "kinds_of",
    "metric_message",
    "micros_of_message",
    "news_message",
    "point_at",
    "point_position",
    "points_of",
    "run_change",
    "run_message",
    "series_of",
    "stage_of",
    "status_of",
    "timestamp_message",
]

MAX_STREAMED: Final = 100_000

_MICROS: Final = 1_000_000
_CENTURY: Final = 36_500 * 86_400
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that a Timestamp may have

_STAGES: Final = {
    pb.LIFECYCLE_STAGE_UNSPECIFIED: LifecycleStage.ACTIVE,
    pb.LIFECYCLE_STAGE_ACTIVE: LifecycleStage.ACTIVE,
    pb.LIFECYCLE_STAGE_DELETED: LifecycleStage.DELETED,
}
_STAGE_NUMBERS: Final = {
    LifecycleStage.ACTIVE: pb.LIFECYCLE_STAGE_ACTIVE,
    LifecycleStage.DELETED: pb.LIFECYCLE_STAGE_DELETED,
}
_STATUS_NUMBERS: Final = {
    RunStatus.RUNNING: pb.RUN_STATUS_RUNNING,
    RunStatus.SCHEDULED: pb.RUN_STATUS_SCHEDULED,
    RunStatus.FINISHED: pb.RUN_STATUS_FINISHED,
    RunStatus.FAILED: pb.RUN_STATUS_FAILED,
    RunStatus.KILLED: pb.RUN_STATUS_KILLED,
}
_DELETED_NUMBERS: Final = {
    Kind.EXPERIMENT: pb.DELETED_KIND_EXPERIMENT,
    Kind.RUN: pb.DELETED_KIND_RUN,
    Kind.MODEL: pb.DELETED_KIND_LOGGED_MODEL,
}
_STATUSES: Final = {number: status for status, number in _STATUS_NUMBERS.items()}


# Times


def timestamp_message(micros: Micros) -> Timestamp:
    """Return the time as a message."""
    seconds, rest = divmod(micros, _MICROS)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def _optional_time(micros: Micros | None) -> Timestamp | None:
    return None if micros is None else timestamp_message(micros)


def micros_of_message(timestamp: Timestamp, field: str) -> Micros:
    """Return the time in microseconds; a finer fraction is cut off.

    Raises:
        InvalidValue: It lies before 1970 or after the year 9999.
    """
    seconds, nanos = timestamp.seconds, timestamp.nanos
    if not (0 <= seconds <= _LAST_SECOND and 0 <= nanos < 1_000_000_000):
        raise InvalidValue(f"{field} must lie between the years 1970 and 9999", field)
    return seconds * _MICROS + nanos // 1000


# From messages


def stage_of(stage: pb.LifecycleStage.ValueType) -> LifecycleStage:
    """Return the stage; active when unspecified."""
    return _STAGES[stage]


def status_of(status: pb.RunStatus.ValueType) -> RunStatus | None:
    """Return the status; None when unspecified."""
    return _STATUSES.get(status)


def points_of(metrics: Sequence[pb.Metric]) -> list[Point]:
    """Return the points of metrics, each checked.

    Raises:
        InvalidKey: A name breaks the rules.
        InvalidValue: A time is before 1970 or after the year 9999.
    """
    points: list[Point] = []
    checked: set[str] = set()
    for index, metric in enumerate(metrics):
        key = metric.key
        if key not in checked:
            checked.add(check_key(key, "metric", f"metrics[{index}].key"))
        timestamp = metric.timestamp
        seconds, nanos = timestamp.seconds, timestamp.nanos
        if not (0 <= seconds <= _LAST_SECOND and 0 <= nanos < 1_000_000_000):
            raise InvalidValue(
                f"Got invalid timestamp {seconds * 1000} for metric '{key}' "
                f"(value={metric.value}). Timestamp must be a nonnegative long (64-bit integer) ",
                f"metrics[{index}].timestamp",
            )
        points.append(Point(key, metric.step, seconds * _MICROS + nanos // 1000, metric.value))
    return points


def joined_points(metrics: Sequence[pb.Metric], series: Sequence[pb.MetricSeries]) -> Points:
    """Return the points of one message, each checked.

    Raises:
        InvalidKey: A name breaks the rules.
        InvalidValue: A time is before 1970 or after the year 9999, the columns of a series differ
            in length, or there are more than 100,000 points.
    """
    blocks = [Points.of(points_of(metrics))] if metrics else []
    blocks.append(Points.of_series(series_of(series)))
    points = Points.joined(blocks)
    if len(points) > MAX_STREAMED:
        raise InvalidValue(
            f"a message holds at most {MAX_STREAMED} points, not {len(points)}", "series"
        )
    return points


def series_of(
    series: Sequence[pb.MetricSeries],
) -> list[tuple[str, Integers, Integers, Floats]]:
    """Return the columns of series, each checked.

    Raises:
        InvalidKey, InvalidValue: As `joined_points`.
    """
    found: list[tuple[str, Integers, Integers, Floats]] = []
    for index, one in enumerate(series):
        path = f"series[{index}]"
        check_key(one.key, "metric", f"{path}.key")
        count = len(one.values)
        if not len(one.steps) == len(one.times_us) == count:
            raise InvalidValue(
                f"{path} has {len(one.steps)} steps, {len(one.times_us)} times and {count} "
                "values; give as many of each",
                path,
            )
        times = np.fromiter(one.times_us, np.int64, count)
        if ((times < 0) | (times >= (_LAST_SECOND + 1) * _MICROS)).any():
            raise InvalidValue(
                f"{path}.times_us must lie between the years 1970 and 9999, in microseconds",
                f"{path}.times_us",
            )
        steps = np.fromiter(one.steps, np.int64, count)
        found.append((one.key, steps, times, np.fromiter(one.values, np.float64, count)))
    return found


def batch_of(request: service_pb.LogBatchRequest, principal: str) -> Batch:
    """Return the batch of a request, everything in it checked.

    Raises:
        InvalidKey, InvalidValue, DuplicateParams: Something in it breaks the rules.
    """
    return Batch(
        run_id=request.run_id,
        principal=principal,
        points=points_of(request.metrics),
        params=check_params_unique([(one.key, one.value) for one in request.params]),
        tags=check_run_tags([(one.key, one.value) for one in request.tags]),
        inputs=_inputs(request.inputs),
    )


def _inputs(inputs: Iterable[pb.DatasetInput]) -> tuple[DatasetInput, ...]:
    found: list[DatasetInput] = []
    for index, one in enumerate(inputs):
        path = f"inputs[{index}]"
        name = check_text(one.name, 500, "Dataset name", f"{path}.name")
        digest = check_text(one.digest, 64, "Dataset digest", f"{path}.digest")
        context = check_text(one.context, 64, "Dataset context", f"{path}.context")
        found.append(DatasetInput(name, digest, context))
    return tuple(found)


# To messages


def experiment_message(experiment: Experiment) -> pb.Experiment:
    """Return the experiment as a message."""
    return pb.Experiment(
        experiment_id=experiment.experiment_id,
        name=experiment.name,
        artifact_location=experiment.artifact_location,
        lifecycle_stage=_STAGE_NUMBERS[experiment.stage],
        tags=dict(experiment.tags),
        created_by=experiment.created_by,
        created_at=timestamp_message(experiment.created_at),
        updated_at=timestamp_message(experiment.updated_at),
        etag=experiment.etag,
        deleted_at=_optional_time(experiment.deleted_at),
    )


def run_message(run: Run) -> pb.Run:
    """Return the run as a message."""
    info = run.info
    return pb.Run(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        name=info.name,
        status=_STATUS_NUMBERS[info.status],
        started_at=timestamp_message(info.started_at),
        ended_at=_optional_time(info.ended_at),
        artifact_location=info.artifact_location,
        lifecycle_stage=_STAGE_NUMBERS[info.stage],
        created_by=info.created_by,
        params=[pb.Param(key=key, value=value) for key, value in run.params.items()],
        metrics=[metric_message(point) for point in run.metrics.values()],
        tags=[pb.Tag(key=key, value=value) for key, value in run.tags.items()],
        inputs=[pb.DatasetInput(name=n, digest=d, context=c) for n, d, c in run.inputs],
        etag=info.etag,
        metric_extremes=[
            pb.MetricExtremes(key=key, min=ends.minimum, max=ends.maximum)
            for key, ends in run.extremes.items()
        ],
        deleted_at=_optional_time(info.deleted_at),
    )


def kinds_of(request: service_pb.PurgeDeletedRequest) -> dict[Kind, Sequence[str]]:
    """Return what a request names."""
    return {
        Kind.EXPERIMENT: request.experiment_ids,
        Kind.RUN: request.run_ids,
        Kind.MODEL: request.model_ids,
    }


def age_of(request: service_pb.PurgeDeletedRequest) -> timedelta:
    """Return for how long things must have been deleted.

    Raises:
        InvalidValue: It is negative, or longer than a hundred years.
    """
    if not 0 <= request.older_than.seconds <= _CENTURY or request.older_than.nanos < 0:
        raise InvalidValue("older_than must be 0 to 36500 days", "older_than")
    return request.older_than.ToTimedelta()


def deleted_message(deleted: Deleted) -> pb.DeletedThing:
    """Return what was deleted as a message."""
    return pb.DeletedThing(
        kind=_DELETED_NUMBERS[deleted.kind],
        id=deleted.id,
        experiment_id=deleted.experiment_id,
        name=deleted.name,
        deleted_at=_optional_time(deleted.deleted_at),
    )


def bucket_message(bucket: Bucket) -> pb.MetricBucket:
    """Return the bucket as a message."""
    return pb.MetricBucket(
        first_step=bucket.first_step,
        last_step=bucket.last_step,
        first_at=timestamp_message(bucket.first_at),
        last_at=timestamp_message(bucket.last_at),
        count=bucket.points,
        nan_count=bucket.nan_count,
        min=bucket.minimum,
        max=bucket.maximum,
        mean=bucket.mean,
    )


def news_message(news: RunNews) -> service_pb.TailRunResponse:
    """Return what is new of a run as a message."""
    message = service_pb.TailRunResponse(metrics=[metric_message(one) for one in news.points])
    if news.run is not None:
        message.run.CopyFrom(run_message(replace(news.run, metrics={}, extremes={})))
    return message


def metric_message(point: Point) -> pb.Metric:
    """Return the point as a message."""
    return pb.Metric(
        key=point.key,
        value=point.value,
        timestamp=timestamp_message(point.timestamp),
        step=point.step,
    )


def artifact_message(artifact: Artifact) -> pb.ArtifactInfo:
    """Return the artifact as a message."""
    return pb.ArtifactInfo(
        path=artifact.path, is_directory=artifact.is_directory, size_bytes=artifact.size
    )


# Updates


def given_up_message(given_up: GivenUp) -> pb.GivenUpDelivery:
    """Return a delivery that was given up as a message."""
    delivery = given_up.delivery
    return pb.GivenUpDelivery(
        delivery_id=delivery.delivery_id,
        webhook_id=delivery.webhook_id,
        body=delivery.body,
        created_at=timestamp_message(delivery.created_at),
        given_up_at=timestamp_message(given_up.given_up_at),
        attempts=delivery.attempts,
        reason=given_up.reason,
    )


def experiment_change(request: service_pb.UpdateExperimentRequest) -> ExperimentChange:
    """Return what an update changes.

    Raises:
        InvalidUpdate: The mask is empty or names a field that cannot be changed.
    """
    paths = _paths(request.update_mask.paths, {"name", "tags"})
    experiment = request.experiment
    return ExperimentChange(
        name=experiment.name if "name" in paths else None,
        tags=dict(sorted(experiment.tags.items())) if "tags" in paths else None,
        etag=experiment.etag,
    )


def run_change(request: service_pb.UpdateRunRequest) -> RunChange:
    """Return what an update changes.

    Raises:
        InvalidUpdate: The mask is empty or names a field that cannot be changed, or a field that it
            names has no value.
        InvalidValue: The end lies before 1970 or after the year 9999.
    """
    paths = _paths(request.update_mask.paths, {"name", "status", "ended_at"})
    run = request.run
    status = status_of(run.status) if "status" in paths else None
    if "status" in paths and status is None:
        raise InvalidUpdate("status must be one that the contract declares", "run.status")
    if "ended_at" in paths and not run.HasField("ended_at"):
        raise InvalidUpdate("ended_at must be set", "run.ended_at")
    return RunChange(
        name=run.name if "name" in paths else None,
        status=status,
        ended_at=micros_of_message(run.ended_at, "run.ended_at") if "ended_at" in paths else None,
        etag=run.etag,
    )


def _paths(paths: Iterable[str], known: set[str]) -> set[str]:
    found = set(paths)
    if not found:
        raise InvalidUpdate("update_mask must name at least one field", "update_mask")
    for path in sorted(found - known):
        raise InvalidUpdate(
            f"update_mask: {path!r} cannot be changed; use {', '.join(sorted(known))}",
            "update_mask",
        )
    return found


# Pages of a metric's history


def point_position(point: Point) -> dict[str, str | int]:
    """Return a point's place in its metric's history, for a page token."""
    return {"s": point.step, "t": point.timestamp, "v": point.value.hex()}


def point_at(position: Mapping[str, str | int], key: str) -> Point:
    """Return the point that `point_position` told of.

    Raises:
        ValueError: It was not written by `point_position`.
    """
    try:
        step, timestamp, value = int(position["s"]), int(position["t"]), str(position["v"])
    except KeyError as error:
        raise ValueError(f"no {error}") from None
    if not (fits_64_bits(step) and fits_64_bits(timestamp)):
        raise ValueError("out of range")
    return Point(key, step, timestamp, float.fromhex(value))
