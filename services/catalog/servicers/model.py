"""`tessera.catalog.v1.ModelService`: registered models, versions and files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from services.catalog.convert.models import file_to_proto, model_to_proto, version_to_proto
from services.catalog.convert.requests import (
    number_of,
    page_token,
    place_of,
    request_key,
    text_of,
)
from services.catalog.convert.securables import changes_of
from services.catalog.domain.changes import Draft
from services.catalog.domain.details import ModelDetails
from services.catalog.domain.securables import SecurableKey, SecurableType
from services.catalog.errors import InvalidUpload, of_field
from services.catalog.handlers.files import Files, FileTarget
from services.catalog.handlers.models import Aliases
from services.catalog.handlers.removal import Removal
from services.catalog.handlers.renaming import Renaming
from services.catalog.handlers.tree import Tree
from services.catalog.handlers.versions import VersionDraft, Versions, VersionView
from services.catalog.servicers.drain import drained
from tessera.catalog.v1 import model_pb2
from tessera.catalog.v1 import model_service_pb2 as pb
from tessera.catalog.v1 import model_service_pb2_grpc as rpc
from tessera_kit.rpc.identity import current_principal
from tessera_kit.rpc.pages import page_size

__all__ = ["ModelServicer"]

_PIECE = 1 << 20


def _key(full_name: str, field: str = "model") -> SecurableKey:
    return SecurableKey.parse(SecurableType.MODEL, full_name, field)


def _version(view: VersionView) -> model_pb2.ModelVersion:
    return version_to_proto(view.version, view.aliases)


class ModelServicer(rpc.ModelServiceServicer):
    """Translates; the use cases are in `handlers`."""

    def __init__(
        self,
        tree: Tree,
        aliases: Aliases,
        versions: Versions,
        files: Files,
        removal: Removal,
        renaming: Renaming,
    ) -> None:
        self._tree = tree
        self._aliases = aliases
        self._versions = versions
        self._files = files
        self._removal = removal
        self._renaming = renaming

    async def CreateRegisteredModel(
        self, request: pb.CreateRegisteredModelRequest, context: Any
    ) -> pb.CreateRegisteredModelResponse:
        """Register a model."""
        asked = request.registered_model
        entity = await self._tree.create(
            current_principal(),
            _key(asked.full_name),
            Draft(asked.comment, dict(asked.tags), asked.owner),
            request_key(request),
            ModelDetails(),
        )
        aliases = (await self._aliases.of([entity])).get(entity.id, {})
        return pb.CreateRegisteredModelResponse(registered_model=model_to_proto(entity, aliases))

    async def GetRegisteredModel(
        self, request: pb.GetRegisteredModelRequest, context: Any
    ) -> pb.GetRegisteredModelResponse:
        """Read a registered model."""
        entity = await self._tree.get(current_principal(), _key(request.full_name))
        aliases = (await self._aliases.of([entity])).get(entity.id, {})
        return pb.GetRegisteredModelResponse(registered_model=model_to_proto(entity, aliases))

    async def ListRegisteredModels(
        self, request: pb.ListRegisteredModelsRequest, context: Any
    ) -> pb.ListRegisteredModelsResponse:
        """List a schema's models."""
        parent = SecurableKey.parse(SecurableType.SCHEMA, request.schema_full_name, "schema")
        scope = f"model/{parent.full_name}"
        after = text_of(place_of(request.page_token, scope))
        page = await self._tree.children(
            current_principal(), parent, SecurableType.MODEL, after, page_size(request.page_size)
        )
        aliases = await self._aliases.of(page.items)
        last = page.last
        return pb.ListRegisteredModelsResponse(
            registered_models=[
                model_to_proto(entity, aliases.get(entity.id, {})) for entity in page.items
            ],
            next_page_token="" if last is None else page_token(scope, last.key.full_name),
        )

    async def UpdateRegisteredModel(
        self, request: pb.UpdateRegisteredModelRequest, context: Any
    ) -> pb.UpdateRegisteredModelResponse:
        """Change a registered model."""
        asked = request.registered_model
        changes = changes_of(asked, request.update_mask)
        entity = await self._tree.update(current_principal(), _key(asked.full_name), changes)
        aliases = (await self._aliases.of([entity])).get(entity.id, {})
        return pb.UpdateRegisteredModelResponse(registered_model=model_to_proto(entity, aliases))

    async def RenameRegisteredModel(
        self, request: pb.RenameRegisteredModelRequest, context: Any
    ) -> pb.RenameRegisteredModelResponse:
        """Give a registered model another name."""
        entity = await self._renaming.rename(
            current_principal(),
            _key(request.full_name),
            _key(request.new_full_name, "new_full_name"),
            request.etag,
        )
        aliases = (await self._aliases.of([entity])).get(entity.id, {})
        return pb.RenameRegisteredModelResponse(registered_model=model_to_proto(entity, aliases))

    async def DeleteRegisteredModel(
        self, request: pb.DeleteRegisteredModelRequest, context: Any
    ) -> pb.DeleteRegisteredModelResponse:
        """Delete a registered model."""
        key = _key(request.full_name)
        await self._removal.delete(current_principal(), key, etag=request.etag, force=request.force)
        return pb.DeleteRegisteredModelResponse()

    async def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, context: Any
    ) -> pb.CreateModelVersionResponse:
        """Create the next version of a model."""
        draft = VersionDraft(request.run_id, request.comment, dict(request.tags))
        # A job that is tried again measures its model anew, and finds it a little different.
        once = request_key(request, free=("comment", "tags"))
        view = await self._versions.create(
            current_principal(), _key(request.model_name), draft, once
        )
        return pb.CreateModelVersionResponse(model_version=_version(view))

    async def UploadModelFile(
        self, request_iterator: AsyncIterator[pb.UploadModelFileRequest], context: Any
    ) -> pb.UploadModelFileResponse:
        """Write one file of a pending version."""
        async with drained(request_iterator):
            first = await anext(aiter(request_iterator), None)
            if first is None or first.WhichOneof("part") != "header":
                raise of_field(InvalidUpload, "header", "must come first")
            header = first.header
            target = FileTarget(_key(header.model_name), header.version, header.path, header.sha256)
            file = await self._files.upload(current_principal(), target, _chunks(request_iterator))
        return pb.UploadModelFileResponse(file=file_to_proto(file))

    async def DownloadModelFile(
        self, request: pb.DownloadModelFileRequest, context: Any
    ) -> AsyncIterator[pb.DownloadModelFileResponse]:
        """Read one file of a version."""
        pieces = await self._files.download(
            current_principal(), _key(request.model_name), request.version, request.path
        )
        async for piece in pieces:
            for start in range(0, len(piece), _PIECE):
                yield pb.DownloadModelFileResponse(chunk=piece[start : start + _PIECE])

    async def ListModelFiles(
        self, request: pb.ListModelFilesRequest, context: Any
    ) -> pb.ListModelFilesResponse:
        """List the files of a version."""
        scope = f"files/{request.model_name}/{request.version}"
        after = text_of(place_of(request.page_token, scope))
        page = await self._files.page(
            current_principal(),
            _key(request.model_name),
            request.version,
            after,
            page_size(request.page_size),
        )
        last = page.last
        return pb.ListModelFilesResponse(
            files=[file_to_proto(file) for file in page.items],
            next_page_token="" if last is None else page_token(scope, last.path),
        )

    async def FinalizeModelVersion(
        self, request: pb.FinalizeModelVersionRequest, context: Any
    ) -> pb.FinalizeModelVersionResponse:
        """End a pending version's upload."""
        view = await self._versions.finalize(
            current_principal(), _key(request.model_name), request.version, request.failure
        )
        return pb.FinalizeModelVersionResponse(model_version=_version(view))

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Any
    ) -> pb.GetModelVersionResponse:
        """Read a version by its number."""
        key = _key(request.model_name)
        view = await self._versions.get(current_principal(), key, request.version)
        return pb.GetModelVersionResponse(model_version=_version(view))

    async def GetModelVersionByAlias(
        self, request: pb.GetModelVersionByAliasRequest, context: Any
    ) -> pb.GetModelVersionByAliasResponse:
        """Read the version that an alias points at."""
        key = _key(request.model_name)
        view = await self._versions.by_alias(current_principal(), key, request.alias)
        return pb.GetModelVersionByAliasResponse(model_version=_version(view))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Any
    ) -> pb.ListModelVersionsResponse:
        """List a model's versions."""
        scope = f"versions/{request.model_name}"
        below = number_of(place_of(request.page_token, scope))
        page = await self._versions.page(
            current_principal(), _key(request.model_name), below, page_size(request.page_size)
        )
        last = page.last
        return pb.ListModelVersionsResponse(
            model_versions=[_version(view) for view in page.items],
            next_page_token="" if last is None else page_token(scope, last.version.version),
        )

    async def DeleteModelVersion(
        self, request: pb.DeleteModelVersionRequest, context: Any
    ) -> pb.DeleteModelVersionResponse:
        """Delete a version."""
        key = _key(request.model_name)
        await self._versions.delete(current_principal(), key, request.version)
        return pb.DeleteModelVersionResponse()

    async def SetModelAlias(
        self, request: pb.SetModelAliasRequest, context: Any
    ) -> pb.SetModelAliasResponse:
        """Point an alias at a version."""
        entity, aliases = await self._aliases.set(
            current_principal(), _key(request.model_name), request.alias, request.version
        )
        return pb.SetModelAliasResponse(registered_model=model_to_proto(entity, aliases))

    async def DeleteModelAlias(
        self, request: pb.DeleteModelAliasRequest, context: Any
    ) -> pb.DeleteModelAliasResponse:
        """Remove an alias."""
        key = _key(request.model_name)
        await self._aliases.delete(current_principal(), key, request.alias)
        return pb.DeleteModelAliasResponse()


async def _chunks(messages: AsyncIterator[pb.UploadModelFileRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise of_field(InvalidUpload, "chunk", "must follow the header, with nothing else")
        if message.chunk:
            yield message.chunk
