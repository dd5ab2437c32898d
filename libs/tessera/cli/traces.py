"""The verbs of traces: one as a waterfall, in the terminal or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from tessera.cli.arguments import new_file
from tessera.cli.output import JsonOption, console, print_json, print_success
from tessera.client.mlflow_door import MlflowDoor
from tessera.client.settings import Settings
from tessera.pages.waterfall import Row, arranged, duration_text, page, trace_of

_PANEL = "Experiments and runs"
_BAR: Final = 40

_traces = typer.Typer(help="Traces of generative applications.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    app.add_typer(_traces, name="traces", rich_help_panel=_PANEL)


@_traces.command()
def show(
    trace_id: Annotated[str, typer.Argument(help="A trace's id, as tr-….")],
    html: Annotated[
        Path | None, typer.Option(help="Write a page to this file instead.", dir_okay=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a trace as a waterfall of its steps."""
    message = MlflowDoor(Settings.from_env()).trace(trace_id)
    if as_json:
        print_json(message)
        return
    trace = trace_of(message)
    if html is not None:
        with new_file(html) as file:
            file.write(page(trace).encode())
        print_success(f"wrote {html}")
        return
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.title = Text(f"{trace.name or trace.trace_id}  {trace.state}", style="bold")
    for heading in ("Step", "", "Took"):
        table.add_column(heading, justify="right" if heading == "Took" else "left", no_wrap=True)
    for row in arranged(trace.steps):
        took = duration_text(row.step.ended_at - row.step.started_at)
        table.add_row(Text("  " * row.depth + row.step.name), _bar(row), took)
    console().print(table)


def _bar(row: Row) -> Text:
    start = min(_BAR - 1, round(row.offset * _BAR))
    length = max(1, min(_BAR - start, round(row.width * _BAR)))
    return Text(" " * start + "━" * length, style="red" if row.step.failed else "cyan")
