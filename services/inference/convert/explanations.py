"""Explanations to messages."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from services.inference.convert.endpoints import timestamp
from services.inference.domain.explanation import Explanation, ModelOrigin, RunFacts
from tessera.inference.v1 import explanation_pb2 as pb

__all__ = ["explanation_message"]


def explanation_message(explanation: Explanation) -> pb.RequestExplanation:
    """The message of an explanation."""
    request = explanation.request
    return pb.RequestExplanation(
        tessera_request_id=request.request_id,
        client_request_id=request.client_request_id,
        endpoint=request.endpoint,
        config_version=request.config_version,
        route=_route(request.route),
        served_entity=request.served_entity,
        failed_served_entities=request.failed_entities,
        requested_at=timestamp(request.requested_at),
        duration=_duration(request.duration_ms),
        model_duration=_duration(request.model_duration_ms),
        status_code=request.status_code,
        status_message=request.status_message,
        requester=request.requester,
        trace_id=request.trace_id,
        inference_table_full_name=explanation.table,
        model=None if explanation.origin is None else _origin(explanation.origin),
        gaps=[pb.ExplanationGap(part=gap.part, reason=gap.reason) for gap in explanation.gaps],
    )


def _origin(origin: ModelOrigin) -> pb.ModelOrigin:
    return pb.ModelOrigin(
        model_name=origin.model_name,
        model_version=origin.model_version,
        created_by=origin.created_by,
        created_at=None if origin.created_at is None else timestamp(origin.created_at),
        run=None if origin.run is None else _run(origin.run),
        job_id=origin.job_id,
        logged_model_ids=origin.logged_models,
        tables=[
            pb.TrainingTable(
                full_name=table.full_name, version=table.version, context=table.context
            )
            for table in origin.tables
        ],
    )


def _run(run: RunFacts) -> pb.TrainingRun:
    return pb.TrainingRun(
        run_id=run.run_id,
        name=run.name,
        experiment_id=run.experiment_id,
        created_by=run.created_by,
        started_at=None if run.started_at is None else timestamp(run.started_at),
        ended_at=None if run.ended_at is None else timestamp(run.ended_at),
        git_commit=run.git_commit,
        git_branch=run.git_branch,
        git_repository=run.git_repository,
        source_name=run.source_name,
    )


def _route(name: str) -> pb.AnswerRoute.ValueType:
    try:
        return pb.AnswerRoute.Value(f"ANSWER_ROUTE_{name}")
    except ValueError:
        return pb.ANSWER_ROUTE_UNSPECIFIED


def _duration(milliseconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(milliseconds=milliseconds))
    return duration
