"""MLflow's own client, when it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tessera_kit.errors import FailedPrecondition

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["open_mlflow"]


def open_mlflow(uri: str) -> MlflowClient:
    """Return a client of an MLflow server, by its URL, or of a file store, by its folder.

    Raises:
        FailedPrecondition: MLflow's client is not installed.
    """
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise FailedPrecondition(
            "MLflow's client is not installed: pip install mlflow-skinny"
        ) from error
    return MlflowClient(tracking_uri=uri)
