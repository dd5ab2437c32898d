"""A training of PyTorch Lightning as autologging sees it, and what must be logged of it."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import mlflow
import numpy as np
import pytorch_lightning as lightning
import torch
from mlflow import MlflowClient
from mlflow.utils.checkpoint_utils import download_checkpoint_artifact
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["autologged"]

EPOCHS = 3


class Line(lightning.LightningModule):
    """Finds a straight line."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The line's value at each row of features, shaped [rows, 1]."""
        return self.layer(features)  # type: ignore[no-any-return]

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """The loss of a batch, kept per epoch."""
        return self._loss("loss", batch)

    def validation_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """The same on what is not trained on."""
        return self._loss("val_loss", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, whose settings are logged as parameters."""
        return torch.optim.Adam(self.parameters(), lr=0.05)

    def _loss(self, name: str, batch: list[torch.Tensor]) -> torch.Tensor:
        loss = torch.nn.functional.mse_loss(self(batch[0]), batch[1])
        self.log(name, loss, on_step=False, on_epoch=True)
        return loss


def autologged(registered_as: str) -> None:
    """Train with `mlflow.pytorch.autolog` on, and check each thing that it logs."""
    features = torch.from_numpy(np.random.default_rng(5).random((64, 2)).astype(np.float32))
    rows = DataLoader(TensorDataset(features, features.sum(1, keepdim=True)), batch_size=32)
    torch.manual_seed(5)
    model = Line()
    mlflow.pytorch.autolog(registered_model_name=registered_as)
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            trainer = lightning.Trainer(
                max_epochs=EPOCHS,
                default_root_dir=folder,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            with mlflow.start_run() as run:
                trainer.fit(model, rows, rows)
    finally:
        mlflow.pytorch.autolog(disable=True)
    _parameters_and_metrics(run.info.run_id)
    _files(run.info.run_id)
    _model(run.info.run_id, model, features.numpy(), registered_as)


def _parameters_and_metrics(run_id: str) -> None:
    client = MlflowClient()
    params = client.get_run(run_id).data.params
    assert (params["epochs"], params["optimizer_name"]) == (str(EPOCHS), "Adam"), params
    assert params["lr"] == "0.05", params
    for name in ("loss", "val_loss"):
        points = client.get_metric_history(run_id, name)
        assert sorted({point.step for point in points}) == list(range(EPOCHS)), (name, points)


def _files(run_id: str) -> None:
    client = MlflowClient()
    found = {one.path for one in client.list_artifacts(run_id)}
    assert {"model_summary.txt", "checkpoints"} <= found, found
    with tempfile.TemporaryDirectory() as folder:
        path = download_checkpoint_artifact(run_id, dst_path=folder)
        kept: dict[str, Any] = torch.load(path, weights_only=True)
    assert set(kept["state_dict"]) == {"layer.weight", "layer.bias"}
    losses = {one.step: one.value for one in client.get_metric_history(run_id, "val_loss")}
    assert kept["epoch"] == min(losses, key=lambda epoch: losses[epoch])


def _model(run_id: str, model: Line, features: np.ndarray[Any, Any], registered_as: str) -> None:
    [made] = mlflow.get_run(run_id).outputs.model_outputs
    logged = mlflow.get_logged_model(made.model_id)
    assert logged.status == "READY"
    assert "val_loss" in {one.key for one in logged.metrics}
    signature = mlflow.models.get_model_info(logged.model_uri).signature
    assert signature is not None
    assert signature.inputs.inputs[0].shape == (-1, 2)
    assert signature.outputs.inputs[0].shape == (-1, 1)
    loaded = mlflow.pyfunc.load_model(f"models:/{registered_as}/1")
    with torch.no_grad():
        assert np.allclose(loaded.predict(features), model(torch.from_numpy(features)), atol=1e-6)
