"""The verb `tracking`: experiments from and to MLflow."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from tessera.cli.output import print_success, progress
from tessera.client.sync.client import Client
from tessera.transfer.from_mlflow import Copied, copy_from_mlflow
from tessera.transfer.to_mlflow import copy_to_mlflow

Uri = Annotated[str, typer.Argument(help="URL of an MLflow server, or folder of a file store.")]
WithArtifacts = Annotated[bool, typer.Option(help="Whether to copy files too.")]


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
    with Client() as client, progress() as display:
        copied = copy_from_mlflow(
            client.tracking,
            uri,
            experiments=experiment,
            artifacts=artifacts,
            tell=_Shown(display).tell,
        )
    print_success(_summary(copied))


def export(
    uri: Uri,
    experiment: Annotated[list[str], typer.Option(help="An experiment's name.")],
    artifacts: WithArtifacts = True,
) -> None:
    """Copy experiments to MLflow; run it again to go on where it was stopped."""
    with Client() as client, progress() as display:
        copied = copy_to_mlflow(
            client.tracking, uri, experiment, artifacts=artifacts, tell=_Shown(display).tell
        )
    print_success(_summary(copied))


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
