"""Where models come from, over gRPC: the catalog's lineage, tracking's runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from services.inference.adapters.acting import ActingTokens, raised_here
from services.inference.domain.explanation import (
    LineageNode,
    LineageStep,
    NodeKind,
    RunFacts,
    UsedTable,
)
from services.inference.errors import StoreUnavailable
from tessera.catalog.v1 import lineage_service_pb2, lineage_service_pb2_grpc
from tessera.tracking.v1 import tracking_pb2, tracking_service_pb2, tracking_service_pb2_grpc
from tessera_kit.errors import InvalidArgument
from tessera_kit.names import parse_full_name

__all__ = ["GrpcLineage", "GrpcRuns"]

_PREFIX: Final = "LINEAGE_NODE_TYPE_"
_DEPTH: Final = 6
"""Steps from a version over a logged model, a run and a job to tables, and one to spare."""
_COMMIT, _BRANCH, _REPOSITORY, _SOURCE = (
    "mlflow.source.git.commit",
    "mlflow.source.git.branch",
    "mlflow.source.git.repoURL",
    "mlflow.source.name",
)
_JOB: Final = "tessera.job_id"


class GrpcLineage:
    """`ports.Lineage`.

    Args:
        plain: Channel to the catalog without a token.
        acting: Makes tokens.
    """

    def __init__(self, plain: grpc.aio.Channel, acting: ActingTokens) -> None:
        self._stub = lineage_service_pb2_grpc.LineageServiceStub(plain)
        self._acting = acting

    async def upstream(self, principal: str, node: LineageNode) -> Sequence[LineageStep]:
        """What a node was made of, the nearest first."""
        kinds = lineage_service_pb2.LineageNodeType
        request = lineage_service_pb2.GetLineageRequest(
            node=lineage_service_pb2.LineageNode(
                type=kinds.Value(f"{_PREFIX}{node.kind.value}"), name=node.name
            ),
            direction=lineage_service_pb2.LINEAGE_DIRECTION_UPSTREAM,
            max_depth=_DEPTH,
        )
        with raised_here("the catalog"):
            found = await self._stub.GetLineage(
                request, metadata=await self._acting.metadata(principal)
            )
        return [
            LineageStep(_node(edge.source), _node(edge.target), edge.source_version)
            for edge in found.edges
            if _is_known(edge.source) and _is_known(edge.target)
        ]


class GrpcRuns:
    """`ports.Runs`.

    Args:
        tracking: Channel to tracking without a token; None where no tracking is known.
        acting: Makes tokens.
    """

    def __init__(self, tracking: grpc.aio.Channel | None, acting: ActingTokens) -> None:
        self._stub = (
            None if tracking is None else tracking_service_pb2_grpc.TrackingServiceStub(tracking)
        )
        self._acting = acting

    async def run(self, principal: str, run_id: str) -> RunFacts:
        """Read a run."""
        if self._stub is None:
            raise StoreUnavailable("tracking is not known here; set TESSERA_TRACKING_TARGET")
        with raised_here("tracking"):
            found = await self._stub.GetRun(
                tracking_service_pb2.GetRunRequest(run_id=run_id),
                metadata=await self._acting.metadata(principal),
            )
        return _facts(found.run)


def _node(node: lineage_service_pb2.LineageNode) -> LineageNode:
    kind = lineage_service_pb2.LineageNodeType.Name(node.type)
    return LineageNode(NodeKind(kind.removeprefix(_PREFIX)), node.name)


def _is_known(node: lineage_service_pb2.LineageNode) -> bool:
    """Whether a node is of a kind that is known here: the catalog may be newer."""
    kinds = lineage_service_pb2.LineageNodeType.values()
    return node.type != lineage_service_pb2.LINEAGE_NODE_TYPE_UNSPECIFIED and node.type in kinds


def _facts(run: tracking_pb2.Run) -> RunFacts:
    tags = {tag.key: tag.value for tag in run.tags}
    return RunFacts(
        run_id=run.run_id,
        name=run.name,
        experiment_id=run.experiment_id,
        created_by=run.created_by,
        started_at=_time(run.started_at) if run.HasField("started_at") else None,
        ended_at=_time(run.ended_at) if run.HasField("ended_at") else None,
        git_commit=tags.get(_COMMIT, ""),
        git_branch=tags.get(_BRANCH, ""),
        git_repository=tags.get(_REPOSITORY, ""),
        source_name=tags.get(_SOURCE, ""),
        job_id=tags.get(_JOB, ""),
        tables=tuple(
            UsedTable(one.name, one.digest, one.context)
            for one in run.inputs
            if _is_table(one.name)
        ),
    )


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)


def _is_table(name: str) -> bool:
    try:
        parse_full_name(name, 3)
    except InvalidArgument:
        return False
    return True
