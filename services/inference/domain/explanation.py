"""What produced an answer: a request's row, the model version in it, and what that was made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

__all__ = [
    "KEPT_COLUMNS",
    "Explanation",
    "Gap",
    "KeptRequest",
    "LineageNode",
    "LineageStep",
    "ModelOrigin",
    "NodeKind",
    "Origins",
    "RunFacts",
    "UsedTable",
    "origins_of",
    "tables_of",
]


class NodeKind(StrEnum):
    """Kinds of lineage nodes, by the catalog's names."""

    TABLE = "TABLE"
    VOLUME = "VOLUME"
    JOB = "JOB"
    RUN = "RUN"
    MODEL_VERSION = "MODEL_VERSION"
    ENDPOINT = "ENDPOINT"
    MONITOR = "MONITOR"
    LOGGED_MODEL = "LOGGED_MODEL"


_WALKED = frozenset({NodeKind.RUN, NodeKind.JOB, NodeKind.LOGGED_MODEL})
"""Steps of one training: what lies behind other kinds was made by others."""


@dataclass(frozen=True, slots=True)
class LineageNode:
    """One thing in the lineage graph."""

    kind: NodeKind
    name: str


@dataclass(frozen=True, slots=True)
class LineageStep:
    """The target was made from the source."""

    source: LineageNode
    target: LineageNode
    source_version: str = ""
    """Which version of the source was used; empty when lineage does not say."""


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A request as its row in the inference table tells of it."""

    request_id: str
    client_request_id: str
    endpoint: str
    served_entity: str
    failed_entities: tuple[str, ...]
    model_name: str
    model_version: int
    config_version: int
    route: str
    """PRIMARY, SHADOW, FALLBACK or REFUSED."""
    status_code: int
    status_message: str
    requested_at: datetime
    duration_ms: float
    model_duration_ms: float
    requester: str
    trace_id: str

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> KeptRequest:
        """The request of a row's columns, of which `KEPT_COLUMNS` are needed."""
        values: list[Any] = [columns[name] for name in KEPT_COLUMNS]
        failed = KEPT_COLUMNS.index("failed_entity_ids")
        values[failed] = tuple(values[failed])
        return cls(*values)


KEPT_COLUMNS: Final = (
    *("tessera_request_id", "client_request_id", "endpoint", "served_entity_id"),
    *("failed_entity_ids", "model_name", "model_version", "config_version", "route"),
    *("status_code", "status_message", "request_time", "duration_ms", "execution_duration_ms"),
    *("requester", "trace_id"),
)
"""Columns of an inference table in the order of `KeptRequest`'s fields."""


@dataclass(frozen=True, slots=True)
class UsedTable:
    """A table that a run used."""

    full_name: str
    version: str = ""
    """What the run or lineage says of its content: a version, or a hash of the rows."""
    context: str = ""
    """What for, as `training`."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A tracking run, as far as it tells where a model comes from."""

    run_id: str
    name: str
    experiment_id: str
    created_by: str
    started_at: datetime | None = None
    ended_at: datetime | None = None
    git_commit: str = ""
    git_branch: str = ""
    git_repository: str = ""
    source_name: str = ""
    """The program that ran."""
    job_id: str = ""
    """The training job that it is part of."""
    tables: tuple[UsedTable, ...] = ()


@dataclass(frozen=True, slots=True)
class Origins:
    """What lineage knows of a model version's making, the nearest first."""

    runs: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    logged_models: tuple[str, ...] = ()
    tables: tuple[UsedTable, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelOrigin:
    """A model version and what it was made of."""

    model_name: str
    model_version: int
    created_by: str = ""
    created_at: datetime | None = None
    run: RunFacts | None = None
    job_id: str = ""
    logged_models: tuple[str, ...] = ()
    tables: tuple[UsedTable, ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of an explanation that is not told."""

    part: str
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What produced an answer."""

    request: KeptRequest
    table: str
    """Full name of the inference table."""
    origin: ModelOrigin | None
    """None when no model was asked."""
    gaps: tuple[Gap, ...] = ()


def origins_of(version: LineageNode, steps: Iterable[LineageStep]) -> Origins:
    """What of a lineage graph belongs to the making of a model version.

    Runs, jobs and logged models are followed; tables end the walk, as what lies behind them (an
    endpoint's inference table that a later model is trained on, say) is another model's story.
    """
    into: dict[LineageNode, list[LineageStep]] = {}
    for step in steps:
        into.setdefault(step.target, []).append(step)
    found: dict[LineageNode, str] = {}
    frontier = [version]
    while frontier:
        reached: dict[LineageNode, str] = {}
        for node in frontier:
            for step in into.get(node, ()):
                reached[step.source] = reached.get(step.source) or step.source_version
        new = {node: told for node, told in reached.items() if node not in {*found, version}}
        found.update(new)
        frontier = [node for node in new if node.kind in _WALKED]

    def names(kind: NodeKind) -> tuple[str, ...]:
        return tuple(node.name for node in found if node.kind is kind)

    return Origins(
        runs=names(NodeKind.RUN),
        jobs=names(NodeKind.JOB),
        logged_models=names(NodeKind.LOGGED_MODEL),
        tables=tuple(
            UsedTable(node.name, told)
            for node, told in found.items()
            if node.kind is NodeKind.TABLE
        ),
    )


def tables_of(origins: Origins, run: RunFacts | None) -> tuple[UsedTable, ...]:
    """The tables of a model's making, by name: what its run says of them, and lineage's others."""
    told: Sequence[UsedTable] = run.tables if run is not None else ()
    known = {table.full_name for table in told}
    others = [table for table in origins.tables if table.full_name not in known]
    return tuple(sorted({*told, *others}, key=lambda one: (one.full_name, one.context)))
