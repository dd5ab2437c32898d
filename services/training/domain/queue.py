"""Which waiting job is started next: fair between submitters, in order within one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.training.domain.job import Job, Resources

__all__ = ["Capacity", "Need", "need", "next_job"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the machine offers to jobs."""

    slots: int
    """CPU slots: threads that may compute at once."""
    gpus: tuple[int, ...] = ()
    """Indexes of the GPUs."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a job takes of the capacity while it runs."""

    slots: int
    gpus: int


def need(resources: Resources, capacity: Capacity) -> Need:
    """What a job takes: a slot per thread it names, one per process when it names none.

    A job that wants more slots than there are takes them all.
    """
    threads = max(1, resources.threads_per_process)
    slots = min(capacity.slots, resources.process_count * threads)
    return Need(slots, resources.process_count * resources.gpus_per_process)


def next_job(
    waiting: Iterable[Job], running: Sequence[Job], capacity: Capacity, now: datetime
) -> Job | None:
    """The job to start now, or None when there is none or it does not fit yet.

    The submitter that holds the fewest slots goes first, then who waits longest. The job whose turn
    it is waits for room and lets nobody pass, so that large jobs are not starved.
    """
    held: Counter[str] = Counter()
    for job in running:
        held[job.submitted_by] += need(job.spec.resources, capacity).slots
    due = [job for job in waiting if job.retry_at is None or job.retry_at <= now]
    if not due:
        return None
    first = min(due, key=lambda job: (held[job.submitted_by], job.created_at, job.job_id))
    wanted = need(first.spec.resources, capacity)
    free_slots = capacity.slots - sum(held.values())
    free_gpus = len(capacity.gpus) - sum(need(job.spec.resources, capacity).gpus for job in running)
    return first if wanted.slots <= free_slots and wanted.gpus <= free_gpus else None
