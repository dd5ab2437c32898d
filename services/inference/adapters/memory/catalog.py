"""Twins of what the catalog and tracking tell, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.inference.domain.endpoint import InferenceTable
from services.inference.domain.explanation import LineageNode, LineageStep, RunFacts
from services.inference.domain.table import COLUMNS, TableColumn
from services.inference.errors import StoreUnavailable
from services.inference.ports import ModelVersionFacts
from tessera_kit.errors import AlreadyExists, NotFound, PermissionDenied

__all__ = ["InMemoryModels", "InMemoryOrigins", "InMemoryTables"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class _Version:
    ready: bool
    files: dict[str, bytes] = field(default_factory=dict)
    run_id: str = ""


class InMemoryModels:
    """`ports.ModelRegistry` with versions that a test puts in."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, int], _Version] = {}
        self._aliases: dict[tuple[str, str], int] = {}
        self._denied: set[tuple[str, str]] = set()

    def put(
        self,
        model_name: str,
        number: int,
        files: Mapping[str, bytes],
        *,
        ready: bool = True,
        run_id: str = "",
    ) -> None:
        """Store a version with its files."""
        self._versions[model_name, number] = _Version(ready, dict(files), run_id)

    def put_alias(self, model_name: str, alias: str, number: int) -> None:
        """Point an alias at a version."""
        self._aliases[model_name, alias] = number

    def deny(self, principal: str, model_name: str) -> None:
        """Take a principal's rights on a model away."""
        self._denied.add((principal, model_name))

    async def version(self, principal: str, model_name: str, number: int) -> ModelVersionFacts:
        """Read a version by its number."""
        found = self._version(principal, model_name, number)
        return ModelVersionFacts(model_name, number, found.ready, found.run_id, "alice", _EPOCH)

    async def version_by_alias(
        self, principal: str, model_name: str, alias: str
    ) -> ModelVersionFacts:
        """Read the version that an alias points at."""
        number = self._aliases.get((model_name, alias))
        if number is None:
            raise NotFound(f"{model_name} has no alias {alias!r}")
        return await self.version(principal, model_name, number)

    async def files(self, principal: str, model_name: str, number: int) -> Mapping[str, int]:
        """Bytes of each of a version's files."""
        files = self._version(principal, model_name, number).files
        return {path: len(content) for path, content in files.items()}

    async def read_file(self, principal: str, model_name: str, number: int, path: str) -> bytes:
        """Read a file of a version."""
        files = self._version(principal, model_name, number).files
        if path not in files:
            raise NotFound(f"version {number} of {model_name} has no file {path!r}")
        return files[path]

    def _version(self, principal: str, model_name: str, number: int) -> _Version:
        if (principal, model_name) in self._denied:
            raise PermissionDenied(f"{principal} needs EXECUTE on model {model_name}")
        found = self._versions.get((model_name, number))
        if found is None:
            raise NotFound(f"there is no version {number} of {model_name}")
        return found


class InMemoryTables:
    """`ports.TableCatalog`; `owners` tells who made which table."""

    def __init__(self, schemas: Sequence[str] = ()) -> None:
        self.owners: dict[str, str] = {}
        self.columns: dict[str, list[str]] = {}
        self.retention: dict[str, int] = {}
        self._schemas = set(schemas)
        self._requests: dict[str, InferenceTable] = {}

    async def create_inference_table(
        self,
        principal: str,
        full_name: str,
        comment: str,
        request_id: str,
        columns: Sequence[TableColumn] = COLUMNS,
        retention_days: int = 0,
    ) -> InferenceTable:
        """Create a table."""
        if request_id in self._requests:
            return self._requests[request_id]
        schema, _, name = full_name.rpartition(".")
        if schema not in self._schemas:
            raise NotFound(f"there is no schema {schema!r}")
        if full_name in self.owners:
            raise AlreadyExists(f"there is a table {full_name!r} already")
        self.owners[full_name] = principal
        self.columns[full_name] = [column.name for column in columns]
        self.retention[full_name] = retention_days
        table = InferenceTable(full_name, schema.replace(".", "_"), name)
        self._requests[request_id] = table
        return table


class InMemoryOrigins:
    """`ports.Lineage` and `ports.Runs` with steps and runs that a test puts in."""

    def __init__(self) -> None:
        self.up = True
        self.steps: list[LineageStep] = []
        self.denied: set[str] = set()
        """Principals that may see nothing."""
        self._runs: dict[str, RunFacts] = {}

    def put(self, run: RunFacts) -> None:
        """Store a run."""
        self._runs[run.run_id] = run

    async def upstream(self, principal: str, node: LineageNode) -> Sequence[LineageStep]:
        """What a node was made of."""
        self._check(principal)
        return list(self.steps)

    async def run(self, principal: str, run_id: str) -> RunFacts:
        """Read a run."""
        self._check(principal)
        if run_id not in self._runs:
            raise NotFound(f"there is no run {run_id!r}")
        return self._runs[run_id]

    def _check(self, principal: str) -> None:
        if not self.up:
            raise StoreUnavailable("the service does not answer")
        if principal in self.denied:
            raise PermissionDenied(f"{principal} needs READ on it")
