"""A run, or several side by side, as one page: curves, parameters, files, traces, lineage."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tessera.pages import document
from tessera.pages.curves import Columns, packed
from tessera.pages.waterfall import Trace, arranged, shown
from tessera.tracking.v1 import tracking_pb2
from tessera_kit.units import human_bytes, human_duration

__all__ = [
    "Cell",
    "Link",
    "Report",
    "RunView",
    "TableColumn",
    "metric_place",
    "page",
    "page_policy",
    "value_text",
]

_SCRIPTS: Final = ("data.js", "marks.js", "chart.js", "curves.js", "parallel.js", "table.js")
_SOURCE: Final = (
    ("source", "mlflow.source.name"),
    ("entry point", "mlflow.project.entryPoint"),
    ("commit", "mlflow.source.git.commit"),
    ("branch", "mlflow.source.git.branch"),
    ("repository", "mlflow.source.git.repoURL"),
    ("parent run", "mlflow.parentRunId"),
    ("job", "tessera.job_id"),
)
_MISSING: Final = "-"
_FRACTION: Final = re.compile(r"[+-]?\d+\.\d+(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_LONGEST_FRACTION: Final = 10


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a run's lineage, as text."""

    direction: str
    """"from" for what the run used, "to" for what came of it."""
    kind: str
    """What it is, as "table" or "model version"."""
    name: str
    """Its name among its kind."""
    detail: str = ""
    """What else is known, as a digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run with what does not travel with it."""

    run: tracking_pb2.Run
    experiment: str
    """The experiment's name."""
    artifacts: Sequence[tracking_pb2.ArtifactInfo] = ()
    """Files, by path."""
    more_artifacts: bool = False
    """Whether there are more files than these."""
    links: Sequence[Link] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a page shows."""

    runs: Sequence[RunView]
    curves: Mapping[tuple[int, str], Sequence[tracking_pb2.MetricBucket]] = field(
        default_factory=dict
    )
    """Buckets by a run's place in `runs` and a metric's name."""
    traces: Sequence[tuple[int, Trace]] = ()
    """Each with the place of its run in `runs`."""
    notes: Sequence[str] = ()
    """What is left out, and why, in sentences."""
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the table of runs."""

    text: str
    sort: str = ""
    """What it is sorted by: a number's text, or the text itself; empty where there is no value."""
    whole: str = ""
    """All of what `text` shows in short; empty where that is whole."""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of the table of runs, one cell per run."""

    group: str
    """"" for facts, "param" or "metric"."""
    name: str
    cells: Sequence[Cell]

    @property
    def differs(self) -> bool:
        """Whether its runs have different values."""
        return len({cell.sort for cell in self.cells}) > 1

    @property
    def numeric(self) -> bool:
        """Whether all values that are there are numbers."""
        return all(_number(cell.sort) is not None for cell in self.cells if cell.sort)


def page_policy() -> str:
    """Return the Content-Security-Policy of every page of runs, which each also holds itself."""
    return document.policy(document.script(*_SCRIPTS))


def page(report: Report) -> str:
    """Return one HTML document that needs nothing else; all that users named is escaped.

    Raises:
        ValueError: The report has no run.
    """
    if not report.runs:
        raise ValueError("a page needs a run")
    columns = Columns()
    curves = list(packed(report.curves, columns))
    code = document.script(*_SCRIPTS)
    experiments = sorted({one.experiment for one in report.runs})
    first = report.runs[0]
    return document.render(
        "runs.html.j2",
        title=(
            _name(first.run)
            if len(report.runs) == 1
            else f"{len(report.runs)} runs of {', '.join(experiments)}"
        ),
        single=first if len(report.runs) == 1 else None,
        report=report,
        policy=document.policy(code),
        code=code,
        data=document.embedded(_data(report, curves, columns)),
        has_curves=any(not _is_system(one["key"]) for one in curves),
        has_system=any(_is_system(one["key"]) for one in curves),
        table=_table(report.runs),
        has_axes=_has_axes(report.runs),
        facts=_facts,
        name=lambda view: _name(view.run),
        status=lambda view: _status(view.run),
        tags=_tags,
        note=lambda view: _tag(view.run, "mlflow.note.content"),
        metrics=_metrics,
        number_text=number_text,
        human_bytes=human_bytes,
        size=lambda view: human_bytes(sum(one.size_bytes for one in view.artifacts)),
        waterfalls=[
            (place, trace, shown(trace.steps), arranged(trace.steps))
            for place, trace in report.traces
        ],
    )


def number_text(value: float) -> str:
    """Return a number as people read it: six digits, `NaN` and `∞` by name."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return "NaN" if math.isnan(value) else f"{value:.6g}"


def value_text(value: str) -> str:
    """Return a parameter as people read it: a long fraction in six digits, its power kept."""
    if len(value) > _LONGEST_FRACTION and _FRACTION.fullmatch(value):
        return number_text(float(value))
    return value


def metric_place(key: str) -> tuple[bool, str]:
    """Return where a metric stands among others: what the machine did comes last."""
    return _is_system(key), key


def _data(report: Report, curves: Sequence[dict[str, Any]], columns: Columns) -> dict[str, Any]:
    return {
        "runs": [
            {
                "id": view.run.run_id,
                "name": _name(view.run),
                "start": _millis(view.run.started_at.ToDatetime(UTC)),
                "params": {one.key: one.value for one in view.run.params},
                "metrics": {
                    one.key: one.value for one in view.run.metrics if math.isfinite(one.value)
                },
            }
            for view in report.runs
        ],
        "curves": curves,
        "columns": columns.texts,
    }


def _table(views: Sequence[RunView]) -> list[TableColumn]:
    """The columns of the table of runs: facts, parameters by name, metrics by name."""
    runs = [view.run for view in views]
    ends = [_seconds(run) for run in runs]
    table = [
        TableColumn("", "status", [Cell(_status(run), _status(run)) for run in runs]),
        TableColumn("", "started", [Cell(_time(run), _time(run)) for run in runs]),
        TableColumn("", "took", [Cell(human_duration(one), f"{one:.3f}") for one in ends]),
        TableColumn("", "user", [Cell(_user(run) or _MISSING, _user(run)) for run in runs]),
    ]
    params = [{one.key: one.value for one in run.params} for run in runs]
    for key in sorted(set().union(*params)):
        values = [own.get(key) for own in params]
        table.append(TableColumn("param", key, [_param_cell(value) for value in values]))
    metrics = [{one.key: one.value for one in run.metrics} for run in runs]
    for key in sorted(set().union(*metrics), key=metric_place):
        numbers = [own.get(key) for own in metrics]
        table.append(TableColumn("metric", key, [_metric_cell(value) for value in numbers]))
    return table


def _param_cell(value: str | None) -> Cell:
    if value is None:
        return Cell(_MISSING)
    shown = value_text(value)
    return Cell(shown, value or " ", whole=value if shown != value else "")


def _metric_cell(value: float | None) -> Cell:
    return Cell(_MISSING) if value is None else Cell(number_text(value), repr(value))


def _metrics(view: RunView) -> Iterator[tuple[tracking_pb2.Metric, float | None, float | None]]:
    """Each metric's latest point, its least and its greatest value."""
    ends = {one.key: one for one in view.run.metric_extremes}
    for metric in sorted(view.run.metrics, key=lambda one: metric_place(one.key)):
        known = ends.get(metric.key)
        yield metric, known and known.min, known and known.max


def _facts(view: RunView) -> Iterator[tuple[str, str]]:
    run = view.run
    yield "experiment", view.experiment
    yield "run id", run.run_id
    yield "started", f"{_time(run)} UTC"
    if run.HasField("ended_at"):
        yield "ended", f"{run.ended_at.ToDatetime(UTC):%Y-%m-%d %H:%M:%S} UTC"
    yield "took", human_duration(_seconds(run))
    if user := _user(run):
        yield "user", user
    for label, key in _SOURCE:
        if value := _tag(run, key):
            yield label, value


def _tags(view: RunView) -> list[tuple[str, str]]:
    """Tags that users set; the others are facts, or MLflow's own."""
    own = ("mlflow.", "tessera.")
    return [(one.key, one.value) for one in view.run.tags if not one.key.startswith(own)]


def _has_axes(views: Sequence[RunView]) -> bool:
    """Whether parameters that differ stand against a metric."""
    columns = _table(views)
    return any(one.group == "param" and one.differs for one in columns) and any(
        math.isfinite(one.value) for view in views for one in view.run.metrics
    )


def _user(run: tracking_pb2.Run) -> str:
    return run.created_by or _tag(run, "mlflow.user")


def _tag(run: tracking_pb2.Run, key: str) -> str:
    return next((one.value for one in run.tags if one.key == key), "")


def _name(run: tracking_pb2.Run) -> str:
    return run.name or run.run_id


def _status(run: tracking_pb2.Run) -> str:
    return tracking_pb2.RunStatus.Name(run.status).removeprefix("RUN_STATUS_").lower()


def _time(run: tracking_pb2.Run) -> str:
    return f"{run.started_at.ToDatetime(UTC):%Y-%m-%d %H:%M:%S}"


def _seconds(run: tracking_pb2.Run) -> float:
    ended = run.ended_at.ToDatetime(UTC) if run.HasField("ended_at") else datetime.now(UTC)
    return max((ended - run.started_at.ToDatetime(UTC)).total_seconds(), 0.0)


def _millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_system(key: str) -> bool:
    return key.startswith("system/")
