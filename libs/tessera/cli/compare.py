"""Runs side by side in the terminal: parameters, metrics with their curves, state and duration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tessera.cli.messages import enum_word
from tessera.cli.output import JsonOption, listing_console, print_json
from tessera.client.sync.client import Client
from tessera.client.sync.tracking import Tracking
from tessera.pages.run_report import metric_place, value_text
from tessera.tracking.v1 import tracking_pb2
from tessera_kit.units import human_duration

__all__ = ["comparison", "runs_compare", "sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 24
_LEAST_CURVE = 8
_MOST_RUNS = 8


def runs_compare(
    run_ids: Annotated[list[str], typer.Argument(help="Ids of 2 to 8 runs.", metavar="RUN...")],
    metric: Annotated[
        list[str] | None, typer.Option(help="A metric to show; all without it.")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Equal parameters too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare runs: what differs in their parameters, and their metrics with curves."""
    if not 2 <= len(run_ids) <= _MOST_RUNS:
        raise typer.BadParameter(f"give 2 to {_MOST_RUNS} runs")
    with Client() as client:
        runs = [client.tracking.get_run(run_id) for run_id in run_ids]
        if as_json:
            print_json(_plain(runs, metric))
            return
        curves = _curves(client.tracking, runs, metric)
    listing_console().print(comparison(runs, curves, metrics=metric, show_all=show_all))


def comparison(
    runs: Sequence[tracking_pb2.Run],
    curves: Callable[[str, str], str],
    *,
    metrics: Sequence[str] | None = None,
    show_all: bool = False,
) -> Table:
    """The table of runs, one column each.

    Args:
        runs: The runs.
        curves: The curve of a run's metric, by the run's id and the metric's name.
        metrics: The metrics to show; all when None.
        show_all: Whether to show parameters that are equal in all runs.
    """
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("")
    for run in runs:
        table.add_column(Text(run.name or run.run_id, overflow="ellipsis"))
    table.add_row("run", *(Text(run.run_id, style="dim", overflow="ellipsis") for run in runs))
    statuses = [tracking_pb2.RunStatus.Name(run.status) for run in runs]
    table.add_row("state", *(enum_word(status) for status in statuses))
    table.add_row("took", *(human_duration(_seconds(run)) for run in runs))
    _add_params(table, runs, show_all=show_all)
    _add_metrics(table, runs, curves, metrics)
    return table


def sparkline(values: Sequence[float]) -> str:
    """Values as blocks of eight heights between their least and greatest; gaps where none is."""
    numbers = [value for value in values if math.isfinite(value)]
    if not numbers:
        return ""
    least, span = min(numbers), max(numbers) - min(numbers)
    heights = len(_BLOCKS) - 1

    def block(value: float) -> str:
        if not math.isfinite(value):
            return " "
        # A span that is infinite is one of numbers near the greatest there are.
        share = (value / span - least / span) if span and math.isfinite(span) else 0.5
        return _BLOCKS[round(share * heights)]

    return "".join(block(value) for value in values)


def _add_params(table: Table, runs: Sequence[tracking_pb2.Run], *, show_all: bool) -> None:
    params = [{param.key: param.value for param in run.params} for run in runs]
    table.add_section()
    hidden = 0
    for key in sorted(set().union(*params)):
        values = [own.get(key) for own in params]
        differs = len(set(values)) > 1
        if not differs and not show_all:
            hidden += 1
            continue
        style = "yellow" if differs else ""
        cells = (Text("-" if one is None else value_text(one), style=style) for one in values)
        table.add_row(escape(key), *cells)
    if hidden:
        noun = "parameter is" if hidden == 1 else "parameters are"
        table.add_row(Text(f"{hidden} {noun} equal (--all)", style="dim"))


def _add_metrics(
    table: Table,
    runs: Sequence[tracking_pb2.Run],
    curves: Callable[[str, str], str],
    chosen: Sequence[str] | None,
) -> None:
    latest = [{metric.key: metric for metric in run.metrics} for run in runs]
    ends = [{one.key: one for one in run.metric_extremes} for run in runs]
    keys = sorted(set().union(*latest), key=metric_place) if chosen is None else chosen
    for key in keys:
        table.add_section()
        values = [own[key].value if key in own else None for own in latest]
        table.add_row(
            escape(key), *(Text("-" if v is None else f"{v:.6g}", style="bold") for v in values)
        )
        if any(own[key].step for own in latest if key in own):
            table.add_row(
                Text("  from, to", style="dim"),
                *(f"{own[key].min:.4g} … {own[key].max:.4g}" if key in own else "" for own in ends),
            )
            lines = [_Line(curves(run.run_id, key)) for run in runs]
            table.add_row(Text("  curve", style="dim"), *lines)


class _Line:
    """A curve that is thinned out, not cut off, where its column is narrow: its end counts most."""

    def __init__(self, blocks: str) -> None:
        self._blocks = blocks

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        most = len(self._blocks)
        return Measurement(min(most, _LEAST_CURVE), most).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        last, width = len(self._blocks) - 1, min(len(self._blocks), options.max_width)
        places = (round(at * last / max(width - 1, 1)) for at in range(width))
        yield Text("".join(self._blocks[place] for place in places), style="cyan")


def _curves(
    tracking: Tracking, runs: Sequence[tracking_pb2.Run], chosen: Sequence[str] | None
) -> Callable[[str, str], str]:
    drawn: dict[tuple[str, str], str] = {}
    for run in runs:
        for metric in run.metrics:
            if metric.step and (chosen is None or metric.key in chosen):
                found = tracking.downsample(run.run_id, metric.key, buckets=_CURVE_WIDTH)
                drawn[run.run_id, metric.key] = sparkline([bucket.mean for bucket in found])
    return lambda run_id, key: drawn.get((run_id, key), "")


def _seconds(run: tracking_pb2.Run) -> float:
    ended = run.ended_at.ToDatetime(UTC) if run.HasField("ended_at") else datetime.now(UTC)
    return max((ended - run.started_at.ToDatetime(UTC)).total_seconds(), 0.0)


def _plain(
    runs: Sequence[tracking_pb2.Run], chosen: Sequence[str] | None
) -> list[dict[str, object]]:
    return [
        {
            "run_id": run.run_id,
            "name": run.name,
            "status": enum_word(tracking_pb2.RunStatus.Name(run.status)),
            "seconds": _seconds(run),
            "params": {param.key: param.value for param in run.params},
            "metrics": {
                metric.key: metric.value
                for metric in run.metrics
                if chosen is None or metric.key in chosen
            },
        }
        for run in runs
    ]
