"""The events that training tells: those of a new job, and those of a change; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from services.training.convert import messages
from services.training.domain.job import InputTable, Job, JobState
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera.events.v1 import catalog_events_pb2, training_events_pb2
from tessera.training.v1 import job_pb2
from tessera_kit.bus.event import Event, new_event

__all__ = ["events_of", "submitted"]

SOURCE = "tessera/training"
_ATTEMPTS_IN_WORDS = 10


def submitted(job: Job) -> Event:
    """The event of a new job."""
    data = training_events_pb2.JobSubmitted(job=_public(job))
    return new_event(data, source=SOURCE, key=job.job_id, event_id=f"{job.job_id}.submitted")


def events_of(before: Job, after: Job) -> Iterator[Event]:
    """The events of a change. Their ids follow from what they tell: twice told counts once."""
    started = _newly_started(before, after)
    if started is not None:
        yield _told(after, f"attempt.{started}", _attempt_started(after))
    if after.run_id != before.run_id:
        job_node = _node(lineage.LINEAGE_NODE_TYPE_JOB, after.job_id)
        yield _lineage(after, "run", [_edge(after, job_node, _run_node(after))])
    if tables := _newly_seen(before, after):
        yield _lineage(after, f"tables.{_digest(tables)}", _table_edges(after, tables))
    if after.checkpoint != before.checkpoint and after.checkpoint is not None:
        checkpoint = after.checkpoint
        data = training_events_pb2.JobCheckpointSaved(
            job_id=after.job_id, checkpoint=messages.checkpoint_message(checkpoint)
        )
        yield _told(after, f"checkpoint.{checkpoint.attempt}.{checkpoint.step}", data)
    if after.output_model_version != before.output_model_version:
        yield _lineage(after, f"version.{after.output_model_version}", [_version_edge(after)])
    if after.state.is_final and not before.state.is_final:
        yield _told(after, "ended", training_events_pb2.JobEnded(job=_public(after)))


def _public(job: Job) -> job_pb2.Job:
    """The job without what may be secret or large: an event is a fact, not a delivery."""
    message = messages.job_message(job)
    if message.spec.WhichOneof("source") == "file":
        digest = hashlib.sha256(message.spec.file.content.encode()).hexdigest()
        message.spec.file.content = f"# left out; sha256 {digest}\n"
    for name in message.spec.environment:
        message.spec.environment[name] = ""
    for attempt in message.attempts[:-_ATTEMPTS_IN_WORDS]:
        attempt.message = ""
    return message


def _newly_started(before: Job, after: Job) -> int | None:
    attempt = after.attempt
    if attempt is None or attempt.state is not JobState.RUNNING:
        return None
    old = before.attempt
    known = old is not None and old.number == attempt.number and old.state is JobState.RUNNING
    return None if known else attempt.number


def _attempt_started(job: Job) -> training_events_pb2.JobAttemptStarted:
    assert job.attempt is not None  # noqa: S101 - the caller saw it
    return training_events_pb2.JobAttemptStarted(
        job_id=job.job_id, attempt=messages.attempt_message(job.attempt)
    )


def _told(
    job: Job,
    what: str,
    data: training_events_pb2.JobAttemptStarted
    | training_events_pb2.JobCheckpointSaved
    | training_events_pb2.JobEnded,
) -> Event:
    return new_event(data, source=SOURCE, key=job.job_id, event_id=f"{job.job_id}.{what}")


def _node(kind: lineage.LineageNodeType.ValueType, name: str) -> lineage.LineageNode:
    return lineage.LineageNode(type=kind, name=name)


def _run_node(job: Job) -> lineage.LineageNode:
    return _node(lineage.LINEAGE_NODE_TYPE_RUN, job.run_id)


def _newly_seen(before: Job, after: Job) -> list[InputTable]:
    """The tables that an attempt came to know in a version that was not told last."""
    if after.attempt is None:
        return []
    told = {
        table.full_name: table.version
        for attempt in before.attempts
        for table in attempt.input_tables
    }
    return [
        table for table in after.attempt.input_tables if told.get(table.full_name) != table.version
    ]


def _digest(tables: Sequence[InputTable]) -> str:
    text = "\n".join(f"{table.full_name} {table.version}" for table in tables)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _table_edges(job: Job, tables: Sequence[InputTable]) -> list[lineage.LineageEdge]:
    edges = []
    for table in tables:
        source = _node(lineage.LINEAGE_NODE_TYPE_TABLE, table.full_name)
        edge = _edge(job, source, _run_node(job))
        edge.source_version = table.version
        edges.append(edge)
    return edges


def _version_edge(job: Job) -> lineage.LineageEdge:
    version = f"{job.spec.output_model}/{job.output_model_version}"
    return _edge(
        job,
        _run_node(job),
        _node(lineage.LINEAGE_NODE_TYPE_MODEL_VERSION, version),
    )


def _edge(
    job: Job, source: lineage.LineageNode, target: lineage.LineageNode
) -> lineage.LineageEdge:
    edge = lineage.LineageEdge(source=source, target=target, principal=job.submitted_by)
    edge.observed_at.GetCurrentTime()
    return edge


def _lineage(job: Job, what: str, edges: list[lineage.LineageEdge]) -> Event:
    target = edges[0].target
    kind = lineage.LineageNodeType.Name(target.type).removeprefix("LINEAGE_NODE_TYPE_")
    return new_event(
        catalog_events_pb2.LineageObserved(edges=edges),
        source=SOURCE,
        key=f"{kind}:{target.name}",
        event_id=f"{job.job_id}.lineage.{what}",
    )
