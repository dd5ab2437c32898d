"""Registered models, their versions, aliases and files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from tessera.catalog.v1 import model_pb2, model_service_pb2, model_service_pb2_grpc
from tessera.client.aio.calls import call, pieces, sha256_of, stream
from tessera.client.manifests import PipelineStep, TensorSpec, class_files, pipeline_files
from tessera_kit.errors import AlreadyExists


class AsyncModels:
    """The model registry."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = model_service_pb2_grpc.ModelServiceStub(channel)

    async def create(
        self, full_name: str, *, comment: str = "", exist_ok: bool = False
    ) -> model_pb2.RegisteredModel:
        """Registers a model "catalog.schema.model", or returns it when it may exist."""
        request = model_service_pb2.CreateRegisteredModelRequest(
            registered_model=model_pb2.RegisteredModel(full_name=full_name, comment=comment)
        )
        try:
            return (await call(self._stub.CreateRegisteredModel, request)).registered_model
        except AlreadyExists:
            if not exist_ok:
                raise
            return await self.get(full_name)

    async def get(self, full_name: str) -> model_pb2.RegisteredModel:
        """Reads a registered model with its aliases."""
        request = model_service_pb2.GetRegisteredModelRequest(full_name=full_name)
        return (await call(self._stub.GetRegisteredModel, request)).registered_model

    async def list_models(self, schema_full_name: str) -> list[model_pb2.RegisteredModel]:
        """The registered models of a schema that the caller may see, by name."""
        found: list[model_pb2.RegisteredModel] = []
        request = model_service_pb2.ListRegisteredModelsRequest(
            schema_full_name=schema_full_name, page_size=1000
        )
        while True:
            page = await call(self._stub.ListRegisteredModels, request)
            found.extend(page.registered_models)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def rename(self, full_name: str, new_full_name: str) -> model_pb2.RegisteredModel:
        """Gives a registered model another name; refused while an endpoint serves it."""
        request = model_service_pb2.RenameRegisteredModelRequest(
            full_name=full_name, new_full_name=new_full_name
        )
        return (await call(self._stub.RenameRegisteredModel, request)).registered_model

    async def delete(self, full_name: str, *, force: bool = False) -> None:
        """Deletes a registered model; `force` deletes its versions as well."""
        request = model_service_pb2.DeleteRegisteredModelRequest(full_name=full_name, force=force)
        await call(self._stub.DeleteRegisteredModel, request)

    async def create_version(
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
        request = model_service_pb2.CreateModelVersionRequest(
            model_name=model_name, run_id=run_id, comment=comment, tags=tags
        )
        version = (await call(self._stub.CreateModelVersion, request)).model_version
        try:
            for path, content in files.items():
                await self._upload(version, path, content)
        except Exception as error:
            await self._finalize(version, failure=f"upload failed: {error}")
            raise
        return await self._finalize(version)

    async def register_class(
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
        content = class_files(
            entry,
            code,
            inputs=inputs,
            outputs=outputs,
            streams=streams,
            stateful=stateful,
            arguments=arguments or {},
            requirements=requirements,
            timeout_seconds=timeout_seconds,
            files=files or {},
        )
        return await self.create_version(
            model_name, content, run_id=run_id, comment=comment, tags=tags
        )

    async def register_pipeline(
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
        content = pipeline_files(steps, inputs=inputs, outputs=outputs, streams=streams)
        return await self.create_version(
            model_name, content, run_id=run_id, comment=comment, tags=tags
        )

    async def _upload(
        self, version: model_pb2.ModelVersion, path: str, content: bytes | Path
    ) -> None:
        async def requests() -> AsyncIterator[model_service_pb2.UploadModelFileRequest]:
            header = model_service_pb2.UploadModelFileHeader(
                model_name=version.model_name,
                version=version.version,
                path=path,
                sha256=sha256_of(content),
            )
            yield model_service_pb2.UploadModelFileRequest(header=header)
            for piece in pieces(content):
                yield model_service_pb2.UploadModelFileRequest(chunk=piece)

        await call(self._stub.UploadModelFile, requests(), timeout=3600.0)

    async def _finalize(
        self, version: model_pb2.ModelVersion, failure: str = ""
    ) -> model_pb2.ModelVersion:
        request = model_service_pb2.FinalizeModelVersionRequest(
            model_name=version.model_name, version=version.version, failure=failure
        )
        return (await call(self._stub.FinalizeModelVersion, request)).model_version

    async def get_version(self, model_name: str, version: int | str) -> model_pb2.ModelVersion:
        """Reads a version by its number, or by an alias when `version` is text."""
        if isinstance(version, int):
            by_number = model_service_pb2.GetModelVersionRequest(
                model_name=model_name, version=version
            )
            return (await call(self._stub.GetModelVersion, by_number)).model_version
        by_alias = model_service_pb2.GetModelVersionByAliasRequest(
            model_name=model_name, alias=version
        )
        return (await call(self._stub.GetModelVersionByAlias, by_alias)).model_version

    async def list_versions(self, model_name: str) -> list[model_pb2.ModelVersion]:
        """A model's versions, the newest first."""
        found: list[model_pb2.ModelVersion] = []
        request = model_service_pb2.ListModelVersionsRequest(model_name=model_name, page_size=1000)
        while True:
            page = await call(self._stub.ListModelVersions, request)
            found.extend(page.model_versions)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def download(self, model_name: str, version: int, path: str) -> bytes:
        """The content of one file of a version."""
        request = model_service_pb2.DownloadModelFileRequest(
            model_name=model_name, version=version, path=path
        )
        return b"".join(
            [part.chunk async for part in stream(self._stub.DownloadModelFile, request, 3600.0)]
        )

    async def list_files(self, model_name: str, version: int) -> list[model_pb2.FileInfo]:
        """The files of a version, by path."""
        found: list[model_pb2.FileInfo] = []
        request = model_service_pb2.ListModelFilesRequest(
            model_name=model_name, version=version, page_size=1000
        )
        while True:
            page = await call(self._stub.ListModelFiles, request)
            found.extend(page.files)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def set_alias(self, model_name: str, alias: str, version: int) -> None:
        """Points an alias at a version, creating or moving it."""
        request = model_service_pb2.SetModelAliasRequest(
            model_name=model_name, alias=alias, version=version
        )
        await call(self._stub.SetModelAlias, request)

    async def delete_alias(self, model_name: str, alias: str) -> None:
        """Removes an alias."""
        request = model_service_pb2.DeleteModelAliasRequest(model_name=model_name, alias=alias)
        await call(self._stub.DeleteModelAlias, request)
