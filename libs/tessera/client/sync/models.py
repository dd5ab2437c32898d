"""Registered models, their versions, aliases and files."""

# Made from tessera.client.aio.models by infra/tasks/sync_client.py.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.catalog.v1 import model_pb2
from tessera.client.aio.models import AsyncModels
from tessera.client.manifests import PipelineStep, TensorSpec
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

    def rename(self, full_name: str, new_full_name: str) -> model_pb2.RegisteredModel:
        """Gives a registered model another name; refused while an endpoint serves it."""
        return self._portal.run(self._wrapped.rename(full_name, new_full_name))

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

    def register_class(
        self,
        model_name: str,
        entry: str,
        code: Path | Mapping[str, bytes | Path],
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        streams: bool = False,
        stateful: bool = False,
        arguments: Mapping[str, Any] | None = None,
        requirements: Sequence[str] = (),
        timeout_seconds: float = 60.0,
        files: Mapping[str, bytes | Path] | None = None,
        run_id: str = "",
        comment: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> model_pb2.ModelVersion:
        """Creates the next version as a class of Python, which any endpoint can serve as it is.

        The class has `predict(inputs)`: from arrays by the inputs' names to arrays (or lists, or
        texts) by the outputs'. It may have `load(context)` (`context.folder` holds the version's
        files, `context.InvalidInput` is to be raised for bad requests) and `unload()`. An endpoint
        serves it when its owner says `allow_code`.

        Args:
            model_name: The registered model's full name.
            entry: `module:Class`, as `tokens:Tokens`.
            code: The module's file or the package's folder; or content by path, as `tokens.py`.
            inputs: What it takes; BYTES become bytes.
            outputs: What it gives.
            streams: Whether `predict` yields any number of responses.
            stateful: Whether it is called as `predict(inputs, sequence)`, where `sequence` has
                `id`, `start`, `end` and `state`, a dict that is kept from request to request.
            arguments: What the class is made with, as JSON.
            requirements: Lines of pip's `requirements.txt`; without any the runtime's packages.
            timeout_seconds: How long it may take to answer, and to give each response of a stream.
            files: Further files of the version, as weights.
            run_id: The tracking run that made the model.
            comment: What is particular about this version.
            tags: Tags to set.

        Returns:
            The version, ready.

        Raises:
            ValueError: The code has no module of the entry's name.
        """
        return self._portal.run(
            self._wrapped.register_class(
                model_name,
                entry,
                code,
                inputs=inputs,
                outputs=outputs,
                streams=streams,
                stateful=stateful,
                arguments=arguments,
                requirements=requirements,
                timeout_seconds=timeout_seconds,
                files=files,
                run_id=run_id,
                comment=comment,
                tags=tags,
            )
        )

    def register_pipeline(
        self,
        model_name: str,
        steps: Sequence[PipelineStep],
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        streams: bool = False,
        run_id: str = "",
        comment: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> model_pb2.ModelVersion:
        """Creates the next version as a pipeline of other versions, served as one model.

        The steps run in their order. Each reads inputs of the pipeline and what steps before it
        wrote, by the pipeline's names. Whether they fit together is checked when an endpoint is to
        serve it.

        Args:
            model_name: The registered model's full name.
            steps: The model versions, 1 to 16.
            inputs: What the pipeline takes.
            outputs: What it gives: each is written by a step.
            streams: Whether a step streams; one may.
            run_id: The tracking run that made it.
            comment: What is particular about this version.
            tags: Tags to set.

        Returns:
            The version, ready.
        """
        return self._portal.run(
            self._wrapped.register_pipeline(
                model_name,
                steps,
                inputs=inputs,
                outputs=outputs,
                streams=streams,
                run_id=run_id,
                comment=comment,
                tags=tags,
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
