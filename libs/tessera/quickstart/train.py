"""The training job: learns from all departures known so far and registers the next version.

It runs as a job of the platform, as `python -m tessera.quickstart.train --table TABLE`, and
checkpoints after every epoch, so that a job that is killed goes on where it was.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from tessera import jobs
from tessera.quickstart.flights import CATEGORIES, FEATURES, LABEL, NUMBERS, TIME
from tessera.quickstart.model import DelayModel, roc_auc, signature

_HELD_OUT = 0.1
"""The share of the latest departures that the model is judged by and does not learn from."""
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True, slots=True)
class Settings:
    """What the job's arguments say."""

    table: str
    epochs: int
    batch_rows: int
    hidden: int
    learning_rate: float
    seed: int


def main() -> None:
    """Runs the job."""
    settings = _settings()
    job = jobs.current()
    job.log_params({name: getattr(settings, name) for name in settings.__slots__})
    rows = job.read_table(settings.table, columns=[*FEATURES, LABEL], order_by=[TIME])
    learned, judged = _split(rows)
    vocabularies = {name: sorted(set(learned[name].to_pylist())) for name in CATEGORIES}
    torch.manual_seed(settings.seed)
    model = _model(learned, vocabularies, settings.hidden)
    job.log_params({"rows": learned.num_rows, "held_out_rows": judged.num_rows})
    _fit(job, model, _tensors(learned, vocabularies), _labels(learned), settings)
    model.eval()
    columns = _tensors(judged, vocabularies)
    with torch.no_grad():
        auc = roc_auc(model(*columns).flatten(), _labels(judged).flatten())
    version = job.register_model(
        model,
        [column[:8] for column in columns],
        signature=signature(vocabularies),
        metrics={"auc": auc},
        comment=f"Learned from {learned.num_rows:,} departures",
    )
    print(f"registered version {version}: AUC {auc:.3f} on {judged.num_rows:,} departures")  # noqa: T201 - the job's log


def _settings() -> Settings:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-rows", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=6e-3)
    parser.add_argument("--seed", type=int, default=0)
    return Settings(**vars(parser.parse_args()))


def _split(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows to learn from and later ones to judge by: a model is asked about the future."""
    count = rows.num_rows - int(rows.num_rows * _HELD_OUT)
    return rows.slice(0, count), rows.slice(count)


def _tensors(rows: pa.Table, vocabularies: dict[str, list[str]]) -> list[Tensor]:
    """One tensor of shape [rows, 1] per feature; unknown texts get the vocabulary's size."""
    tensors = []
    for name in CATEGORIES:
        index = {text: number for number, text in enumerate(vocabularies[name])}
        found = [index.get(text, len(index)) for text in rows[name].to_pylist()]
        tensors.append(torch.tensor(found, dtype=torch.int64).unsqueeze(1))
    for name in NUMBERS:
        values = np.array(rows[name].to_numpy(), dtype=np.float32)
        tensors.append(torch.from_numpy(values).unsqueeze(1))
    return tensors


def _labels(rows: pa.Table) -> Tensor:
    return torch.from_numpy(np.array(rows[LABEL].to_numpy(), dtype=np.float32)).unsqueeze(1)


def _model(rows: pa.Table, vocabularies: dict[str, list[str]], hidden: int) -> DelayModel:
    values = np.stack([rows[name].to_numpy() for name in NUMBERS]).astype(np.float64)
    means = np.nanmean(values, axis=1)
    deviations = np.maximum(np.nanstd(values, axis=1), _LEAST_DEVIATION)
    sizes = [len(vocabularies[name]) for name in CATEGORIES]
    return DelayModel(sizes, means.tolist(), deviations.tolist(), hidden)


def _fit(
    job: jobs.Job, model: DelayModel, columns: list[Tensor], labels: Tensor, settings: Settings
) -> None:
    """Learns for all epochs; after each, the state is saved and the progress told."""
    rows = labels.shape[0]
    steps = math.ceil(rows / settings.batch_rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * steps
    )
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if (saved := job.resume()) is not None:
        for name, part in parts.items():
            part.load_state_dict(saved.state[name])
        jobs.set_random_state(saved.state["random"])
        first = saved.step
    loss_of = nn.BCEWithLogitsLoss()
    for epoch in range(first, settings.epochs):
        order = torch.randperm(rows)
        total = 0.0
        for step in range(steps):
            chosen = order[step * settings.batch_rows : (step + 1) * settings.batch_rows]
            loss = loss_of(model.logits(*(column[chosen] for column in columns)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
            if step % 20 == 0:
                done = epoch * steps + step
                job.progress(done, settings.epochs * steps, loss=loss.item())
                job.log_metrics({"loss": loss.item()}, step=done)
        job.log_metrics({"epoch_loss": total / rows}, step=epoch + 1)
        state = {name: part.state_dict() for name, part in parts.items()}
        job.checkpoint(epoch + 1, {**state, "random": jobs.random_state()})
        if job.should_stop:
            raise SystemExit("asked to stop; the checkpoint holds the state")
    job.progress(settings.epochs * steps, settings.epochs * steps)


if __name__ == "__main__":
    main()
