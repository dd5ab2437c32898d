"""Training's two gRPC services, bound to their use cases."""

from __future__ import annotations

from services.training.handlers.cases import UseCases
from services.training.servicers.runtime import JobRuntimeServicer
from services.training.servicers.training import TrainingServicer
from tessera.training.v1 import training_service_pb2_grpc as rpc
from tessera_kit.rpc.server import Binding

__all__ = ["bindings"]


def bindings(cases: UseCases) -> tuple[Binding, ...]:
    """The services, each with its servicer."""
    return (
        Binding(
            rpc.add_TrainingServiceServicer_to_server,
            TrainingServicer(cases.jobs, cases.logs, cases.triggers, cases.clock),
            "tessera.training.v1.TrainingService",
        ),
        Binding(
            rpc.add_JobRuntimeServiceServicer_to_server,
            JobRuntimeServicer(cases.runtime),
            "tessera.training.v1.JobRuntimeService",
        ),
    )
