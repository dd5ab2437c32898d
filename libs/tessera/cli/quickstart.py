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

from devstack import Home, NotRunning
from devstack.home import DEFAULT_HOME
from devstack.stack import Stack, attach, follow_start, launch, shut_down
from devstack.state import StackPhase
from tessera.cli import screen
from tessera.cli.output import console, error_console, print_json
from tessera.cli.stack import HomeOption
from tessera.client.settings import Settings
from tessera.quickstart.main import Options, run, write_report
from tessera.quickstart.plan import DEFAULT_REQUESTS
from tessera.quickstart.results import Results
from tessera_kit.units import human_duration

_ALL = 1_000_000_000


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
    asyncio.run(_quickstart(home, options, stop, as_json))


async def _quickstart(home: Path, options: Options, stop: bool, as_json: bool) -> None:
    started = time.perf_counter()
    stack, stack_seconds = await _stack(home)
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


async def _stack(home: Path) -> tuple[Stack, float]:
    """The running stack of the data directory, or a new one, and its seconds to healthy."""
    started = time.perf_counter()
    try:
        stack = attach(Home.at(home).root)
        if stack.state().state == StackPhase.RUNNING:
            return stack, 0.0
    except NotRunning:
        pass
    stack = await launch(home, None, detached=True)
    with screen.start_screen(error_console()) as on_change:
        await follow_start(stack, 120.0, on_change)
    return stack, time.perf_counter() - started


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
        *((f"AUC of version {version}", f"{auc or 0:.3f}", "") for version, auc in aucs),
        ("total", human_duration(figures["seconds_total"]), ""),
    ):
        table.add_row(label, value, note)
    out.print(Panel(table, title="A year of flights", title_align="left", expand=False))
    figures_path, page = paths
    out.print(
        f"  The report  [bold]{page}[/]\n  Its figures [bold]{figures_path}[/]", soft_wrap=True
    )
    if not stopped:
        out.print(
            "\n  The stack is still up. Look around: [bold]infra/run status[/], "
            f"[bold]infra/run windows {results.plan.monitor}[/], "
            f"[bold]infra/run lineage endpoint {results.plan.endpoint}[/]\n"
            "  Stop it: [bold]infra/run down[/]"
        )
