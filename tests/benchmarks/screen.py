"""The table that people read."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.results import Figure, Report

_WIDE = 100


def show(report: Report, console: Console) -> None:
    """Prints where it was measured and what was found."""
    where = report.surroundings
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    console.print(
        f"\n[bold]Tessera bench[/]  {where['cores']} cores, load average at start "
        f"{where['load_average'][0]:.2f} (1 min), {where['memory_gib']:.0f} GiB, {where['cpu']}"
    )
    console.print(
        f"[dim]{versions}; stack: {where['stack']}, the gateway's Triton: {where['runtime']}[/]",
        highlight=False,
    )
    if where["load_average"][0] > where["cores"] / 2:
        console.print(
            "[yellow]Other work kept these cores busy when this began: "
            "take no figure for the platform's.[/]"
        )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("figure", overflow="fold")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("beside", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    with_notes = console.width >= _WIDE
    if with_notes:
        table.add_column("", style="dim", overflow="fold")
    group = ""
    for figure in report.figures:
        if group and figure.group != group:
            table.add_section()
        table.add_row(
            f"[bold]{figure.group}[/]" if figure.group != group else "",
            figure.name,
            f"{_number(figure.value)} {figure.unit}",
            "" if figure.peer is None else f"{_number(figure.peer)} {figure.unit}",
            _ratio(figure),
            *([_remark(figure)] if with_notes else []),
        )
        group = figure.group
    console.print(table)
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.seconds.items())
    console.print(f"[dim]Client, engines and services shared these cores. Took: {took}[/]")


def _remark(figure: Figure) -> str:
    beside = f"beside: {figure.peer_name}" if figure.peer_name else ""
    return "; ".join(filter(None, (beside, _calibration(figure), figure.note)))


def _calibration(figure: Figure) -> str:
    if figure.calibration is None:
        return ""
    ratio = figure.calibration_ratio
    share = "" if ratio is None else f", {ratio:.2f}x"
    return f"{figure.calibration_name}: {_number(figure.calibration)} {figure.unit}{share}"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _ratio(figure: Figure) -> str:
    ratio = figure.ratio
    if ratio is None:
        return ""
    better = ratio >= 1 if figure.higher_is_better else ratio <= 1
    return f"[{'green' if better else 'yellow'}]{ratio:.2f}x[/]"
