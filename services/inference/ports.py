"""What inference needs of the world. `adapters.memory` holds a twin of each that keeps to the text.

Every call may raise `tessera_kit.errors.Unavailable` when its system does not answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol

from services.inference.domain.bodies import PayloadTable, Side, StoredBody
from services.inference.domain.canary import Sight
from services.inference.domain.endpoint import Endpoint, EndpointConfig, InferenceTable
from services.inference.domain.explanation import KeptRequest, LineageNode, LineageStep, RunFacts
from services.inference.domain.table import COLUMNS, TableColumn
from services.inference.runtime.bundle import ModelBundle
from services.inference.sink.rows import Row
from tessera_kit.bus.event import Event
from tessera_kit.config import Secret

__all__ = [
    "Bundles",
    "Capture",
    "Endpoints",
    "Lineage",
    "ModelRegistry",
    "ModelVersionFacts",
    "PayloadStore",
    "RateBudgets",
    "Replacements",
    "RowCount",
    "Runs",
    "Runtime",
    "RuntimeModels",
    "RuntimeProcess",
    "Secrets",
    "TableCatalog",
    "TableReader",
    "TableStatistics",
    "Tables",
]


@dataclass(frozen=True, slots=True)
class ModelVersionFacts:
    """A version of a registered model, as the catalog knows it."""

    model_name: str
    version: int
    ready: bool
    run_id: str = ""
    """The tracking run that made it; empty when it is not known."""
    created_by: str = ""
    created_at: datetime | None = None


class ModelRegistry(Protocol):
    """The catalog's models, read with the rights of a principal.

    Raises:
        NotFound: The model, version, alias or file does not exist, or the principal may not see it.
        PermissionDenied: The principal lacks EXECUTE on the model or USE on its parents.
    """

    async def version(self, principal: str, model_name: str, number: int) -> ModelVersionFacts:
        """Read a version by its number."""

    async def version_by_alias(
        self, principal: str, model_name: str, alias: str
    ) -> ModelVersionFacts:
        """Read the version that an alias points at."""

    async def files(self, principal: str, model_name: str, number: int) -> Mapping[str, int]:
        """Bytes of each of a version's files, by path.

        Raises:
            ResourceExhausted: They are more than a runtime takes.
        """

    async def read_file(self, principal: str, model_name: str, number: int, path: str) -> bytes:
        """Read a file of a version.

        Raises:
            ResourceExhausted: It is larger than a runtime takes.
        """


class Lineage(Protocol):
    """The catalog's lineage, as a principal may see it."""

    async def upstream(self, principal: str, node: LineageNode) -> Sequence[LineageStep]:
        """What a node was made of, and what that was made of, the nearest first.

        Raises:
            NotFound: The node is not there, or the principal may not see it.
        """


class Runs(Protocol):
    """Tracking's runs, as a principal may read them."""

    async def run(self, principal: str, run_id: str) -> RunFacts:
        """Read a run.

        Raises:
            NotFound: There is none.
            PermissionDenied: The principal may not read it.
        """


class Secrets(Protocol):
    """Secrets that somebody else keeps; what is read is given to the runtime and kept nowhere."""

    async def read(self, principal: str, scope: str, key: str) -> Secret:
        """Read a secret.

        Args:
            principal: Who must be one of the scope's readers.
            scope: The scope's name.
            key: The secret's name in it.

        Raises:
            SecretNotFound: It is not there, or the principal may not read it; which of the two is
                not told.
        """


class TableCatalog(Protocol):
    """The catalog's tables."""

    async def create_inference_table(
        self,
        principal: str,
        full_name: str,
        comment: str,
        request_id: str,
        columns: Sequence[TableColumn] = COLUMNS,
        retention_days: int = 0,
    ) -> InferenceTable:
        """Create a table, owned by the principal.

        The same request id again returns the same table.

        Args:
            principal: The owner.
            full_name: `catalog.schema.table`.
            comment: What it holds.
            request_id: Of the attempt.
            columns: From `domain.table`.
            retention_days: After which rows are dropped; 0 keeps them.

        Raises:
            AlreadyExists: There is such a table.
            NotFound: The schema does not exist, or the principal may not see it.
            PermissionDenied: The principal may not create tables there.
        """


class Endpoints(Protocol):
    """Keeps endpoints. Each call is one transaction, with the events that it tells."""

    async def add(self, endpoint: Endpoint, request_id: str, tells: Sequence[Event]) -> Endpoint:
        """Store a new endpoint.

        When its creator used a non-empty `request_id` before, that call's endpoint is returned
        as it now is, nothing is stored and nothing told.

        Raises:
            EndpointExists: The name is taken.
        """

    async def find_request(self, principal: str, request_id: str) -> Endpoint | None:
        """The endpoint of an earlier `add` of this creator with this request id."""

    async def get(self, name: str) -> Endpoint:
        """Read an endpoint.

        Raises:
            EndpointNotFound: There is none.
        """

    async def page(self, after: str, limit: int) -> Sequence[Endpoint]:
        """Endpoints with names above `after`, by name."""

    async def all(self) -> Sequence[Endpoint]:
        """Every endpoint, by name."""

    async def configs(
        self, endpoint_id: str, below: int | None, limit: int
    ) -> Sequence[EndpointConfig]:
        """Configurations of an endpoint that it has or had, the newest first.

        Args:
            endpoint_id: The endpoint's; unknown ones have none.
            below: Only those with smaller numbers; all when None.
            limit: Most that are returned.
        """

    async def save(self, endpoint: Endpoint, read_etag: str, tells: Sequence[Event]) -> None:
        """Store a changed endpoint.

        Raises:
            StaleEtag: The stored one's etag is not `read_etag`: it changed, or is gone.
        """

    async def delete(self, endpoint: Endpoint, tells: Sequence[Event]) -> None:
        """Delete the endpoint; the place of its table stays known for rows on their way.

        Raises:
            StaleEtag: It changed, or is gone.
        """


class RateBudgets(Protocol):
    """What all gateways together may still admit in a window."""

    async def take(self, endpoint_id: str, key: str, start: int, want: int, calls: int) -> int:
        """Take calls of a window, for good.

        Args:
            endpoint_id: Whose limit it is.
            key: Which of its budgets.
            start: The Unix second in which the window began.
            want: How many to take.
            calls: How many the window has in all.

        Returns:
            How many were taken: fewer than wanted when the window has no more, 0 when it is empty.
            Never are more than `calls` taken of one window.
        """

    async def expire(self, before: int) -> None:
        """Forget windows that began before a Unix second."""


class Replacements(Protocol):
    """What all processes know of a replacement of the runtime; there is one at a time at most.

    Times are the callers'. Every call may raise Unavailable.
    """

    async def lead(self, process: str, *, now: datetime, until: datetime) -> bool:
        """Begin a replacement, or go on with one, until the lease ends if not before.

        Returns False, and does nothing, while another process leads one. When one begins, nobody
        has joined it.
        """

    async def under_way(self, now: datetime, *, but: str) -> datetime | None:
        """When the lease of a replacement ends that a process other than `but` leads."""

    async def join(self, process: str, *, is_drained: bool) -> None:
        """Note that a process lets its requests wait, and whether none is in the runtime now."""

    async def drained(self) -> bool:
        """Whether no process that joined has requests in the runtime."""

    async def finish(self, process: str) -> None:
        """End a replacement, if that process leads it."""


class Tables(Protocol):
    """Where each endpoint's payloads go, those of deleted endpoints too."""

    async def table_of(self, endpoint: str, endpoint_id: str = "") -> InferenceTable | None:
        """The table of an endpoint; None when there never was one.

        Args:
            endpoint: The endpoint's name.
            endpoint_id: Which endpoint of that name; the newest when empty.
        """

    async def table_named(self, full_name: str) -> PayloadTable | None:
        """The table of that full name, the newest if there were several; None for none."""

    async def payload_tables(self, endpoint: str = "") -> Sequence[PayloadTable]:
        """Every table, the newest endpoint's first.

        Args:
            endpoint: Only those of endpoints of this name; of all when empty.
        """

    async def expiring_tables(self) -> Sequence[PayloadTable]:
        """The tables that do not keep their rows for ever."""


class PayloadStore(Protocol):
    """Where rows go."""

    async def existing(self, table: InferenceTable, request_ids: Sequence[str]) -> frozenset[str]:
        """Which of the request ids have a row."""

    async def insert(self, table: InferenceTable, rows: Sequence[Row], token: str) -> None:
        """Write rows; they can be read when it returns.

        A second insert with the same token is passed over, also where a killed database lost what
        the first one wrote. Values of tensors that do not fit the
        typed columns are left out of these, and the row says so.

        Raises:
            Unavailable: They may or may not have been written.
            InvalidArgument: A value was refused; others may have been written.
        """


class RuntimeModels(Protocol):
    """The models that the runtime has loaded."""

    async def load(self, name: str, config: str, files: Mapping[str, bytes]) -> None:
        """Load a model and return when it can be asked; one of this name is replaced.

        Args:
            name: From `domain.endpoint.runtime_name`.
            config: Triton's ModelConfig as JSON.
            files: Content by path, as `1/model.py`.

        Raises:
            ModelNotServable: The model cannot be loaded; the message says why.
        """

    async def unload(self, name: str) -> None:
        """Unload a model; one that is not there is fine. Requests in it end first."""

    async def loaded(self) -> frozenset[str]:
        """Names of the models that answer."""

    async def answered(self) -> Mapping[str, int]:
        """How many requests each model that answers has answered since it was loaded."""


class RuntimeProcess(Protocol):
    """The process that runs the runtime, where it is on this machine."""

    async def memory(self) -> int | None:
        """Resident bytes of it; None when it is not on this machine, or does not run."""

    async def end(self) -> None:
        """Ask it to end and return when it has; nothing happens where there is none."""


class Bundles(Protocol):
    """Keeps the bundles of served models at hand; what it loses can be made again."""

    async def get(self, name: str) -> ModelBundle | None:
        """The bundle of a model of the runtime; None when it is not here."""

    async def put(self, name: str, bundle: ModelBundle) -> None:
        """Keep a bundle."""

    async def keep_only(self, names: frozenset[str]) -> None:
        """Remove the bundles of all other models."""


class Runtime(Protocol):
    """Asks a loaded model, on the hot path."""

    async def infer(
        self, request: bytes, timeout: float | None, suffix: bytes = b"", ending: bytes = b""
    ) -> bytes:
        """Send a serialised `inference.ModelInferRequest` and return the serialised response.

        Cancelling the call gives the request up. What is to follow the messages is given apart, so
        that nobody copies large ones for it.

        Args:
            request: As its caller sent it.
            timeout: Seconds until the caller gives up; None for no end.
            suffix: Fields that follow the request, as the model's name in the runtime.
            ending: Fields that follow the response.

        Raises:
            RuntimeUnavailable: The runtime does not answer or does not have the model.
            InferenceTimeout: The time is over.
            InvalidInference: The runtime refused the request.
            TooManyInferences: The runtime has too many.
            ModelFailed: The model's code failed.
        """

    def stream(self, request: bytes, timeout: float) -> AsyncGenerator[bytes]:
        """Send a request and return its serialised responses, as the model gives them.

        Works for models with one response too. Closing the generator gives the request up; what
        the model gives meanwhile waits in the runtime while nobody asks for it.

        Args:
            request: As that of `infer`.
            timeout: Seconds until the last response.

        Raises:
            TesseraError: As `infer`, before the first response or after any.
        """


class Capture(Protocol):
    """Keeps payload records from before their reply until the bus has them."""

    def append(self, *parts: bytes) -> None:
        """Keep a serialised `tessera.events.v1.PayloadRecord`, given in as many parts as it has.

        Returns when a kill cannot lose it.

        Raises:
            SpoolFull: There is no room; nothing was kept.
        """

    def begin(self, name: str, record: bytes) -> None:
        """Note an answer in parts whose model is about to be asked.

        `append` of its record and `end` follow in one step; after a kill in between, the record
        that is given here is kept in its place, with what was added.

        Args:
            name: The record's `tessera_request_id`, under which nothing is noted.
            record: A serialised `tessera.events.v1.PayloadRecord`.

        Raises:
            SpoolFull: There is no room; nothing was noted.
        """

    def add(self, name: str, more: bytes) -> None:
        """Add to what was noted; nothing happens when nothing was, or when there is no room.

        Args:
            name: As it was noted.
            more: A serialised `tessera.events.v1.PayloadRecord`, to be merged into the note's.
        """

    def end(self, name: str) -> None:
        """Forget what was noted; nothing happens when nothing was."""


@dataclass(frozen=True, slots=True)
class RowCount:
    """Rows of one served entity."""

    served_entity: str
    model_version: int
    rows: int


@dataclass(frozen=True, slots=True)
class TableStatistics:
    """Counts of an inference table."""

    rows: int
    distinct_requests: int
    errors: int
    lag_p50: timedelta
    lag_p99: timedelta
    lag_max: timedelta
    by_served_entity: tuple[RowCount, ...]
    newest_request: datetime | None


class TableReader(Protocol):
    """Reads inference tables."""

    async def body(self, table: InferenceTable, request_id: str, side: Side) -> StoredBody | None:
        """What the row of a request holds of a body; None when there is no row or no table."""

    async def days_with_bodies(
        self, table: InferenceTable, days: Sequence[date]
    ) -> frozenset[date]:
        """On which of the days requests arrived whose rows name an object; none without a table."""

    async def kept(self, table: InferenceTable, request_id: str) -> KeptRequest | None:
        """The row of a request; None when there is no row or no table."""

    async def kept_of_client(
        self, table: InferenceTable, client_request_id: str, limit: int
    ) -> Sequence[KeptRequest]:
        """The newest requests that their callers gave an id, at most `limit`, without mirrors."""

    async def statistics(self, table: InferenceTable, since: datetime | None) -> TableStatistics:
        """Count the rows of requests from `since` on, all when None."""

    async def sight(
        self, table: InferenceTable, config_version: int, entity: str, since: datetime
    ) -> Sight:
        """What the requests since then say of a served entity beside the others.

        Mirrored and refused requests do not count; each counts as many times as its sampling
        fraction stands for. An entity's errors are those of its own, and those for which another
        entity was asked.
        """
