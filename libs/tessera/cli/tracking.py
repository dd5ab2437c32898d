"""The verb `tracking`: experiments from and to MLflow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from tessera.cli.output import print_success, progress
from tessera.client.sync.client import Client
from tessera.transfer.from_mlflow import Copied, copy_from_mlflow
from tessera.transfer.to_mlflow import copy_to_mlflow
from tessera_kit.errors import FailedPrecondition

Uri = Annotated[str, typer.Argument(help="URL of an MLflow server, or folder of a file store.")]
WithArtifacts = Annotated[bool, typer.Option(help="Whether to copy files too.")]

_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    group = typer.Typer(no_args_is_help=True, help="Move experiments from and to MLflow.")
    group.command("import")(import_)
    group.command("export")(export)
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


def _summary(copied: Copied) -> str:
    known = f", {copied.known:,} were there already" if copied.known else ""
    return (
        f"copied {copied.runs:,} runs of {copied.experiments:,} experiments with "
        f"{copied.points:,} points and {copied.files:,} files{known}"
    )
