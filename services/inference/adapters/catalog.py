"""The catalog over gRPC, with the rights of the principal in whose name inference acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Final

import grpc

from services.inference.adapters.acting import ActingTokens, raised_here
from services.inference.domain.endpoint import InferenceTable
from services.inference.domain.table import (
    COLUMNS,
    ORDER_BY,
    PARTITION_BY,
    VERSION_COLUMN,
    TableColumn,
)
from services.inference.ports import ModelVersionFacts
from tessera.catalog.v1 import (
    catalog_pb2,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tessera_kit.errors import ResourceExhausted

__all__ = ["GrpcCatalog"]

_DOWNLOAD_SECONDS: Final = 300.0
_PAGE: Final = 1000
_MOST_FILES: Final = 10_000


class GrpcCatalog:
    """`ports.ModelRegistry` and `ports.TableCatalog`.

    Args:
        plain: Channel without a token, for calls in a principal's name.
        acting: Makes tokens.
        largest_file: Bytes of the largest file that is read.
    """

    def __init__(self, plain: grpc.aio.Channel, acting: ActingTokens, *, largest_file: int) -> None:
        self._acting = acting
        self._models = model_service_pb2_grpc.ModelServiceStub(plain)
        self._catalog = catalog_service_pb2_grpc.CatalogServiceStub(plain)
        self._largest_file = largest_file

    async def version(self, principal: str, model_name: str, number: int) -> ModelVersionFacts:
        """Read a version by its number."""
        request = model_service_pb2.GetModelVersionRequest(model_name=model_name, version=number)
        with raised_here("the catalog"):
            found = await self._models.GetModelVersion(
                request, metadata=await self._acting.metadata(principal)
            )
        return _facts(found.model_version)

    async def version_by_alias(
        self, principal: str, model_name: str, alias: str
    ) -> ModelVersionFacts:
        """Read the version that an alias points at."""
        request = model_service_pb2.GetModelVersionByAliasRequest(
            model_name=model_name, alias=alias
        )
        with raised_here("the catalog"):
            found = await self._models.GetModelVersionByAlias(
                request, metadata=await self._acting.metadata(principal)
            )
        return _facts(found.model_version)

    async def files(self, principal: str, model_name: str, number: int) -> Mapping[str, int]:
        """Bytes of each of a version's files."""
        request = model_service_pb2.ListModelFilesRequest(
            model_name=model_name, version=number, page_size=_PAGE
        )
        sizes: dict[str, int] = {}
        while True:
            with raised_here("the catalog"):
                page = await self._models.ListModelFiles(
                    request, metadata=await self._acting.metadata(principal)
                )
            sizes.update((file.path, file.size_bytes) for file in page.files)
            if len(sizes) > _MOST_FILES:
                raise ResourceExhausted(
                    f"version {number} of {model_name} has more than {_MOST_FILES} files"
                )
            if not page.next_page_token:
                return sizes
            request.page_token = page.next_page_token

    async def read_file(self, principal: str, model_name: str, number: int, path: str) -> bytes:
        """Read a file of a version."""
        request = model_service_pb2.DownloadModelFileRequest(
            model_name=model_name, version=number, path=path
        )
        content = bytearray()
        with raised_here("the catalog"):
            call = self._models.DownloadModelFile(
                request,
                metadata=await self._acting.metadata(principal),
                timeout=_DOWNLOAD_SECONDS,
            )
            async for response in call:
                content += response.chunk
                if len(content) > self._largest_file:
                    call.cancel()
                    raise ResourceExhausted(
                        f"{path!r} is larger than the {self._largest_file} bytes that are served"
                    )
        return bytes(content)

    async def create_inference_table(
        self,
        principal: str,
        full_name: str,
        comment: str,
        request_id: str,
        columns: Sequence[TableColumn] = COLUMNS,
        retention_days: int = 0,
    ) -> InferenceTable:
        """Create a table, owned by the principal."""
        request = catalog_service_pb2.CreateTableRequest(
            table=catalog_pb2.Table(
                full_name=full_name,
                type=catalog_pb2.TABLE_TYPE_MANAGED,
                columns=[
                    catalog_pb2.Column(
                        name=column.name, data_type=column.data_type, comment=column.comment
                    )
                    for column in columns
                ],
                layout=catalog_pb2.TableLayout(
                    order_by=ORDER_BY,
                    partition_by_month_of=PARTITION_BY,
                    replacing_version_column=VERSION_COLUMN,
                    retention_days=retention_days,
                ),
                comment=comment,
            ),
            request_id=request_id,
        )
        with raised_here("the catalog"):
            made = await self._catalog.CreateTable(
                request, metadata=await self._acting.metadata(principal)
            )
        physical = made.table.physical
        return InferenceTable(full_name, physical.database, physical.table)


def _facts(version: model_pb2.ModelVersion) -> ModelVersionFacts:
    ready = version.status == model_pb2.MODEL_VERSION_STATUS_READY
    return ModelVersionFacts(
        version.model_name,
        version.version,
        ready,
        version.run_id,
        version.created_by,
        version.created_at.ToDatetime(UTC),
    )
