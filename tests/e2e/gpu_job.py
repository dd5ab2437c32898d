"""The training job of the GPU test: it dies once, and goes on from its checkpoint.

It is sent to the platform as text and runs there, not here.
"""

import os
import sys

import torch
from torch import nn

from tessera import jobs

STEPS, DIES_AT = 60, 40


def main() -> None:
    job = jobs.current()
    device = sys.argv[1]
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 1)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = 0
    if checkpoint := job.resume():
        state = checkpoint.state
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        jobs.set_random_state(state["random"])
        first = checkpoint.step
    job.log_params({f"first_step_{job.attempt}": first, "device": next(model.parameters()).device})
    for step in range(first + 1, STEPS + 1):
        x = torch.randn(256, 16, device=device)
        loss = nn.functional.mse_loss(model(x), x.sum(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        job.log_metrics({"loss": loss.item()}, step=step)
        if step == STEPS // 2:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            job.checkpoint(step, {**state, "random": jobs.random_state()}, wait=True)
        if step == DIES_AT and job.attempt == 1:
            job.flush()
            os._exit(3)
    signature = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 16], "role": "FEATURE"}],
        "outputs": [{"name": "sum", "datatype": "FP32", "shape": [-1, 1]}],
    }
    job.register_model(model, [x[:8]], signature=signature, metrics={"final_loss": loss.item()})


if __name__ == "__main__":
    main()
