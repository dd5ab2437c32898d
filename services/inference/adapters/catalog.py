"""The catalog over gRPC, with the rights of the principal in whose name inference acts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration

from services.inference.domain.endpoint import InferenceTable
from services.inference.domain.table import (
    COLUMNS,
    ORDER_BY,
    PARTITION_BY,
    VERSION_COLUMN,
    TableColumn,
)
from services.inference.errors import StoreUnavailable
from services.inference.ports import ModelVersionFacts
from tessera.catalog.v1 import (
    authorization_service_pb2,
    authorization_service_pb2_grpc,
    catalog_pb2,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tessera_kit.config import Secret
from tessera_kit.errors import DeadlineExceeded, Internal, ResourceExhausted, Unauthenticated
from tessera_kit.rpc.status import error_from_rpc

__all__ = ["GrpcCatalog"]

_TOKEN_SECONDS: Final = 600
_RENEW_SECONDS: Final = 480.0
_DOWNLOAD_SECONDS: Final = 300.0
_PAGE: Final = 1000
_MOST_FILES: Final = 10_000

Metadata = tuple[tuple[str, str], ...]


class GrpcCatalog:
    """`ports.ModelRegistry` and `ports.TableCatalog`.

    It makes itself short-lived tokens of the principals in whose name it acts, so that the catalog
    itself decides what they may do.

    Args:
        own: Channel with this service's own token, to make tokens with.
        plain: Channel without a token, for calls in a principal's name.
        largest_file: Bytes of the largest file that is read.
    """

    def __init__(
        self, own: grpc.aio.Channel, plain: grpc.aio.Channel, *, largest_file: int
    ) -> None:
        self._authorization = authorization_service_pb2_grpc.AuthorizationServiceStub(own)
        self._models = model_service_pb2_grpc.ModelServiceStub(plain)
        self._catalog = catalog_service_pb2_grpc.CatalogServiceStub(plain)
        self._largest_file = largest_file
        self._tokens: dict[str, tuple[float, Secret]] = {}

    async def version(self, principal: str, model_name: str, number: int) -> ModelVersionFacts:
        """Read a version by its number."""
        request = model_service_pb2.GetModelVersionRequest(model_name=model_name, version=number)
        with _raised_here():
            found = await self._models.GetModelVersion(
                request, metadata=await self._acting_for(principal)
            )
        return _facts(found.model_version)

    async def version_by_alias(
        self, principal: str, model_name: str, alias: str
    ) -> ModelVersionFacts:
        """Read the version that an alias points at."""
        request = model_service_pb2.GetModelVersionByAliasRequest(
            model_name=model_name, alias=alias
        )
        with _raised_here():
            found = await self._models.GetModelVersionByAlias(
                request, metadata=await self._acting_for(principal)
            )
        return _facts(found.model_version)

    async def files(self, principal: str, model_name: str, number: int) -> Mapping[str, int]:
        """Bytes of each of a version's files."""
        request = model_service_pb2.ListModelFilesRequest(
            model_name=model_name, version=number, page_size=_PAGE
        )
        sizes: dict[str, int] = {}
        while True:
            with _raised_here():
                page = await self._models.ListModelFiles(
                    request, metadata=await self._acting_for(principal)
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
        with _raised_here():
            call = self._models.DownloadModelFile(
                request,
                metadata=await self._acting_for(principal),
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
        with _raised_here():
            made = await self._catalog.CreateTable(
                request, metadata=await self._acting_for(principal)
            )
        physical = made.table.physical
        return InferenceTable(full_name, physical.database, physical.table)

    async def _acting_for(self, principal: str) -> Metadata:
        known = self._tokens.get(principal)
        now = time.monotonic()
        if known is None or now - known[0] > _RENEW_SECONDS:
            made = await self._authorization.CreateToken(
                authorization_service_pb2.CreateTokenRequest(
                    principal=principal,
                    comment="inference: reads models and makes tables for their owner",
                    lifetime=Duration(seconds=_TOKEN_SECONDS),
                )
            )
            known = self._tokens[principal] = (now, Secret(made.secret))
        return (("authorization", f"Bearer {known[1].reveal()}"),)


def _facts(version: model_pb2.ModelVersion) -> ModelVersionFacts:
    ready = version.status == model_pb2.MODEL_VERSION_STATUS_READY
    return ModelVersionFacts(version.model_name, version.version, ready)


@contextmanager
def _raised_here() -> Iterator[None]:
    """Turn a failed call of the catalog into the kit's error of the same category."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        told = error_from_rpc(error)
        # A defect, a delay, or a token that just ended is none of the caller's request.
        if isinstance(told, Internal | DeadlineExceeded | Unauthenticated):
            raise StoreUnavailable(f"the catalog does not answer: {told.message}") from error
        raise told from error
