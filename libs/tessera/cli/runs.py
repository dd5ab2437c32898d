"""The verbs of tracking and training: experiments, runs, jobs, job logs, cancel."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tessera.cli.arguments import LARGEST_INT32, new_file
from tessera.cli.compare import runs_compare
from tessera.cli.messages import age, enum_word, rows
from tessera.cli.output import Column, JsonOption, print_json, print_rows, print_success
from tessera.cli.run_page import runs_page
from tessera.client.sync.client import Client
from tessera.tracking.v1 import tracking_pb2

_TRACKING, _TRAINING = "Experiments and runs", "Training jobs"

RunId = Annotated[str, typer.Argument(help="A run's id.")]
JobId = Annotated[str, typer.Argument(help="A job's id.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    group = typer.Typer(cls=_WithDefault, no_args_is_help=True, help="Find and compare runs.")
    group.command("list")(runs)
    group.command("compare")(runs_compare)
    group.command("page")(runs_page)
    app.add_typer(group, name="runs", rich_help_panel=_TRACKING)
    for verb in (*_OF_TRACKING, jobs, job_logs, cancel):
        panel = _TRACKING if verb in _OF_TRACKING else _TRAINING
        app.command(verb.__name__.replace("_", "-"), rich_help_panel=panel)(verb)


class _WithDefault(TyperGroup):
    """`tessera runs EXPERIMENT` lists runs, as `tessera runs list EXPERIMENT` does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = ["list", *args]
        return super().parse_args(ctx, args)


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
    experiment: Annotated[str, typer.Argument(help="An experiment's name or id.")],
    filter: Annotated[str, typer.Option(help="As in: metrics.auc > 0.7")] = "",
    order_by: Annotated[list[str] | None, typer.Option(help="As in: metrics.auc DESC")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    as_json: JsonOption = False,
) -> None:
    """Find runs of an experiment."""
    with Client() as client:
        chosen = client.tracking.find_experiment(experiment)
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


def run(run_id: RunId) -> None:
    """Show one run as JSON: parameters, latest metrics, tags, inputs."""
    with Client() as client:
        print_json(rows([client.tracking.get_run(run_id)])[0])


def run_tail(run_id: RunId) -> None:
    """Follow a run: its state and each new latest point, until it ends."""
    with Client() as client:
        for news in client.tracking.tail_run(run_id):
            if news.HasField("run"):
                status = tracking_pb2.RunStatus.Name(news.run.status)
                typer.echo(f"{news.run.name or run_id} is {enum_word(status)}")
            for metric in news.metrics:
                typer.echo(f"{metric.key} {metric.value:.6g} at step {metric.step}")


def run_metric(
    run_id: RunId,
    key: Annotated[str, typer.Argument(help="A metric's name.")],
    buckets: Annotated[int, typer.Option(help="How many rows at most.", min=1, max=10_000)] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show a metric of a run in few rows: count, least, greatest and mean value of each."""
    with Client() as client:
        found = rows(client.tracking.downsample(run_id, key, buckets=buckets))
    columns = [
        Column("first_step", "From step", justify="right"),
        Column("last_step", "To step", justify="right"),
        Column("count", "Points", justify="right"),
        Column("min", "Min", _short, "right"),
        Column("max", "Max", _short, "right"),
        Column("mean", "Mean", _short, "right"),
    ]
    print_rows(found, columns, as_json=as_json, empty="the run has no such metric")


def run_export(
    target: Annotated[Path, typer.Argument(help="The Arrow IPC file to write.")],
    run_id: Annotated[list[str] | None, typer.Option("--run", help="A run's id.")] = None,
    experiment: Annotated[str, typer.Option(help="An experiment's name or id.")] = "",
    filter: Annotated[str, typer.Option(help="As in: metrics.auc > 0.7")] = "",
    key: Annotated[list[str] | None, typer.Option(help="A metric; all without it.")] = None,
) -> None:
    """Write all points of runs, or of an experiment's runs, as an Arrow IPC stream."""
    if bool(run_id) == bool(experiment):
        raise typer.BadParameter("give either --run or --experiment")
    with Client() as client, new_file(target) as file:
        chosen: list[str] = []
        if experiment:
            chosen.append(client.tracking.find_experiment(experiment).experiment_id)
        chunks = client.tracking.export_arrow(
            run_ids=run_id or (),
            experiment_ids=chosen,
            filter=filter,
            keys=key or (),
        )
        written = sum(file.write(chunk) for chunk in chunks)
    print_success(f"wrote {written:,} bytes to {target}")


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
    attempt: Annotated[
        int, typer.Option(help="Which attempt; the latest when 0.", min=0, max=LARGEST_INT32)
    ] = 0,
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


def _short(value: float | str) -> str:
    # JSON has no NaN and no infinity: they come as texts.
    return f"{float(value):.6g}"


_OF_TRACKING = (experiments, run, run_tail, run_metric, run_export)
