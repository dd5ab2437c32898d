"""The verb `tracking`: experiments from and to MLflow, and the end of what was deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from tessera.cli.arguments import joined_ids, time_span
from tessera.cli.messages import age, rows
from tessera.cli.output import Column, JsonOption, print_rows, print_success, progress
from tessera.client.sync.client import Client
from tessera.transfer.from_mlflow import Copied, copy_from_mlflow
from tessera.transfer.to_mlflow import copy_to_mlflow
from tessera_kit.errors import FailedPrecondition

Uri = Annotated[str, typer.Argument(help="URL of an MLflow server, or folder of a file store.")]
WithArtifacts = Annotated[bool, typer.Option(help="Whether to copy files too.")]
Ids = Annotated[list[str] | None, typer.Option(help="An id, or several joined by commas.")]

_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    group = typer.Typer(
        no_args_is_help=True, help="Move experiments from and to MLflow; purge what was deleted."
    )
    group.command("import")(import_)
    group.command("export")(export)
    group.command("gc")(gc)
    app.add_typer(group, name="tracking", rich_help_panel="Experiments and runs")


def import_(
    uri: Uri,
    experiment: Annotated[
        list[str] | None, typer.Option(help="An experiment's name; all without it.")
    ] = None,
    artifacts: WithArtifacts = True,
) -> None:
    """Copy experiments from MLflow; run it again to go on where it was stopped."""
    if "://" not in uri and not Path(uri).is_dir():
        raise typer.BadParameter(f"there is no folder {uri}")
    with _mlflow(uri), Client() as client, progress() as display:
        copied = copy_from_mlflow(
            client.tracking,
            uri,
            experiments=experiment,
            artifacts=artifacts,
            tell=_Shown(display).tell,
        )
    print_success(_summary(copied))
    if copied.refused:
        reasons = [f"{run_id}: {why}" for run_id, why in copied.refused.items()]
        raise FailedPrecondition(
            f"{len(reasons):,} runs were not copied; the first are\n" + "\n".join(reasons[:_SHOWN])
        )


def export(
    uri: Uri,
    experiment: Annotated[list[str], typer.Option(help="An experiment's name.")],
    artifacts: WithArtifacts = True,
) -> None:
    """Copy experiments to MLflow; run it again to go on where it was stopped."""
    with _mlflow(uri), Client() as client, progress() as display:
        copied = copy_to_mlflow(
            client.tracking, uri, experiment, artifacts=artifacts, tell=_Shown(display).tell
        )
    print_success(_summary(copied))


def gc(
    older_than: Annotated[
        str, typer.Option(help="For how long it must have been deleted, as 7d or 1d2h3m4s.")
    ] = "",
    run_ids: Ids = None,
    experiment_ids: Ids = None,
    logged_model_ids: Ids = None,
    dry_run: Annotated[bool, typer.Option(help="Only tell what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove for good what was deleted: what is named, or all there is."""
    least_age = time_span(older_than) if older_than else None
    with Client() as client:
        answer = client.tracking.purge_deleted(
            experiment_ids=joined_ids(experiment_ids),
            run_ids=joined_ids(run_ids),
            model_ids=joined_ids(logged_model_ids),
            older_than=least_age,
            dry_run=dry_run,
        )
    columns = [
        Column("kind", "Kind", _kind),
        Column("id", "Id"),
        Column("name", "Name"),
        Column("experiment_id", "Experiment"),
        Column("deleted_at", "Deleted", age),
    ]
    empty = "nothing that was deleted qualifies"
    print_rows(rows(answer.things), columns, as_json=as_json, empty=empty)
    if dry_run:
        more = ", and more" if answer.has_more else ""
        print_success(f"{len(answer.things):,} would be removed for good{more}")
    else:
        print_success(
            f"{len(answer.things):,} removed for good; points, spans and files of "
            f"{answer.under_way:,} are being removed"
        )


@contextmanager
def _mlflow(uri: str) -> Iterator[None]:
    """Makes MLflow's client read file stores, give up in time, and say where it failed."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    # Its bars, one a file, would break the one that shows how far the copy is.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        yield
    except Exception as error:
        # By name: MLflow need not be installed, and takes a second to import.
        if not any(kind.__name__ == "MlflowException" for kind in type(error).__mro__):
            raise
        raise FailedPrecondition(f"MLflow at {uri}: {error}") from error


class _Shown:
    """Shows how far a copy is, a line per experiment."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._tasks: dict[str, TaskID] = {}

    def tell(self, name: str, copied: Copied) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._display.add_task(name, total=None)
        self._display.advance(self._tasks[name])


def _kind(name: str) -> str:
    return name.removeprefix("DELETED_KIND_").lower().replace("_", " ")


def _summary(copied: Copied) -> str:
    known = f", {copied.known:,} were there already" if copied.known else ""
    runs, experiments = _counted(copied.runs, "run"), _counted(copied.experiments, "experiment")
    return (
        f"copied {runs} of {experiments} with "
        f"{_counted(copied.points, 'point')} and {_counted(copied.files, 'file')}{known}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
