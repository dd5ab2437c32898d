"""The verb of the main job: a year of flights through the whole platform."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from devstack import Home, lock
from devstack.home import DEFAULT_HOME
from devstack.stack import shut_down
from tessera.cli.output import command_name, console, error_console, print_json
from tessera.cli.stack import HomeOption, bring_up
from tessera.client.settings import Settings
from tessera.quickstart.main import Options, run, write_report
from tessera.quickstart.plan import DEFAULT_REQUESTS
from tessera.quickstart.results import Results
from tessera_kit.units import human_duration

_ALL = 1_000_000_000
_INTERRUPTED = 130
"""The exit code of a command that was stopped by Ctrl-C, as shells have it."""


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    app.command("quickstart", rich_help_panel="The main job")(quickstart)


def quickstart(
    home: HomeOption = Path(DEFAULT_HOME),
    requests: Annotated[
        int, typer.Option(help="Flights to send, spread over April to December.", min=1000)
    ] = DEFAULT_REQUESTS,
    full: Annotated[bool, typer.Option("--full", help="Send all of them.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the stack at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train, serve, monitor and retrain on a year of real flights; ends with a report."""
    options = Options(requests=_ALL if full else requests)
    try:
        asyncio.run(_quickstart(home, options, stop, as_json))
    except KeyboardInterrupt:
        _interrupted(error_console(), home)
        raise typer.Exit(_INTERRUPTED) from None


async def _quickstart(home: Path, options: Options, stop: bool, as_json: bool) -> None:
    started = time.perf_counter()
    stack = await bring_up(home)
    stack_seconds = time.perf_counter() - started
    try:
        settings = Settings.from_env({**os.environ, "TESSERA_HOME": str(stack.home.root)})
        results = await run(settings, options, error_console())
        results.figures["seconds"]["stack"] = round(stack_seconds, 3)
        results.figures["seconds_total"] = round(time.perf_counter() - started, 3)
        paths = write_report(results, stack.home.root / "quickstart")
    finally:
        if stop:
            await shut_down(stack.home)
    if as_json:
        print_json(results.figures)
    else:
        _summary(console(), results, paths, stopped=stop)


def _interrupted(out: Console, home: Path) -> None:
    """Says what is left of a run that was stopped in the middle."""
    out.print(
        "\nStopped in the middle. The next run begins anew, and removes what this one served."
    )
    if lock.holder(Home.at(home)) is not None:
        out.print(f"The stack goes on; `{command_name()} down` stops it.")


def _summary(out: Console, results: Results, paths: tuple[Path, Path], *, stopped: bool) -> None:
    figures = results.figures
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    aucs = figures["auc_by_version"].items()
    for label, value, note in (
        (
            "flights answered",
            f"{figures['responses_ok']:,}",
            f"of {figures['requests_sent']:,} sent",
        ),
        ("rows in the inference table", f"{figures['inference_table_rows']:,}", ""),
        ("rows lost, doubled", f"{figures['rows_lost']}, {figures['rows_duplicated']}", ""),
        ("table lag, p99", f"{figures['table_lag_p99_ms']:,.0f} ms", "response to readable row"),
        ("outcomes joined", f"{figures['labels_joined']:,}", ""),
        ("windows that drifted", f"{figures['drift_windows']}", f"of {figures['windows']}"),
        ("alerts", f"{figures['alerts']}", ""),
        *(
            (f"AUC of version {version}", f"{auc or 0:.3f}", "over all that it answered")
            for version, auc in aucs
        ),
        ("total", human_duration(figures["seconds_total"]), ""),
    ):
        table.add_row(label, value, note)
    out.print(Panel(table, title="A year of flights", title_align="left", expand=False))
    figures_path, page = paths
    out.print(
        f"  The report  [bold]{page}[/]\n  Its figures [bold]{figures_path}[/]", soft_wrap=True
    )
    if stopped:
        return
    out.print("\n  The stack is still up. Look around, and stop it:")
    for verb in (
        "status",
        f"windows {results.plan.monitor}",
        f"lineage endpoint {results.plan.endpoint}",
        "down",
    ):
        out.print(f"    [bold]{command_name()} {verb}[/]", soft_wrap=True)
