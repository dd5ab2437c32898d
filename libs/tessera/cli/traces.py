"""The verbs of traces: one as a waterfall, in the terminal or as a page."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from tessera.cli.output import JsonOption, console, print_json, print_success
from tessera.client.settings import Settings
from tessera.pages.waterfall import Row, arranged, duration_text, page, trace_of
from tessera_kit.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    TesseraError,
    Unauthenticated,
    Unavailable,
)

_PANEL = "Experiments and runs"
_BAR: Final = 40
_SECONDS: Final = 30.0
_ERRORS: Final[dict[int, type[TesseraError]]] = {
    400: InvalidArgument,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
}

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
    message = _fetch(trace_id)
    if as_json:
        print_json(message)
        return
    trace = trace_of(message)
    if html is not None:
        html.write_text(page(trace), encoding="utf-8")
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


def _fetch(trace_id: str) -> dict[str, Any]:
    settings = Settings.from_env()
    query = urllib.parse.urlencode({"trace_id": trace_id})
    url = f"{settings.door('tracking_http')}/api/3.0/mlflow/traces/get?{query}"
    request = urllib.request.Request(url)  # noqa: S310
    if settings.token is not None:
        request.add_header("authorization", f"Bearer {settings.token.reveal()}")
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            trace: dict[str, Any] = json.load(answer)["trace"]
            return trace
    except urllib.error.HTTPError as error:
        raise _ERRORS.get(error.code, Unavailable)(_message(error)) from None
    except (urllib.error.URLError, TimeoutError):
        raise Unavailable(f"tracking does not answer at {settings.tracking_http}") from None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError):
        return f"tracking answered {error.code}"
