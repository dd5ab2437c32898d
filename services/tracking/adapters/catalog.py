"""The catalog's registered models by gRPC, with the token of whoever calls this service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from services.tracking.convert import registry
from services.tracking.domain.artifacts import Artifact
from services.tracking.domain.registry import RegisteredModel, RegistryVersion
from tessera.catalog.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    lineage_service_pb2_grpc,
    model_pb2,
    model_service_pb2_grpc,
    securable_pb2,
)
from tessera.catalog.v1 import lineage_service_pb2 as lineage_pb2
from tessera.catalog.v1 import model_service_pb2 as pb
from tessera_kit.rpc.status import error_from_rpc

__all__ = ["CatalogRegistry"]

_PAGE: Final = 100
_PIECE: Final = 1 << 20
_UPLOAD_SECONDS: Final = 3600.0
_MODEL: Final = securable_pb2.SECURABLE_TYPE_MODEL


class CatalogRegistry:
    """Models and versions of the catalog.

    Args:
        channel: To the catalog, without a token of its own: each call brings its caller's.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        untyped: Any = channel
        self._models: Any = model_service_pb2_grpc.ModelServiceStub(untyped)
        self._catalog: Any = catalog_service_pb2_grpc.CatalogServiceStub(untyped)

    async def create_model(
        self, token: str, full_name: str, *, description: str, tags: Mapping[str, str]
    ) -> RegisteredModel:
        """Register a model."""
        model = model_pb2.RegisteredModel(full_name=full_name, comment=description, tags=tags)
        request = pb.CreateRegisteredModelRequest(registered_model=model)
        with _told():
            answer = await self._models.CreateRegisteredModel(request, metadata=_bearer(token))
        return registry.model(answer.registered_model)

    async def get_model(self, token: str, full_name: str) -> RegisteredModel:
        """Return a model."""
        request = pb.GetRegisteredModelRequest(full_name=full_name)
        with _told():
            answer = await self._models.GetRegisteredModel(request, metadata=_bearer(token))
        return registry.model(answer.registered_model)

    async def describe_model(self, token: str, full_name: str, description: str) -> RegisteredModel:
        """Change what a model is said to be for."""
        model = model_pb2.RegisteredModel(full_name=full_name, comment=description)
        request = pb.UpdateRegisteredModelRequest(
            registered_model=model, update_mask=FieldMask(paths=["comment"])
        )
        with _told():
            answer = await self._models.UpdateRegisteredModel(request, metadata=_bearer(token))
        return registry.model(answer.registered_model)

    async def rename_model(self, token: str, full_name: str, new_name: str) -> RegisteredModel:
        """Give a model another full name."""
        request = pb.RenameRegisteredModelRequest(full_name=full_name, new_full_name=new_name)
        with _told():
            answer = await self._models.RenameRegisteredModel(request, metadata=_bearer(token))
        return registry.model(answer.registered_model)

    async def delete_model(self, token: str, full_name: str) -> None:
        """Delete a model with its versions."""
        request = pb.DeleteRegisteredModelRequest(full_name=full_name, force=True)
        with _told():
            await self._models.DeleteRegisteredModel(request, metadata=_bearer(token))

    async def models(self, token: str) -> list[RegisteredModel]:
        """Return all models that the caller may see, by name, without their aliases."""
        found: list[RegisteredModel] = []
        page_token = ""
        while True:
            request = catalog_service_pb2.SearchSecurablesRequest(
                types=[_MODEL], page_size=_PAGE, page_token=page_token
            )
            with _told():
                answer = await self._catalog.SearchSecurables(request, metadata=_bearer(token))
            found += [registry.securable_model(one) for one in answer.securables]
            page_token = answer.next_page_token
            if not page_token:
                return found

    async def create_version(
        self, token: str, full_name: str, *, run_id: str, comment: str, tags: Mapping[str, str]
    ) -> RegistryVersion:
        """Begin the next version of a model; its files are still to come."""
        request = pb.CreateModelVersionRequest(
            model_name=full_name, run_id=run_id, comment=comment, tags=tags
        )
        with _told():
            answer = await self._models.CreateModelVersion(request, metadata=_bearer(token))
        return registry.version(answer.model_version)

    async def upload(
        self, token: str, full_name: str, version: int, path: str, chunks: AsyncIterator[bytes]
    ) -> None:
        """Store a file of a pending version."""

        async def parts() -> AsyncIterator[pb.UploadModelFileRequest]:
            header = pb.UploadModelFileHeader(model_name=full_name, version=version, path=path)
            yield pb.UploadModelFileRequest(header=header)
            async for chunk in chunks:
                for at in range(0, len(chunk), _PIECE):
                    yield pb.UploadModelFileRequest(chunk=chunk[at : at + _PIECE])

        with _told():
            await self._models.UploadModelFile(
                parts(), metadata=_bearer(token), timeout=_UPLOAD_SECONDS
            )

    async def finalize(
        self, token: str, full_name: str, version: int, *, failure: str = ""
    ) -> RegistryVersion:
        """End the upload of a version's files."""
        request = pb.FinalizeModelVersionRequest(
            model_name=full_name, version=version, failure=failure[:4000]
        )
        with _told():
            answer = await self._models.FinalizeModelVersion(request, metadata=_bearer(token))
        return registry.version(answer.model_version)

    async def get_version(self, token: str, full_name: str, version: int) -> RegistryVersion:
        """Return a version."""
        request = pb.GetModelVersionRequest(model_name=full_name, version=version)
        with _told():
            answer = await self._models.GetModelVersion(request, metadata=_bearer(token))
        return registry.version(answer.model_version)

    async def by_alias(self, token: str, full_name: str, alias: str) -> RegistryVersion:
        """Return the version that an alias points at."""
        request = pb.GetModelVersionByAliasRequest(model_name=full_name, alias=alias)
        with _told():
            answer = await self._models.GetModelVersionByAlias(request, metadata=_bearer(token))
        return registry.version(answer.model_version)

    async def versions(self, token: str, full_name: str) -> list[RegistryVersion]:
        """Return all versions of a model, the newest first."""
        found: list[RegistryVersion] = []
        page_token = ""
        while True:
            request = pb.ListModelVersionsRequest(
                model_name=full_name, page_size=_PAGE, page_token=page_token
            )
            with _told():
                answer = await self._models.ListModelVersions(request, metadata=_bearer(token))
            found += [registry.version(one) for one in answer.model_versions]
            page_token = answer.next_page_token
            if not page_token:
                return found

    async def delete_version(self, token: str, full_name: str, version: int) -> None:
        """Delete a version with its files."""
        request = pb.DeleteModelVersionRequest(model_name=full_name, version=version)
        with _told():
            await self._models.DeleteModelVersion(request, metadata=_bearer(token))

    async def set_alias(self, token: str, full_name: str, alias: str, version: int) -> None:
        """Point an alias at a version."""
        request = pb.SetModelAliasRequest(model_name=full_name, alias=alias, version=version)
        with _told():
            await self._models.SetModelAlias(request, metadata=_bearer(token))

    async def delete_alias(self, token: str, full_name: str, alias: str) -> None:
        """Remove an alias."""
        request = pb.DeleteModelAliasRequest(model_name=full_name, alias=alias)
        with _told():
            await self._models.DeleteModelAlias(request, metadata=_bearer(token))

    async def tag(
        self,
        token: str,
        full_name: str,
        version: int,
        new: Mapping[str, str],
        remove: Collection[str] = (),
    ) -> None:
        """Set and remove tags of a version, or of the model itself with version 0."""
        securable = securable_pb2.SecurableReference(type=_MODEL, full_name=full_name)
        request = catalog_service_pb2.UpdateTagsRequest(
            securable=securable, model_version=version, set=new, remove=list(remove)
        )
        with _told():
            await self._catalog.UpdateTags(request, metadata=_bearer(token))

    async def files(self, token: str, full_name: str, version: int) -> Sequence[Artifact]:
        """Return all files of a version, by path."""
        found: list[Artifact] = []
        page_token = ""
        while True:
            request = pb.ListModelFilesRequest(
                model_name=full_name, version=version, page_size=_PAGE, page_token=page_token
            )
            with _told():
                answer = await self._models.ListModelFiles(request, metadata=_bearer(token))
            found += [
                Artifact(one.path, is_directory=False, size=one.size_bytes) for one in answer.files
            ]
            page_token = answer.next_page_token
            if not page_token:
                return found

    async def download(
        self, token: str, full_name: str, version: int, path: str
    ) -> AsyncIterator[bytes]:
        """Yield a file's bytes."""
        request = pb.DownloadModelFileRequest(model_name=full_name, version=version, path=path)
        with _told():
            async for answer in self._models.DownloadModelFile(request, metadata=_bearer(token)):
                yield answer.chunk


class CatalogLineage:
    """The lineage graph of the catalog.

    Args:
        channel: A channel without a token: calls bring their callers'.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = lineage_service_pb2_grpc.LineageServiceStub(channel)

    async def around(self, token: str, run_id: str) -> Sequence[lineage_pb2.LineageEdge]:
        """Return the steps from and to a run."""
        node = lineage_pb2.LineageNode(type=lineage_pb2.LINEAGE_NODE_TYPE_RUN, name=run_id)
        request = lineage_pb2.GetLineageRequest(
            node=node, direction=lineage_pb2.LINEAGE_DIRECTION_BOTH, max_depth=1
        )
        with _told():
            answer = await self._stub.GetLineage(request, metadata=_bearer(token))
        return list(answer.edges)


@contextmanager
def _told() -> Iterator[None]:
    """Raise what the catalog refused as an error of the tree."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from None


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)
