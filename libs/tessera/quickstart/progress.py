"""What a person sees while the main job runs: a line per phase, notes between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars

from tessera.client.aio.client import AsyncClient
from tessera.client.aio.training import FINAL_STATES, JobFailed
from tessera.training.v1 import job_pb2


class Progress:
    """Phases with their seconds, bars and notes on a console."""

    def __init__(self, console: Console) -> None:
        self.seconds: dict[str, float] = {}
        self._console = console
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[detail]}[/]"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._replay: TaskID | None = None
        self._replay_started = 0.0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the bars while the block runs."""
        with self._bars:
            yield

    @contextmanager
    def phase(self, name: str, title: str, total: int | None = None) -> Iterator[TaskID]:
        """A phase: its line is shown while the block runs, its seconds are kept under `name`."""
        task = self._bars.add_task(title, total=total or 1, detail="")
        started = time.perf_counter()
        try:
            yield task
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        done = total or 1
        self._bars.update(task, completed=done, total=done)
        if not self._console.is_terminal:
            # Bars are drawn on terminals only; a log gets a line when a phase is over.
            self._console.print(f"{title}: {self.seconds[name]:.1f} s", highlight=False)

    def detail(self, task: TaskID, text: str) -> None:
        """A word beside a phase's bar."""
        self._bars.update(task, detail=escape(text))

    @contextmanager
    def replaying(self, total: int) -> Iterator[None]:
        """The phase of the replay, advanced by `advance`."""
        with self.phase("replay", "Replay April to December", total) as task:
            self._replay, self._replay_started = task, time.perf_counter()
            yield

    def advance(self, count: int) -> None:
        """More flights were answered."""
        if self._replay is not None:
            self._bars.advance(self._replay, count)

    def window(self, start: datetime, answered: int) -> None:
        """A window of flights was sent."""
        if self._replay is not None:
            rate = answered / (time.perf_counter() - self._replay_started)
            self.detail(self._replay, f"from {start:%d %b}, {rate:,.0f} flights/s")

    def note(self, kind: str, text: str) -> None:
        """Something that happened, above the bars."""
        self._console.print(f"  [bold cyan]{escape(kind)}[/]  {escape(text)}", highlight=False)

    async def follow(self, client: AsyncClient, job_id: str, name: str) -> job_pb2.Job:
        """Shows a training job live until it has succeeded.

        Raises:
            JobFailed: It ended otherwise; the text says why.
        """
        with self.phase(name, "Retrain" if name == "retrain" else "Train") as task:
            job = job_pb2.Job(job_id=job_id)
            async for job in client.training.watch(job_id):
                steps = job.progress.total_steps
                self._bars.update(task, completed=job.progress.step, total=steps or None)
                self.detail(task, _describe(job))
                if job.state in FINAL_STATES:
                    break
            if job.state != job_pb2.JOB_STATE_SUCCEEDED:
                raise JobFailed(f"job {job_id} did not succeed: {job.message}")
            return job


def _describe(job: job_pb2.Job) -> str:
    state = job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower().replace("_", " ")
    metrics = ", ".join(f"{key} {value:.3f}" for key, value in sorted(job.progress.metrics.items()))
    return f"{state}  {metrics}" if metrics else state
