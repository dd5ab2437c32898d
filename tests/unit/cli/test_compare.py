"""Runs side by side: what differs, what they measured, and how curves look."""

from __future__ import annotations

import io
import math

import pytest
import typer
from click.testing import CliRunner
from rich.console import Console

from tessera.cli import main as command
from tessera.cli.compare import comparison, sparkline
from tessera.tracking.v1 import tracking_pb2 as pb


def run(number: int, loss: float, **params: str) -> pb.Run:
    made = pb.Run(
        run_id=f"r{number}",
        name=f"run [{number}]",
        status=pb.RUN_STATUS_FINISHED,
        params=[pb.Param(key=key, value=value) for key, value in params.items()],
        metrics=[pb.Metric(key="loss", value=loss, step=9), pb.Metric(key="auc", value=0.5)],
        metric_extremes=[pb.MetricExtremes(key="loss", min=loss, max=8.0)],
    )
    made.started_at.FromSeconds(1_000)
    made.ended_at.FromSeconds(1_065)
    return made


def shown(*runs: pb.Run, **choices: object) -> str:
    out = io.StringIO()
    curves = {("r1", "loss"): "█▁", ("r2", "loss"): "▁█"}
    table = comparison(runs, lambda *key: curves.get(key, ""), **choices)  # type: ignore[arg-type]
    Console(file=out, width=100).print(table)
    return out.getvalue()


def test_what_differs_is_shown_and_what_is_equal_is_counted() -> None:
    text = shown(run(1, 0.25, rate="0.1", size="8"), run(2, 0.5, rate="0.2", size="8", extra="x"))
    lines = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
    assert lines["rate"] == ["0.1", "0.2"]
    assert lines["extra"] == ["-", "x"]
    assert lines["loss"] == ["0.25", "0.5"]
    assert lines["curve"] == ["█▁", "▁█"]
    assert lines["took"] == ["1", "m", "5", "s", "1", "m", "5", "s"]
    assert "run [1]" in text
    assert "1 parameter is equal" in text
    assert "size" not in lines


def test_a_narrow_terminal_cuts_neither_the_end_of_a_curve_nor_the_power_of_a_number() -> None:
    runs = [run(place, 0.25, rate=f"1.713558321012345{place}e-05") for place in range(1, 4)]
    out = io.StringIO()
    falling = "█▇▇▇▆▆▆▅▅▅▄▄▄▃▃▃▂▂▂▁▁▁▁▁"
    Console(file=out, width=60).print(comparison(runs, lambda *key: falling))
    lines = {words[0]: words[1:] for line in out.getvalue().splitlines() if (words := line.split())}
    assert lines["rate"] == ["1.71356e-05"] * 3
    for curve in lines["curve"]:
        assert curve.startswith("█")
        assert curve.endswith("▁")
        assert set(curve) == set(falling)


def test_what_the_machine_did_comes_last() -> None:
    runs = [run(1, 0.25), run(2, 0.5)]
    for one in runs:
        one.metrics.insert(0, pb.Metric(key="system/cpu", value=1.0))
        one.metrics.add(key="val/loss", value=2.0)
    places = [shown(*runs).index(key) for key in ("auc", "loss", "val/loss", "system/cpu")]
    assert places == sorted(places)


def test_all_parameters_and_chosen_metrics() -> None:
    runs = run(1, 0.25, size="8"), run(2, 0.5, size="8")
    text = shown(*runs, show_all=True, metrics=["auc"])
    assert "size" in text
    assert "auc" in text
    assert "loss" not in text


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([math.nan], ""),
        ([3.0, 3.0], "▅▅"),
        ([0.0, 1.0, math.nan, 0.5, math.inf], "▁█ ▅ "),
        ([-1e308, 1e308], "▅▅"),
        ([0.0, 5e-324], "▁█"),
    ],
)
def test_lines_of_blocks(values: list[float], line: str) -> None:
    assert sparkline(values) == line


def test_runs_without_a_subcommand_lists() -> None:
    group = typer.main.get_command(command.build_app("runs"))
    result = CliRunner().invoke(group, ["runs", "compare", "--help"])
    assert "Compare runs" in result.output
    result = CliRunner().invoke(group, ["runs", "--limit", "0", "flights"])
    assert result.exit_code == 2
    assert "--limit" in result.output
