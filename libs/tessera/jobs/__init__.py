"""What the code of a training job uses while it runs.

    from tessera import jobs

    job = jobs.current()
    rows = job.read_table("main.flights.departures", columns=["distance", "delayed"])
    saved = job.resume()
    if saved is not None:
        model.load_state_dict(saved.state["model"])
        optimizer.load_state_dict(saved.state["optimizer"])
        jobs.set_random_state(saved.state["random"])
    for step in range(saved.step + 1 if saved else 0, steps):
        ...
        job.log_metrics({"loss": loss}, step=step)
        job.progress(step + 1, steps, loss=loss)
        if step % 100 == 99 or job.should_stop:
            job.checkpoint(step, {"model": model.state_dict(),
                                  "optimizer": optimizer.state_dict(),
                                  "random": jobs.random_state()})
    job.register_model(model, example_inputs, signature=signature, metrics={"auc": auc})

Everything here is synchronous and may be called from any thread. In a job of several processes,
only the first one (rank 0) reports, saves and registers; the same calls of the others do nothing.
"""

from __future__ import annotations

from tessera.jobs.job import Job, current
from tessera.jobs.randomness import random_state, set_random_state
from tessera.jobs.saving import Checkpoint

__all__ = ["Checkpoint", "Job", "current", "random_state", "set_random_state"]
