"""Registered models, their versions, aliases and files."""

# Made from tessera.client.aio.models by infra/tasks/sync_client.py.
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tessera.catalog.v1 import model_pb2
from tessera.client.aio.models import AsyncModels
from tessera.client.portal import Portal


class Models:
    """The model registry."""

    def __init__(self, portal: Portal, wrapped: AsyncModels) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def create(
        self, full_name: str, *, comment: str = "", exist_ok: bool = False
    ) -> model_pb2.RegisteredModel:
        """Registers a model "catalog.schema.model", or returns it when it may exist."""
        return self._portal.run(self._wrapped.create(full_name, comment=comment, exist_ok=exist_ok))

    def get(self, full_name: str) -> model_pb2.RegisteredModel:
        """Reads a registered model with its aliases."""
        return self._portal.run(self._wrapped.get(full_name))

    def list_models(self, schema_full_name: str) -> list[model_pb2.RegisteredModel]:
        """The registered models of a schema that the caller may see, by name."""
        return self._portal.run(self._wrapped.list_models(schema_full_name))

    def delete(self, full_name: str, *, force: bool = False) -> None:
        """Deletes a registered model; `force` deletes its versions as well."""
        return self._portal.run(self._wrapped.delete(full_name, force=force))

    def create_version(
        self,
        model_name: str,
        files: Mapping[str, bytes | Path],
        *,
        run_id: str = "",
        comment: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> model_pb2.ModelVersion:
        """Creates the next version, uploads its files and finalizes it.

        Args:
            model_name: The registered model's full name.
            files: Content, or the path of a local file, by the file's path in the version.
                A version that is to be served needs a `model.json` manifest.
            run_id: The tracking run that made the model.
            comment: What is particular about this version.
            tags: Tags to set.

        Returns:
            The version, ready. When an upload fails it is finalized as failed and the error raised.
        """
        return self._portal.run(
            self._wrapped.create_version(
                model_name, files, run_id=run_id, comment=comment, tags=tags
            )
        )

    def get_version(self, model_name: str, version: int | str) -> model_pb2.ModelVersion:
        """Reads a version by its number, or by an alias when `version` is text."""
        return self._portal.run(self._wrapped.get_version(model_name, version))

    def list_versions(self, model_name: str) -> list[model_pb2.ModelVersion]:
        """A model's versions, the newest first."""
        return self._portal.run(self._wrapped.list_versions(model_name))

    def download(self, model_name: str, version: int, path: str) -> bytes:
        """The content of one file of a version."""
        return self._portal.run(self._wrapped.download(model_name, version, path))

    def list_files(self, model_name: str, version: int) -> list[model_pb2.FileInfo]:
        """The files of a version, by path."""
        return self._portal.run(self._wrapped.list_files(model_name, version))

    def set_alias(self, model_name: str, alias: str, version: int) -> None:
        """Points an alias at a version, creating or moving it."""
        return self._portal.run(self._wrapped.set_alias(model_name, alias, version))

    def delete_alias(self, model_name: str, alias: str) -> None:
        """Removes an alias."""
        return self._portal.run(self._wrapped.delete_alias(model_name, alias))
