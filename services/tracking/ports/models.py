"""What tracking needs to keep logged models, and of the catalog's registered ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from services.tracking.domain.artifacts import Artifact
from services.tracking.domain.logged_model import LoggedModel, ModelLink, RunDataset
from services.tracking.domain.registry import RegisteredModel, RegistryVersion
from tessera.catalog.v1.lineage_service_pb2 import LineageEdge

__all__ = ["ModelRegistry", "ModelStore", "RunLineage"]


class ModelStore(Protocol):
    """Models that runs log, how runs used and made them, and what is told of runs' data sets."""

    async def get(self, model_id: str) -> LoggedModel | None:
        """Return the model, deleted or not; None when there is none."""

    async def lock(self, model_id: str) -> LoggedModel | None:
        """As `get`; until the work ends nobody else locks it."""

    async def add(self, model: LoggedModel) -> None:
        """Store a new model; its experiment must exist."""

    async def put(self, model: LoggedModel) -> None:
        """Store the new state of a locked model."""

    async def of_experiments(self, experiment_ids: Collection[str]) -> list[LoggedModel]:
        """Return the active models of experiments, the newest first."""

    async def link(self, run_id: str, links: Collection[ModelLink]) -> None:
        """Note which models a run used and made; a link that is there changes nothing."""

    async def links(self, run_ids: Collection[str]) -> dict[str, list[ModelLink]]:
        """Return the links of runs that have any, by run id, in order."""

    async def describe(self, run_id: str, datasets: Collection[RunDataset]) -> None:
        """Note what is told of data sets that a run used; a later word replaces an earlier one."""

    async def described(self, run_ids: Collection[str]) -> dict[str, list[RunDataset]]:
        """Return what is told of runs' data sets, by run id, in order of their names."""


class RunLineage(Protocol):
    """What the catalog knows of where runs come from, asked with its caller's token."""

    async def around(self, token: str, run_id: str) -> Sequence[LineageEdge]:
        """Return the steps from and to a run that the caller may see.

        Raises what the catalog answers: Unavailable, PermissionDenied.
        """


class ModelRegistry(Protocol):
    """Registered models, which the catalog owns; every call is made with its caller's token.

    Every method raises what the catalog answers: NotFound, AlreadyExists, PermissionDenied,
    InvalidArgument, Unavailable.
    """

    async def create_model(
        self, token: str, full_name: str, *, description: str, tags: Mapping[str, str]
    ) -> RegisteredModel:
        """Register a model."""

    async def get_model(self, token: str, full_name: str) -> RegisteredModel:
        """Return a model."""

    async def describe_model(self, token: str, full_name: str, description: str) -> RegisteredModel:
        """Change what a model is said to be for."""

    async def rename_model(self, token: str, full_name: str, new_name: str) -> RegisteredModel:
        """Give a model another full name; refused (FailedPrecondition) while endpoints serve it."""

    async def delete_model(self, token: str, full_name: str) -> None:
        """Delete a model with its versions."""

    async def models(self, token: str) -> list[RegisteredModel]:
        """Return all models that the caller may see, by name, without their aliases."""

    async def create_version(
        self, token: str, full_name: str, *, run_id: str, comment: str, tags: Mapping[str, str]
    ) -> RegistryVersion:
        """Begin the next version of a model; its files are still to come."""

    async def upload(
        self, token: str, full_name: str, version: int, path: str, chunks: AsyncIterator[bytes]
    ) -> None:
        """Store a file of a pending version."""

    async def finalize(
        self, token: str, full_name: str, version: int, *, failure: str = ""
    ) -> RegistryVersion:
        """End the upload of a version's files; with a failure, the version is not usable."""

    async def get_version(self, token: str, full_name: str, version: int) -> RegistryVersion:
        """Return a version."""

    async def by_alias(self, token: str, full_name: str, alias: str) -> RegistryVersion:
        """Return the version that an alias points at."""

    async def versions(self, token: str, full_name: str) -> list[RegistryVersion]:
        """Return all versions of a model, the newest first."""

    async def delete_version(self, token: str, full_name: str, version: int) -> None:
        """Delete a version with its files."""

    async def set_alias(self, token: str, full_name: str, alias: str, version: int) -> None:
        """Point an alias at a version."""

    async def delete_alias(self, token: str, full_name: str, alias: str) -> None:
        """Remove an alias."""

    async def tag(
        self,
        token: str,
        full_name: str,
        version: int,
        new: Mapping[str, str],
        remove: Collection[str] = (),
    ) -> None:
        """Set and remove tags of a version, or of the model itself with version 0."""

    async def files(self, token: str, full_name: str, version: int) -> Sequence[Artifact]:
        """Return all files of a version, by path."""

    def download(self, token: str, full_name: str, version: int, path: str) -> AsyncIterator[bytes]:
        """Return a file's bytes in pieces."""
