"""How the command line speaks: tables for people, JSON for scripts, one clear line for an error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table
from rich.text import Text

_UNCUT = 10_000
_LEAST_COLUMN = 10
"""Where columns would be narrower than this, each row of a listing is a block of lines."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
"""The option of every listing: `def runs(as_json: JsonOption = False)`."""


def console() -> Console:
    """Standard output; made at the call, so that a redirected one is respected."""
    return Console(highlight=False)


def listing_console() -> Console:
    """Standard output for a listing: what is read by a program or a pager is not cut to a width."""
    shown = console()
    return shown if shown.is_terminal else Console(highlight=False, width=_UNCUT)


def error_console() -> Console:
    """Standard error, where progress and problems go: standard output stays clean for pipes."""
    return Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Column:
    """One column of a listing: the key in each row, its heading, and how a value is shown."""

    key: str
    heading: str
    show: Callable[[Any], str | Text] = str
    justify: JustifyMethod = "left"
    style: str | None = None


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    as_json: bool,
    title: str | None = None,
    empty: str = "nothing yet",
) -> None:
    """Prints a listing: a table of `columns`, or the rows themselves as a JSON array."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        console().print(f"[dim]{escape(empty)}[/dim]")
        return
    if len(columns) * _LEAST_COLUMN > console().width:
        _print_blocks(rows, columns)
    else:
        listing_console().print(make_table(rows, columns, title))


def _print_blocks(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    """Prints rows of many columns: one line per column, one block per row."""
    widest = max(len(column.heading) for column in columns)
    out = listing_console()
    for number, row in enumerate(rows, 1):
        out.print(Text(f"row {number}", style="bold"))
        for column in columns:
            heading = Text(f"  {column.heading.ljust(widest)}  ", style="dim")
            value = _cell(row.get(column.key), column.show)
            shown = value if isinstance(value, Text) else Text.from_markup(value)
            out.print(Text.assemble(heading, shown), soft_wrap=True)


def make_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str | None = None
) -> Table:
    """The Rich table of a listing."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
    )
    for column in columns:
        # Folded, never cut: names and ids are there to be copied.
        table.add_column(
            column.heading, justify=column.justify, style=column.style, overflow="fold"
        )
    for row in rows:
        table.add_row(*(_cell(row.get(column.key), column.show) for column in columns))
    return table


def print_json(value: Any) -> None:
    """Prints a value as JSON, indented; times as RFC 3339."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def command_name() -> str:
    """What the user typed to get here: `infra/run` names itself, as its users may have no other."""
    return os.environ.get("TESSERA_COMMAND", "tessera")


def print_error(message: str) -> None:
    """Prints one line (and what it quotes) to standard error; never broken, as it may be copied."""
    message = message.replace("`tessera ", f"`{command_name()} ")
    error_console().print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def print_success(message: str) -> None:
    """Prints one line that says what was done, to standard error."""
    error_console().print(Text.assemble(("✓ ", "bold green"), message), soft_wrap=True)


def progress() -> Progress:
    """A progress display for long work, on standard error."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Elapsed(),
        console=error_console(),
    )


def describe_error(error: BaseException) -> str | None:
    """The line for an error that a person can act on; None for one that is a defect of ours."""
    from devstack.errors import StackError
    from tessera_kit.config import ConfigError
    from tessera_kit.errors import TesseraError, Unavailable

    if isinstance(error, TesseraError):
        lines = [str(error)]
        # The message of a single violation is that violation.
        lines += [
            f"  {wrong.field}: {wrong.description}"
            for wrong in error.violations
            if wrong.description not in lines[0]
        ]
        if isinstance(error, Unavailable):
            lines += _stopped_stack()
        return "\n".join(lines)
    if isinstance(error, (StackError, ConfigError)):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return None


def _stopped_stack() -> list[str]:
    """A line for whom the stack that their data directory tells of is down."""
    from devstack import Home, lock
    from devstack.home import DEFAULT_HOME

    home = Home.at(os.environ.get("TESSERA_HOME", DEFAULT_HOME))
    if not home.state_file.exists() or lock.holder(home) is not None:
        return []
    return [f"  the stack in {home.root} does not run; start it with `tessera up`"]


def _cell(value: Any, show: Callable[[Any], str | Text]) -> str | Text:
    if value is None:
        return Text("-", style="dim")
    shown = show(value)
    # What users named may hold square brackets, which are no markup.
    return escape(shown) if isinstance(shown, str) else shown


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)
