"""A job that is killed goes on from its checkpoint as if it had never been interrupted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tessera.training.v1 import job_pb2
from tests.integration.training.conftest import Running

PROGRAM = '''
"""Trains a small network with shuffled batches and dropout; writes each step's batch and loss."""

import os
import signal
import sys

import torch

from tessera import jobs

out, kill_at, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
job = jobs.current()
torch.manual_seed(7)
torch.use_deterministic_algorithms(True)
rows = torch.randn(64, 5)
labels = (rows.sum(1, keepdim=True) > 0).float()
model = torch.nn.Sequential(
    torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
order, position, first = torch.randperm(64), 0, 0
saved = job.resume()
if saved is not None:
    state = saved.state
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    order, position = state["order"], state["position"]
    jobs.set_random_state(state["random"])
    first = saved.step + 1
with open(out, "a") as file:
    for step in range(first, steps):
        if position + 8 > len(order):
            order, position = torch.randperm(64), 0
        batch, position = order[position : position + 8], position + 8
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model(rows[batch]), labels[batch]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        value = loss.detach().item()
        print(job.attempt, step, value.hex(), *batch.tolist(), file=file, flush=True)
        job.progress(step + 1, steps, loss=value)
        if step % 5 == 4:
            job.checkpoint(step, {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "order": order,
                "position": position,
                "random": jobs.random_state(),
            })
        if job.attempt == 1 and step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
'''
STEPS = 40


def spec(program: str, *arguments: object, retries: int = 0) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(
        name="small",
        file=job_pb2.FileSource(name="train.py", content=program),
        arguments=[str(argument) for argument in arguments],
        retry=job_pb2.RetryPolicy(max_retries=retries),
        resources=job_pb2.Resources(threads_per_process=1),
    )


def steps_of(path: Path) -> dict[int, list[tuple[int, str]]]:
    """What each attempt wrote of each step."""
    found: dict[int, list[tuple[int, str]]] = {}
    for line in path.read_text().splitlines():
        attempt, step, rest = line.split(" ", 2)
        found.setdefault(int(step), []).append((int(attempt), rest))
    return found


@pytest.mark.timeout(120)
async def test_losses_and_sample_order_equal_those_of_an_uninterrupted_run(
    training: Running, tmp_path: Path
) -> None:
    kill_at = random.SystemRandom().randrange(5, STEPS - 1)
    async with training.client() as client:
        whole = await client.submit(spec(PROGRAM, tmp_path / "whole", -1, STEPS))
        killed = await client.submit(spec(PROGRAM, tmp_path / "killed", kill_at, STEPS, retries=1))
        await client.wait(whole.job_id)
        killed = await client.wait(killed.job_id)
    assert [attempt.exit_code for attempt in killed.attempts] == [-9, 0]
    resumed_from = killed.attempts[1].resumed_from_step
    # The kill may come before the last snapshot is stored; then an older one counts.
    assert resumed_from % 5 == 4 or resumed_from == 0
    assert resumed_from <= kill_at
    expected, found = steps_of(tmp_path / "whole"), steps_of(tmp_path / "killed")
    assert sorted(expected) == sorted(found) == list(range(STEPS))
    for step in range(STEPS):
        attempts = [attempt for attempt, _ in found[step]]
        assert attempts == [
            attempt
            for attempt, ran in (
                (1, step <= kill_at),
                (2, resumed_from == 0 or step > resumed_from),
            )
            if ran
        ]
        # Every attempt that made the step made it exactly as the uninterrupted run did.
        assert {rest for _, rest in found[step]} == {rest for _, rest in expected[step]}, (
            f"step {step} differs after a kill at step {kill_at}"
        )
