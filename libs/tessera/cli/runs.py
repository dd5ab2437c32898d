"""The verbs of tracking and training: experiments, runs, jobs, job logs, cancel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from tessera.cli.messages import age, enum_word, rows
from tessera.cli.output import Column, JsonOption, print_json, print_rows, print_success
from tessera.client.sync.client import Client

_TRACKING, _TRAINING = "Experiments and runs", "Training jobs"

JobId = Annotated[str, typer.Argument(help="A job's id.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    for verb in (experiments, runs, run, jobs, job_logs, cancel):
        panel = _TRACKING if verb in (experiments, runs, run) else _TRAINING
        app.command(verb.__name__.replace("_", "-"), rich_help_panel=panel)(verb)


def experiments(as_json: JsonOption = False) -> None:
    """List experiments, the newest first."""
    with Client() as client:
        found = rows(client.tracking.search_experiments())
    columns = [
        Column("experiment_id", "Id"),
        Column("name", "Name"),
        Column("created_by", "By"),
        Column("created_at", "Created", age),
    ]
    print_rows(found, columns, as_json=as_json)


def runs(
    experiment: Annotated[str, typer.Argument(help="An experiment's name.")],
    filter: Annotated[str, typer.Option(help="As in: metrics.auc > 0.7")] = "",
    order_by: Annotated[list[str] | None, typer.Option(help="As in: metrics.auc DESC")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    as_json: JsonOption = False,
) -> None:
    """Find runs of an experiment."""
    with Client() as client:
        chosen = client.tracking.get_experiment(name=experiment)
        found = rows(
            client.tracking.search_runs(
                [chosen.experiment_id], filter, order_by=order_by or (), limit=limit
            )
        )
    columns = [
        Column("run_id", "Run"),
        Column("name", "Name"),
        Column("status", "Status", enum_word),
        Column("metrics", "Metrics", _latest),
        Column("started_at", "Started", age),
    ]
    print_rows(found, columns, as_json=as_json, empty="no run matches")


def run(run_id: Annotated[str, typer.Argument(help="A run's id.")]) -> None:
    """Show one run as JSON: parameters, latest metrics, tags, inputs."""
    with Client() as client:
        print_json(rows([client.tracking.get_run(run_id)])[0])


def jobs(
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List training jobs, the newest first."""
    with Client() as client:
        found = rows(client.training.list_jobs(limit=limit))
    columns = [
        Column("job_id", "Job"),
        Column("spec", "Name", lambda spec: str(spec["name"])),
        Column("state", "State", enum_word),
        Column("progress", "Progress", _progress),
        Column("attempts", "Attempts", lambda value: str(len(value)), "right"),
        Column("submitted_by", "By"),
        Column("created_at", "Submitted", age),
    ]
    print_rows(found, columns, as_json=as_json)


def job_logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    attempt: Annotated[int, typer.Option(help="Which attempt; the latest when 0.", min=0)] = 0,
) -> None:
    """Print the log of a job."""
    with Client() as client:
        for line in client.training.logs(job_id, attempt=attempt, follow=follow):
            typer.echo(f"[{line.rank}] {line.text}")


def cancel(job_id: JobId) -> None:
    """Cancel a job."""
    with Client() as client:
        job = rows([client.training.cancel(job_id)])[0]
    print_success(f"job {job_id} is {enum_word(job['state'])}")


def _latest(metrics: Iterable[dict[str, Any]]) -> str:
    return ", ".join(f"{metric['key']}={float(metric['value']):.4g}" for metric in metrics)


def _progress(progress: dict[str, Any]) -> str:
    total = int(progress.get("total_steps", 0))
    return f"{progress.get('step', 0)}/{total}" if total else ""
