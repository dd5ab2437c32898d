"""The program inside the runtime: where a model's tensors go."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from services.inference.domain.signature import Flavor
from services.inference.runtime.archive import rebuild
from services.inference.runtime.programs import torch_loader


class Masked(nn.Module):
    """Its graph makes tensors of its own, on a device that export writes into it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(x.shape[0], 4, dtype=torch.bool).tril()
        return x.masked_fill(mask, 0.0) + torch.arange(4) + torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_what_a_graph_makes_is_made_on_the_instances_device(tmp_path: Path) -> None:
    """The device `meta` refuses the CPU's tensors as a GPU does, on any machine."""
    buffer = io.BytesIO()
    rows = torch.export.Dim("rows", min=1, max=8)
    with warnings.catch_warnings():
        # torch warns of its own internals.
        warnings.simplefilter("ignore")
        shapes = ({0: rows},)
        exported = torch.export.export(Masked(), (torch.zeros(2, 4),), dynamic_shapes=shapes)
        torch.export.save(exported, buffer)
    path = tmp_path / "model.pt2"
    path.write_bytes(rebuild(Flavor.TORCH_EXPORT, buffer.getvalue()))
    meta, cpu = torch.device("meta"), torch.device("cpu")
    (made,) = torch_loader.module_of("torch_export", path, meta, ["x"])(
        torch.zeros(3, 4, device=meta)
    )
    assert made.device == meta
    ones = torch.ones(3, 4)
    (answer,) = torch_loader.module_of("torch_export", path, cpu, ["x"])(ones)
    torch.testing.assert_close(answer, Masked()(ones))


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_an_instance_that_must_have_a_gpu_does_not_run_without() -> None:
    on_gpu = {"model_instance_kind": "GPU", "model_instance_device_id": "0"}
    with pytest.raises(RuntimeError, match="torch with CUDA"):
        torch_loader.device_of(on_gpu, demanded=True)
    assert torch_loader.device_of(on_gpu, demanded=False) == torch.device("cpu")
    assert torch_loader.device_of({"model_instance_kind": "CPU"}, demanded=True) == torch.device(
        "cpu"
    )
