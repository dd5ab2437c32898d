"""The catalog's five gRPC services, bound to their use cases."""

from __future__ import annotations

from services.catalog.handlers.cases import UseCases
from services.catalog.servicers.authorization import AuthorizationServicer
from services.catalog.servicers.catalog import CatalogServicer
from services.catalog.servicers.lineage import LineageServicer
from services.catalog.servicers.model import ModelServicer
from services.catalog.servicers.table_data import TableDataServicer
from tessera.catalog.v1 import (
    authorization_service_pb2_grpc,
    catalog_service_pb2_grpc,
    lineage_service_pb2_grpc,
    model_service_pb2_grpc,
    table_data_service_pb2_grpc,
)
from tessera_kit.rpc.server import Binding

__all__ = ["bindings"]


def bindings(cases: UseCases) -> tuple[Binding, ...]:
    """The services, each with its servicer."""
    return (
        Binding(
            catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server,
            CatalogServicer(cases.tree, cases.tables, cases.removal, cases.versions),
            "tessera.catalog.v1.CatalogService",
        ),
        Binding(
            model_service_pb2_grpc.add_ModelServiceServicer_to_server,
            ModelServicer(
                cases.tree,
                cases.aliases,
                cases.versions,
                cases.files,
                cases.removal,
                cases.renaming,
            ),
            "tessera.catalog.v1.ModelService",
        ),
        Binding(
            authorization_service_pb2_grpc.add_AuthorizationServiceServicer_to_server,
            AuthorizationServicer(cases.principals, cases.tokens, cases.grants, cases.decisions),
            "tessera.catalog.v1.AuthorizationService",
        ),
        Binding(
            lineage_service_pb2_grpc.add_LineageServiceServicer_to_server,
            LineageServicer(cases.lineage),
            "tessera.catalog.v1.LineageService",
        ),
        Binding(
            table_data_service_pb2_grpc.add_TableDataServiceServicer_to_server,
            TableDataServicer(cases.table_data),
            "tessera.catalog.v1.TableDataService",
        ),
    )
