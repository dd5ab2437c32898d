"""The page's charts, as SVG: Vega-Lite specifications, drawn by vl-convert."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import numpy as np
import pyarrow as pa
import vl_convert

from tessera.monitoring.v1 import monitor_pb2
from tessera.quickstart.lifecycle import Turn
from tessera.quickstart.plan import DRIFT_THRESHOLD, WATCHED

_PALETTE = ["#0f766e", "#d97706", "#4f46e5", "#be123c", "#0369a1", "#65a30d"]
_INK, _GRID, _SOFT = "#334155", "#e2e8f0", "#94a3b8"
_MARKED = frozenset({"alert", "canary", "promoted", "rolled back"})
_LEAST_IN_BIN = 20
_FEW_TICKS = 5
_TEXT_ROW = 13
_CONFIG = {
    "font": "Inter, Helvetica Neue, Arial, sans-serif",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "gridColor": _GRID,
        "domainColor": _GRID,
        "tickColor": _GRID,
        "labelColor": _INK,
        "titleColor": _INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {"labelColor": _INK, "labelFontSize": 12},
}

Records = list[dict[str, Any]]
Layer = dict[str, Any]


def drift(values: Sequence[monitor_pb2.MetricValue], turns: Sequence[Turn]) -> str:
    """The population stability index of the watched inputs by window, against the baseline."""
    records: Records = [
        {
            "window": value.window_start.ToDatetime(UTC).isoformat(),
            "input": value.column.replace("_", " "),
            "value": value.value,
        }
        for value in values
        if value.drift_type == "BASELINE" and value.column in WATCHED
    ]
    axis = {
        "title": "population stability index",
        "scale": {"type": "symlog", "constant": 0.5},
        "axis": {"values": [0, 0.25, 1, 2, 4, 8], "format": ".3~g"},
    }
    threshold: Layer = {
        "data": {"values": [{"value": DRIFT_THRESHOLD}]},
        "mark": {"type": "rule", "strokeDash": [5, 4], "color": "#be123c"},
        "encoding": {"y": {"field": "value", "type": "quantitative"}},
    }
    return _svg([_lines(records, "input", axis), threshold, *_marks(turns)])


def quality(values: Sequence[monitor_pb2.MetricValue], turns: Sequence[Turn]) -> str:
    """The area under the ROC curve by window and version."""
    records: Records = [
        {
            "window": value.window_start.ToDatetime(UTC).isoformat(),
            "version": f"version {value.slice_value}",
            "value": value.value,
        }
        for value in values
        if math.isfinite(value.value)
    ]
    axis = {"title": "area under the ROC curve", "scale": {"zero": False, "nice": True}}
    return _svg([_lines(records, "version", axis), *_marks(turns)])


def reliability(rows: pa.Table) -> str:
    """Observed shares of late flights against predicted probabilities, by version."""
    points: Layer = {
        "data": {"values": _reliability(rows)},
        "mark": {"type": "line", "point": {"size": 46, "filled": True}},
        "encoding": {
            "x": {
                "field": "predicted",
                "type": "quantitative",
                "title": "predicted",
                "axis": {"format": "%", "tickCount": _FEW_TICKS},
            },
            "y": {
                "field": "observed",
                "type": "quantitative",
                "title": "observed",
                "axis": {"format": "%"},
            },
            "color": _color("version"),
        },
    }
    perfect: Layer = {
        "data": {"values": [{"share": 0.0}, {"share": 0.7}]},
        "mark": {"type": "line", "strokeDash": [4, 4], "color": _SOFT},
        "encoding": {
            "x": {"field": "share", "type": "quantitative"},
            "y": {"field": "share", "type": "quantitative"},
        },
    }
    return _svg([perfect, points], width=360, height=250)


def phases(seconds: Mapping[str, float]) -> str:
    """Seconds by phase, in the order in which they ran."""
    records = [{"phase": name, "seconds": round(value, 1)} for name, value in seconds.items()]
    bars: Layer = {
        "mark": {"type": "bar", "color": _PALETTE[0], "cornerRadiusEnd": 3, "height": 13}
    }
    texts: Layer = {
        "mark": {"type": "text", "align": "left", "dx": 5, "color": _INK},
        "encoding": {"text": {"field": "seconds", "type": "quantitative"}},
    }
    layers: Layer = {
        "data": {"values": records},
        "encoding": {
            "y": {"field": "phase", "type": "nominal", "sort": list(seconds), "title": None},
            "x": {
                "field": "seconds",
                "type": "quantitative",
                "title": "seconds",
                "axis": {"tickCount": _FEW_TICKS},
            },
        },
        "layer": [bars, texts],
    }
    return _svg([layers], width=360, height=24 * max(len(records), 1))


def _reliability(rows: pa.Table) -> Records:
    """Mean prediction and observed share, in tenths of the probabilities."""
    scores, labels = rows["probability"].to_numpy(), rows["delayed"].to_numpy()
    versions = rows["model_version"].to_numpy()
    known = np.isfinite(scores) & np.isfinite(labels) & (versions > 0)
    records: Records = []
    for version in np.unique(versions[known]):
        chosen = known & (versions == version)
        tenths = np.minimum((scores[chosen] * 10).astype(int), 9)
        records += [
            {
                "version": f"version {version}",
                "predicted": float(scores[chosen][tenths == tenth].mean()),
                "observed": float(labels[chosen][tenths == tenth].mean()),
            }
            for tenth in np.unique(tenths)
            if (tenths == tenth).sum() >= _LEAST_IN_BIN
        ]
    return records


def _lines(records: Records, series: str, vertical: Mapping[str, Any]) -> Layer:
    return {
        "data": {"values": records},
        "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 34, "filled": True}},
        "encoding": {
            "x": {
                "field": "window",
                "type": "temporal",
                "title": None,
                "axis": {"format": "%b", "tickCount": "month"},
            },
            "y": {"field": "value", "type": "quantitative", **vertical},
            "color": _color(series),
        },
    }


def _marks(turns: Sequence[Turn]) -> list[Layer]:
    """Upright lines where the year took a turn, named above the chart in rows."""
    marked = [turn for turn in turns if turn.kind in _MARKED]
    seen: dict[str, int] = {}
    records: Records = []
    for turn in marked:
        day = turn.at.astimezone(UTC).isoformat()
        seen[day] = seen.get(day, -1) + 1
        records.append({"window": day, "turn": turn.kind, "row": seen[day]})
    place = {"x": {"field": "window", "type": "temporal"}}
    rules: Layer = {
        "data": {"values": records},
        "mark": {"type": "rule", "color": _SOFT, "strokeDash": [2, 3]},
        "encoding": place,
    }
    texts: list[Layer] = [
        {
            "data": {"values": [record for record in records if record["row"] == row]},
            "mark": {
                "type": "text",
                "align": "left",
                "dx": 4,
                "y": -8 - _TEXT_ROW * (max(seen.values()) - row),
                "color": "#64748b",
            },
            "encoding": {**place, "text": {"field": "turn"}},
        }
        for row in sorted({record["row"] for record in records})
    ]
    return [rules, *texts]


def _color(series: str) -> Layer:
    return {
        "field": series,
        "type": "nominal",
        "scale": {"range": _PALETTE},
        "legend": {"title": None, "orient": "bottom", "symbolType": "stroke", "columnPadding": 24},
    }


def _svg(layers: Sequence[Layer], width: int = 860, height: int = 230) -> str:
    specification = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": width,
        "height": height,
        "config": _CONFIG,
        "layer": list(layers),
    }
    return str(vl_convert.vegalite_to_svg(specification))
